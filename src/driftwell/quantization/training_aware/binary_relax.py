"""BinaryRelax: weights drawn toward the quantized set, ever more strongly, then put there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.formats import Format, Quantized
from driftwell.quantization.training_aware.quantized_weights import WeightQuantizer, seen_weights
from driftwell.quantization.training_aware.straight_through import IdentitySTE, through

__all__ = ["Relaxation", "Relaxed"]

BINARY_RELAX = Paper(
    key="yin2018binaryrelax",
    title="BinaryRelax: A Relaxation Approach for Training Deep Neural Networks with Quantized "
    "Weights",
    authors="Yin, Penghang and Zhang, Shuai and Lyu, Jiancheng and Osher, Stanley "
    "and Qi, Yingyong and Xin, Jack",
    year=2018,
    arxiv="1801.06313",
    venue="SIAM Journal on Imaging Sciences",
)


@final
class Relaxed(WeightQuantizer):
    """A weight between its float value and its quantized one, from Yin, Zhang, Lyu, Osher, Qi and
    Xin, *BinaryRelax*, 2018, arXiv:1801.06313.

        u = (w + lam Q(w)) / (1 + lam) = argmin_u |u - w|^2 / 2 + lam / 2 dist(u, quantized set)^2

    forward and backward at u, so that a gradient step is w <- w - lr grad f(u). In `eval()`, and
    where lam is infinite, u is Q(w): a relaxed weight is never what is evaluated.

    Args:
        format: of the weight.
        strength: lam >= 0; infinity is the hard phase.

    Raises:
        InvalidInput: a negative strength.

    Example:
        >>> from driftwell.quantization.formats import Binary
        >>> w = torch.tensor([[-1.0, 0.5, 3.0]])
        >>> Relaxed(Binary(), 1.0)(w), Relaxed(Binary(), 1.0).eval()(w)
        (tensor([[-1.2500,  1.0000,  2.2500]]), tensor([[-1.5000,  1.5000,  1.5000]]))
    """

    papers = (BINARY_RELAX,)
    pull: Tensor

    def __init__(self, format: Format, strength: float = 1.0) -> None:
        super().__init__()
        self.format = format
        # lam / (1 + lam) is finite where lam is not; a buffer, so that training can go on
        self.register_buffer("pull", torch.tensor(_pull(strength), dtype=torch.float64))

    @property
    def strength(self) -> float:
        """lam; infinity in the hard phase."""
        pull = float(self.pull)
        return pull / (1 - pull) if pull < 1 else math.inf

    @strength.setter
    def strength(self, strength: float) -> None:
        self.pull.fill_(_pull(strength))

    def forward(self, w: Tensor) -> Tensor:
        """u in training, Q(w) in evaluation."""
        rounded = self.format.fake(w)
        if self.training:
            rounded = torch.lerp(w.detach(), rounded, self.pull.to(w.dtype))
        return through(rounded, w, IdentitySTE())

    def quantized(self, w: Tensor) -> Quantized:
        """w in the format."""
        return self.format.encode(w)

    def extra_repr(self) -> str:
        """Format and strength."""
        return f"{self.format}, strength={self.strength:.4g}"


@final
@dataclass(frozen=True)
class Relaxation:
    """The schedule of lam, from Yin et al., *BinaryRelax*, 2018, arXiv:1801.06313.

        lam(t) = start (final / start)^(t / (soft - 1)) for t < soft,   infinity from then on

    The paper multiplies lam with 1.02 to 1.05 an epoch; here the value that it reaches is given
    instead, which does not depend on how many steps there are.

    Args:
        soft: steps of the relaxed phase, >= 1.
        final: lam at its last step; at 50 or more the switch is hardly felt.
        start: lam at its first step.

    Raises:
        InvalidInput: a setting that cannot be.

    Example:
        >>> schedule = Relaxation(soft=3, final=100.0)
        >>> [schedule.strength(t) for t in range(4)]
        [1.0, 10.0, 100.0, inf]
    """

    papers = (BINARY_RELAX,)

    soft: int
    final: float = 100.0
    start: float = 1.0

    def __post_init__(self) -> None:
        if self.soft < 1 or not 0.0 < self.start <= self.final < math.inf:
            raise InvalidInput(
                "a relaxation has soft >= 1 steps and 0 < start <= final, got "
                f"{self.soft}, {self.start} and {self.final}"
            )

    def strength(self, step: int) -> float:
        """lam at `step`, counted from 0."""
        if step >= self.soft:
            return math.inf
        share = step / (self.soft - 1) if self.soft > 1 else 1.0
        return float(self.start * (self.final / self.start) ** share)

    def apply(self, model: nn.Module, step: int) -> float:
        """Set the strength of all relaxed weights of a model; call it before each step.

        Returns:
            The strength.

        Raises:
            InvalidInput: no weight of the model is relaxed.
        """
        relaxed = [s.quantizer for s in seen_weights(model) if isinstance(s.quantizer, Relaxed)]
        if not relaxed:
            raise InvalidInput(
                "no weight of this model is relaxed: make it with "
                "quantization_aware(model, lambda w: Relaxed(format))"
            )
        strength = self.strength(step)
        for quantizer in relaxed:
            quantizer.strength = strength
        return strength


def _pull(strength: float) -> float:
    if not strength >= 0.0:
        raise InvalidInput(f"the strength of a relaxation must not be negative, got {strength}")
    return 1.0 if strength == math.inf else strength / (1.0 + strength)
