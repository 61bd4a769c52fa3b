"""Which samples a device sends away to be learned from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

CEMA = Paper(
    "chen2024cema",
    "Towards Robust and Efficient Cloud-Edge Elastic Model Adaptation via Selective Entropy "
    "Distillation",
    "Chen, Yaofo and Niu, Shuaicheng and Wang, Yaowei and Xu, Shoukai and Song, Hengjie and "
    "Tan, Mingkui",
    2024,
    arxiv="2402.17316",
)


@final
@dataclass(frozen=True)
class FilterState:
    """What a `SampleFilter` carries from batch to batch.

    Attributes:
        seen: samples so far.
        kept: of them uploaded.
        entropy: running mean of the entropy, nats; 0 before the first batch.
        first: its value after the first batch.
        mean: running mean of the kept predictions (C,), or None before the first.
    """

    seen: int = 0
    kept: int = 0
    entropy: float = 0.0
    first: float = 0.0
    mean: Tensor | None = None


@final
@dataclass(frozen=True)
class SampleFilter:
    """Which samples are worth sending, from Chen et al., *Towards Robust and Efficient Cloud-Edge
    Elastic Model Adaptation*, 2024, arXiv:2402.17316.

    A sample with predicted probabilities p and entropy H is kept if it is neither settled nor
    hopeless, and unlike what was sent already:

        low ln C < H < high ln C (H_t / H_1),     |cos(p, m)| < likeness

    H_t is the running mean of the entropy, H_1 its first value, so that the upper bound falls as
    the model adapts; m is the running mean of the kept predictions.

    The paper's likeness of .05 is for 1000 classes: probabilities are not negative, so with few
    classes any two are alike, and about .5 serves ten.

    Args:
        low: lower bound of the entropy, as a share of ln C.
        high: upper bound.
        likeness: largest cosine with the mean of what was sent.
        memory: of the running means, in [0, 1).

    Raises:
        InvalidInput: bounds out of order or a memory outside [0, 1).

    Example:
        >>> keep, state = SampleFilter().select(torch.tensor([[0.5, 0.5], [0.8, 0.2]]))
        >>> keep.tolist(), state.seen
        ([False, False], 2)
    """

    papers = (CEMA,)

    low: float = 0.02
    high: float = 0.4
    likeness: float = 0.5
    memory: float = 0.9

    def __post_init__(self) -> None:
        """Raise on settings that cannot be."""
        if not 0.0 <= self.low < self.high <= 1.0:
            raise InvalidInput(
                f"entropies are kept between shares 0 <= low < high <= 1 of ln C, not {self.low} "
                f"and {self.high}"
            )
        if not 0.0 <= self.memory < 1.0 or not 0.0 < self.likeness:
            raise InvalidInput(
                f"memory lies in [0, 1) and likeness is positive, got {self.memory} and "
                f"{self.likeness}"
            )

    def select(
        self, probabilities: Tensor, state: FilterState = FilterState()
    ) -> tuple[Tensor, FilterState]:
        """Which of a batch to send.

        Args:
            probabilities: of the classes, (B, C).
            state: from the batches before.

        Returns:
            bool (B,), and the state to hand on.

        Raises:
            InvalidInput: no batch of probabilities.
        """
        p = probabilities.detach()
        if p.ndim != 2 or p.shape[1] < 2 or not bool(((p >= 0) & (p <= 1)).all()):
            raise InvalidInput(
                f"probabilities of a batch are (B, C) in [0, 1], not {tuple(p.shape)}"
            )
        if len(p) == 0:
            return torch.zeros(0, dtype=torch.bool, device=p.device), state
        entropy = entropy_of(p)
        now = float(entropy.mean())
        running = now if state.seen == 0 else _mixed(state.entropy, now, self.memory)
        first = now if state.seen == 0 else state.first
        scale = math.log(p.shape[1])
        falling = min(1.0, running / first) if first > 0.0 else 1.0
        keep = (entropy > self.low * scale) & (entropy < self.high * scale * falling)
        mean = state.mean
        if mean is not None:
            keep &= nn.functional.cosine_similarity(p, mean[None], dim=1).abs() < self.likeness
        if bool(keep.any()):
            new = p[keep].mean(dim=0)
            mean = new if mean is None else self.memory * mean + (1.0 - self.memory) * new
        return keep, FilterState(
            state.seen + len(p), state.kept + int(keep.sum()), running, first, mean
        )


def entropy_of(probabilities: Tensor) -> Tensor:
    """Entropy of each row, nats, (B,).

    Example:
        >>> entropy_of(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).round(decimals=3).tolist()
        [0.6930000185966492, 0.0]
    """
    return (probabilities * -probabilities.clamp(min=1e-12).log()).sum(dim=1)


def _mixed(before: float, now: float, memory: float) -> float:
    return memory * before + (1.0 - memory) * now
