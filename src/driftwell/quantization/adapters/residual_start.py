"""Where adapters of a quantized network start: at what quantization lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.adapters.adapter import Adapter, is_linear, plain_weight
from driftwell.quantization.adapters.calibrated import CLOQ, LOFTQ


@final
@dataclass(frozen=True, eq=False)
class ResidualStart:
    """Start of adapters at what quantization lost, W - Q, layer by layer: CLoQ from Deng et al.,
    *CLoQ: Enhancing Fine-Tuning of Quantized LLMs via Calibrated LoRA Initialization*, 2025,
    arXiv:2501.18475, and without Gram matrices LoftQ (arXiv:2310.08659).

    With Gram matrices X^T X of the layers' inputs it is the update nearest in the layers' outputs,
    otherwise the one nearest in the weights. Low-rank and block-diagonal adapters have a closed
    form for both, Kronecker adapters for the second.

    Args:
        reference: the model before quantization, with layers of the same names.
        grams: Gram matrix (in, in) of each adapted layer by name, or None.
        damp: relative damping of the Gram matrices, at least 0.

    Raises:
        InvalidInput: a negative damping.

    Example:
        >>> from torch import nn
        >>> reference = nn.Sequential(nn.Linear(4, 3))
        >>> ResidualStart(reference).grams is None
        True
    """

    papers = (CLOQ, LOFTQ)

    reference: nn.Module
    grams: Mapping[str, Tensor] | None = None
    damp: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.damp < float("inf"):
            raise InvalidInput(f"damp must be finite and not negative, got {self.damp}")

    def put(self, name: str, adapter: Adapter) -> None:
        """Start `adapter`, of the layer `name`.

        Raises:
            InvalidInput: the reference or the Gram matrices lack that layer, or its shape differs.
        """
        layers = dict(self.reference.named_modules())
        if name not in layers or not is_linear(layers[name]):
            raise InvalidInput(f"the reference model has no linear layer named {name!r}")
        if self.grams is not None and name not in self.grams:
            raise InvalidInput(
                f"no Gram matrix for layer {name!r}; there are {', '.join(self.grams) or 'none'}"
            )
        before, now = plain_weight(layers[name]), plain_weight(adapter.base)
        if before.shape != now.shape:
            raise InvalidInput(
                f"layer {name!r} is {tuple(before.shape)} in the reference and "
                f"{tuple(now.shape)} in the model"
            )
        gram = None if self.grams is None else self.grams[name]
        adapter.start_from(before.to(now) - now, gram, self.damp)
