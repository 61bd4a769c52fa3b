"""Calibration of networks of (x, t): which times of the reverse process they are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.core.papers import Paper
from driftwell.quantization.post_training.calibration import Calibration, Inputs

PTQ4DM = Paper(
    key="shang2023ptq4dm",
    title="Post-training Quantization on Diffusion Models",
    authors="Shang, Yuzhang and Yuan, Zhihang and Xie, Bin and Wu, Bingzhe and Yan, Yan",
    year=2023,
    arxiv="2211.15736",
    venue="CVPR 2023",
)

Reverse: TypeAlias = Callable[[nn.Module, Tensor], Iterator[tuple[Tensor, ...]]]


@final
@dataclass(frozen=True, eq=False)
class DiffusionTimes(Calibration):
    """Normally distributed time-step calibration, from Shang et al., *Post-training Quantization
    on Diffusion Models*, 2023, arXiv:2211.15736.

        k_i = clamp(round(N(mean, std^2) T), 0, T - 1),   kept: what the network sees in step k_i

    Steps are counted in the order of sampling: k = 0 sees pure noise. One reverse pass of the
    float network is made from all noises at once, and sample i is kept at its own step k_i.

    Args:
        reverse: the sampler: `reverse(model, noise)` yields, step by step, the arguments (x, t,
            ...) that the network is called with, batch first, and goes on when asked for the next.
        noise: starts x_T, (N, ...).
        steps: T, how often `reverse` yields.
        mean: of k / T.
        std: of k / T; 0 shows one step only.
        batch: samples shown at once.
        seed: of the times.

    Raises:
        InvalidInput: counts below 1, a negative std, or a reverse process of fewer steps.

    Example:
        >>> def reverse(model, x):
        ...     for k in range(10):
        ...         t = torch.full((len(x),), 1 - k / 10)
        ...         yield x, t
        ...         x = x - 0.1 * model(x, t)
        >>> net = nn.Bilinear(2, 1, 2)
        >>> times = DiffusionTimes(lambda m, x: reverse(lambda x, t: m(x, t[:, None]), x),
        ...                        torch.randn(64, 2), steps=10)
        >>> [x.shape for x, t in times.prepared(net).batches]
        [torch.Size([64, 2])]
    """

    reverse: Reverse
    noise: Tensor
    steps: int
    mean: float = 0.4
    std: float = 0.4
    batch: int = 256
    seed: int = 0

    papers = (PTQ4DM,)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not len(self.noise):
            raise InvalidInput(
                "DiffusionTimes needs at least one step, one sample and batch >= 1, got "
                f"steps={self.steps}, {len(self.noise)} samples, batch={self.batch}"
            )
        if not 0.0 <= self.std < float("inf") or not abs(self.mean) < float("inf"):
            raise InvalidInput(f"mean and std >= 0 must be finite, got {self.mean}, {self.std}")

    @classmethod
    def noise_only(cls, reverse: Reverse, noise: Tensor, steps: int) -> Self:
        """Step 0 of every sample: inputs of pure noise, which the paper finds worse."""
        return cls(reverse, noise, steps, mean=0.0, std=0.0)

    @classmethod
    def single_time(cls, reverse: Reverse, noise: Tensor, steps: int, at: float) -> Self:
        """One step, `at` of the way, of every sample."""
        return cls(reverse, noise, steps, mean=at, std=0.0)

    def times(self) -> Tensor:
        """k_i, (N,) int64."""
        count = len(self.noise)
        drawn = normal(
            (count,), seed=self.seed, purpose=Purpose.DATA, chains=count, step=0,
            dtype=torch.float64, device=self.noise.device,
        )  # fmt: skip
        k = torch.round((self.mean + self.std * drawn) * self.steps)
        return k.clamp(0, self.steps - 1).to(torch.int64)

    @torch.no_grad()
    def prepared(self, model: nn.Module) -> Inputs:
        """The states of the float network's own reverse pass, each at its time."""
        k, made = self.times(), 0
        kept: list[Tensor] | None = None
        for step, arguments in enumerate(self.reverse(model, self.noise)):
            now = k == step
            if kept is None:
                kept = [torch.empty_like(argument) for argument in arguments]
            for place, argument in zip(kept, arguments, strict=True):
                place[now] = argument[now]
            made = step + 1
            if made > int(k.max()):
                break
        if kept is None or made <= int(k.max()):
            raise InvalidInput(
                f"the reverse process yielded {made} steps and not the {self.steps} of steps="
            )
        return Inputs(list(zip(*(part.split(self.batch) for part in kept), strict=True)))

    def run(self, model: nn.Module) -> None:
        """Run on the states of this model's own reverse pass."""
        self.prepared(model).run(model)


@final
@dataclass(frozen=True, eq=False)
class ForwardDiffused(Calibration):
    """Data that were diffused forwards to uniform times: the usual choice, which Shang et al.
    (2023, arXiv:2211.15736) find worse than states of the reverse process.

    Args:
        diffuse: (x_0, noise, u) -> arguments of the network; u (N,) is uniform in [0, 1).
        data: x_0, (N, ...).
        batch: samples shown at once.
        seed: of noise and times.

    Example:
        >>> def diffuse(x, noise, u):
        ...     return (1 - u[:, None]) * x + u[:, None] * noise, u
        >>> shown = ForwardDiffused(diffuse, torch.zeros(8, 2)).prepared(nn.Identity())
        >>> shown.batches[0][0].shape
        torch.Size([8, 2])
    """

    diffuse: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
    data: Tensor
    batch: int = 256
    seed: int = 0

    papers = (PTQ4DM,)

    def prepared(self, model: nn.Module) -> Inputs:
        """The diffused data."""
        count = len(self.data)
        key: dict[str, Any] = {
            "seed": self.seed, "purpose": Purpose.DATA, "chains": count,
            "device": self.data.device, "dtype": self.data.dtype,
        }  # fmt: skip
        noise = normal(tuple(self.data.shape), step=0, **key)
        u = uniform((count,), step=1, **key)
        shown = self.diffuse(self.data, noise, u)
        return Inputs(list(zip(*(part.split(self.batch) for part in shown), strict=True)))

    def run(self, model: nn.Module) -> None:
        """Run on the diffused data."""
        self.prepared(model).run(model)
