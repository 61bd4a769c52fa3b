"""What every adapter is: a frozen layer plus a small trained update, and its description."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from driftwell.core.errors import InvalidInput


class Adapter(nn.Module, ABC):
    """A frozen linear layer with a trained update: y = base(x) + update(x).

    The update is linear in x, update(x) = x dW^T, and starts at zero. `base` is an `nn.Linear`, a
    `QuantizedLinear`, or anything with `in_features`, `out_features`, a `weight` (out, in) and a
    forward of (..., in) -> (..., out); its parameters stop training.

    Args:
        base: the layer to be adapted.

    Raises:
        InvalidInput: a base that is not a linear layer.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        if not is_linear(base):
            raise InvalidInput(
                f"an adapter wraps a linear layer with in_features, out_features and a weight, "
                f"got {type(base).__name__}"
            )
        self.base = base.requires_grad_(False)

    @property
    def in_features(self) -> int:
        """Inputs of the layer."""
        return int(self.base.in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        """Outputs of the layer."""
        return int(self.base.out_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., out) of inputs (..., in)."""
        value: Tensor = self.base(x) + self.update(x)
        return value

    @abstractmethod
    def update(self, x: Tensor) -> Tensor:
        """What the adapter adds, (..., out), without forming dW."""

    @abstractmethod
    def delta(self) -> Tensor:
        """The update as a matrix dW (out, in)."""

    @abstractmethod
    def start_from(self, target: Tensor, gram: Tensor | None, damp: float) -> None:
        """Set the update to the one nearest to `target` (out, in).

        Nearest in ||X (dW - target)^T||_F if the Gram matrix X^T X (in, in) is given, in the
        Frobenius norm otherwise.

        Raises:
            InvalidInput: no closed form exists for this adapter.
        """

    @property
    def parameter_count(self) -> int:
        """Numbers that train."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def merged_weight(self) -> Tensor:
        """Weight of the layer with its update, (out, in)."""
        plain = plain_weight(self.base)
        return plain + self.delta().detach().to(plain.dtype)


@dataclass(frozen=True)
class AdapterDescription(ABC):
    """How a layer is to be adapted: a value that `adapt` turns into one `Adapter` a layer."""

    @abstractmethod
    def attach(self, layer: nn.Module, index: int = 0) -> Adapter:
        """The adapter of `layer`; `index` numbers the layers, so that no two share their noise."""

    @abstractmethod
    def count(self, in_features: int, out_features: int) -> int:
        """Numbers that train in a layer of that size: compare budgets before building."""


def is_linear(layer: Any) -> bool:
    """Whether an adapter can wrap `layer`.

    Subclasses of `nn.Linear` from torch are refused: their owners read the weight and never call
    forward (`nn.MultiheadAttention.out_proj`), so that an update would be ignored in silence.
    """
    if isinstance(layer, Adapter) or not isinstance(layer, nn.Module):
        return False
    linear = all(hasattr(layer, name) for name in ("in_features", "out_features", "weight"))
    hidden = type(layer) is not nn.Linear and type(layer).__module__.startswith("torch.nn.modules")
    return linear and not hidden


def plain_weight(layer: nn.Module) -> Tensor:
    """Weight of a layer (out, in), detached; a packed one is decoded."""
    held: Any = layer
    weight: Tensor = held.weight.detach()
    return weight


def check_count(name: str, value: object, at_least: int = 1) -> None:
    """Refuse a setting that is not an integer of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InvalidInput(f"{name} must be an integer of at least {at_least}, got {value!r}")


def check_alpha(name: str, value: float) -> None:
    """Refuse a scaling numerator that is not positive and finite."""
    if not 0.0 < value < float("inf"):
        raise InvalidInput(f"{name} must be positive and finite, got {value}")
