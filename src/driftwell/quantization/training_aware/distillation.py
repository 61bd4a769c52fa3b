"""A quantized student learns from its float teacher: outputs, maps on the way, maybe labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.feature_affinity import FAQD, feature_affinity_loss

__all__ = ["AffinityDistillation", "faqd_loss"]


@final
@dataclass(frozen=True)
class AffinityDistillation:
    """The weights and kinds of the three parts of a student's loss, from Li et al., *Feature
    Affinity Assisted Knowledge Distillation and Quantization of Deep Neural Networks on Label-Free
    Data*, 2023, arXiv:2302.10899.

        L = outputs * KD + affinity * sum over maps of FA + labels * CE

    KD is the mean square of the logits' difference, or T^2 KL(teacher | student) of the softmaxes
    at temperature T. Without labels the last part is left out.

    Args:
        outputs: weight of KD.
        affinity: weight of the feature affinity loss of each map.
        labels: weight of the cross-entropy, where labels are given.
        temperature: T of the KL; None for the mean square.
        order: of the affinity loss, 1 or 2.
        fast_dim: its number of random vectors; None for the exact loss.
        seed: of those vectors.

    Raises:
        InvalidInput: a negative weight or a temperature that is not positive.

    Example:
        >>> AffinityDistillation(labels=0.0, fast_dim=15, seed=0).affinity
        0.1
    """

    papers = (FAQD,)

    outputs: float = 1.0
    affinity: float = 0.1
    labels: float = 0.3
    temperature: float | None = None
    order: Literal[1, 2] = 1
    fast_dim: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("outputs", "affinity", "labels"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidInput(f"the weight {name} must not be negative, got {self}")
        if self.temperature is not None and not 0.0 < self.temperature < math.inf:
            raise InvalidInput(f"a temperature is a positive number, got {self.temperature}")

    def output_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KD of logits (B, K)."""
        teacher = teacher.detach()
        if self.temperature is None:
            return F.mse_loss(student, teacher)
        mine, theirs = ((z / self.temperature).log_softmax(1) for z in (student, teacher))
        kl = F.kl_div(mine, theirs, reduction="batchmean", log_target=True)
        return self.temperature**2 * kl

    def map_loss(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], step: int = 0
    ) -> Tensor:
        """Sum of the affinity losses of pairs of maps."""
        if len(student) != len(teacher) or not student:
            raise InvalidInput(
                f"{len(student)} maps of the student and {len(teacher)} of the teacher "
                "make no pairs"
            )
        losses = [
            feature_affinity_loss(
                s, t, order=self.order, fast_dim=self.fast_dim, seed=self.seed,
                step=step * len(student) + i,
            )
            for i, (s, t) in enumerate(zip(student, teacher, strict=True))
        ]  # fmt: skip
        return torch.stack(losses).sum()


def faqd_loss(
    student: nn.Module,
    teacher: nn.Module,
    x: Tensor,
    layers: Sequence[str] | Mapping[str, str],
    labels: Tensor | None = None,
    *,
    objective: AffinityDistillation = AffinityDistillation(),
    step: int = 0,
) -> Tensor:
    """Loss of a (quantized) student beside its teacher on one batch, from Li et al., 2023,
    arXiv:2302.10899.

    Args:
        student: in training; a layer of `layers` that runs several times gives several maps.
        teacher: in `eval()`; runs without gradient.
        x: what both take, (B, ...).
        layers: names of layers whose outputs are the maps; a dictionary where the teacher's
            layer has another name than the student's.
        labels: classes (B,), or None to learn from the teacher alone.
        objective: the parts of the loss.
        step: number of the update, for the random vectors of a fast loss.

    Raises:
        InvalidInput: a teacher in training mode, an unknown layer, or maps without partners.

    Example:
        >>> nets = [nn.Sequential(nn.Conv2d(1, c, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        ...         for c in (2, 4)]
        >>> x = torch.rand(5, 1, 6, 6)
        >>> loss = faqd_loss(nets[0], nets[1].eval(), x, ["1"])
        >>> loss.backward()
    """
    if teacher.training:
        raise InvalidInput("the teacher is in training mode: call teacher.eval() first")
    pairs = dict(layers) if isinstance(layers, Mapping) else {name: name for name in layers}
    with _maps(student, list(pairs)) as mine:
        logits = student(x)
    with torch.no_grad(), _maps(teacher, list(pairs.values())) as theirs:
        target = teacher(x)
    loss = objective.outputs * objective.output_loss(logits, target)
    if objective.affinity > 0:
        loss = loss + objective.affinity * objective.map_loss(mine, theirs, step)
    if labels is not None:
        loss = loss + objective.labels * F.cross_entropy(logits, labels)
    return loss


@contextmanager
def _maps(model: nn.Module, names: Sequence[str]) -> Iterator[list[Tensor]]:
    """The outputs of the layers of these names, in the order of the names."""
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            there = ", ".join(repr(each) for each in known if each)
            raise InvalidInput(f"no layer is named {name!r}: there is {there}")
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    found: list[Tensor] = []

    def watch(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise InvalidInput(f"layer {name!r} returns {type(output).__name__}, which is no map")
        seen[name].append(output)

    hooks = [known[name].register_forward_hook(partial(watch, name)) for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        found.extend(each for outputs in seen.values() for each in outputs)
