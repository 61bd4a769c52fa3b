"""Does a coarse gradient point downhill? Two diagnostics of straight-through training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from driftwell.core.errors import InvalidInput

__all__ = ["DescentTest", "coarse_gradient_alignment", "descent_test"]

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


def coarse_gradient_alignment(coarse: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """The cosine between a coarse gradient and a reference, such as the gradient of the
    population loss, the test of Yin et al., *Understanding Straight-Through Estimator in Training
    Activation Quantized Neural Nets*, 2019, arXiv:1903.05662.

        cos = <g, r> / (|g| |r|),     inner products over all tensors together

    Args:
        coarse: the tensors of g, as `torch.autograd.grad` returns them.
        reference: those of r, of the same shapes.

    Returns:
        A scalar in [-1, 1], float64 (float32 where the device has no other); 0 where g or r is 0.

    Raises:
        InvalidInput: no tensors, or shapes that differ.

    Example:
        >>> g = [torch.tensor([1.0, 0.0]), torch.tensor([1.0])]
        >>> r = [torch.tensor([2.0, 0.0]), torch.tensor([2.0])]
        >>> round(float(coarse_gradient_alignment(g, r)), 6)
        1.0
    """
    shapes = [[tuple(each.shape) for each in side] for side in (coarse, reference)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise InvalidInput(
            "the coarse gradient and its reference must be tensors of the same shapes, got "
            f"{shapes[0]} and {shapes[1]}"
        )
    g, r = (torch.cat([_wide(each).flatten() for each in side]) for side in (coarse, reference))
    # the largest entry first: products of tiny gradients would vanish
    g, r = (each / each.abs().max().clamp(min=torch.finfo(each.dtype).tiny) for each in (g, r))
    return torch.nn.functional.cosine_similarity(g, r, dim=0, eps=torch.finfo(g.dtype).tiny)


@final
@dataclass(frozen=True)
class DescentTest:
    """What `descent_test` found.

    Attributes:
        decrease: mean over batches of L(before) - L(after), in the loss's own units.
        standard_error: of that mean.
        batches: how many entered the mean.
        flat: batches whose coarse gradient was zero; they count as a decrease of 0.

    Example:
        >>> DescentTest(decrease=0.3, standard_error=0.1, batches=8, flat=0).descends
        True
    """

    decrease: float
    standard_error: float
    batches: int
    flat: int

    @property
    def descends(self) -> bool:
        """Whether the decrease is more than two standard errors above 0."""
        return self.decrease > 2.0 * self.standard_error


def descent_test(
    model: nn.Module, loss: Loss, batches: Sequence[Batch], *, step: float = 0.01
) -> DescentTest:
    """Whether a small step along the coarse gradient lowers the loss on data it has not seen, the
    empirical form of the descent property in Yin et al., 2019, arXiv:1903.05662.

    With g_i the coarse gradient on batch i, w' = w - step |w| g_i / |g_i|, and batch j = i + 1
    (the last one's is the first):

        decrease_i = L_j(w) - L_j(w')

    A quantized network's loss on one batch is piecewise constant, so only the mean over batches
    says something, and a step that is too small changes nothing. The model is left as it was.

    Args:
        model: maps a batch's inputs to outputs; its trainable parameters are w.
        loss: (outputs, targets) -> scalar.
        batches: pairs (inputs, targets), at least two.
        step: length of the step relative to |w|.

    Raises:
        InvalidInput: fewer than two batches, a step that is not positive, nothing to train.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> data = [(torch.eye(2), torch.tensor([[5.0], [9.0]]))] * 2
        >>> descent_test(model, nn.functional.mse_loss, data).descends
        True
    """
    if len(batches) < 2:
        raise InvalidInput(f"a descent test needs at least two batches, got {len(batches)}")
    if not 0.0 < step < math.inf:
        raise InvalidInput(f"descent_test(step=...) must be a positive number, got {step}")
    weights = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    if not weights:
        raise InvalidInput("the model has no parameter that requires a gradient")
    found: list[Tensor | None] = []
    for i, batch in enumerate(batches):
        moved = _moved(model, loss, weights, batch, step)
        if moved is None:
            found.append(None)
            continue
        unseen = batches[(i + 1) % len(batches)]
        with torch.no_grad():
            found.append(_loss(model, loss, weights, unseen) - _loss(model, loss, moved, unseen))
    decrease = torch.stack([torch.zeros(()) if d is None else d.double().cpu() for d in found])
    return DescentTest(
        float(decrease.mean()),
        float(decrease.std() / math.sqrt(len(found))),
        len(found),
        sum(d is None for d in found),
    )


def _moved(
    model: nn.Module, loss: Loss, weights: Mapping[str, Tensor], batch: Batch, step: float
) -> dict[str, Tensor] | None:
    """The weights after a step along the coarse gradient; None where that is zero."""
    with torch.enable_grad():
        free = {k: w.clone().requires_grad_() for k, w in weights.items()}
        value = _loss(model, loss, free, batch)
        grads = torch.autograd.grad(value, list(free.values()), materialize_grads=True)
    length = _norm(grads)
    if not float(length) > 0.0:
        return None
    scale = step * _norm(list(weights.values())) / length
    return {k: w - scale.to(w.dtype) * g for (k, w), g in zip(weights.items(), grads, strict=True)}


def _loss(model: nn.Module, loss: Loss, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
    inputs, targets = batch
    outputs: Any = functional_call(model, dict(weights), (inputs,))
    return loss(outputs, targets)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(_wide(t)) for t in tensors])
    )
    return length


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.device.type == "mps" else x.double()
