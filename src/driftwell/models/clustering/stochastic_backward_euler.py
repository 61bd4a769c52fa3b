"""k-means by stochastic backward Euler steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.learning.optimizers.backward_euler import YIN_BACKWARD_EULER
from driftwell.models.clustering.kmeans import kmeans_force


@final
@dataclass(frozen=True)
class StochasticBackwardEulerKMeans:
    """k-means by implicit steps that look past local minima, from Yin, Pham, Oberman and Osher,
    *Stochastic Backward Euler: an implicit gradient descent algorithm for k-means clustering*,
    2017, arXiv:1710.07746.

        x+ = x - step_size grad phi(x+),   phi(x) = 1/(2N) sum_i min_j |p_i - x_j|^2
        y <- x - step_size grad phi_B(y),  m <- average m + (1 - average) y,  x+ = m

    with a new minibatch B at each of the `inner` steps, from y = m = x. While assignments stay,
    a component contracts if step_size n_j / N < 1; a step size of the order of K lets y jump
    between basins, and the average smooths the energy they see. With full batches and a small
    step the result is the proximal step of phi.

    Args:
        step_size: in units of 1 / (share of points of a cluster).
        steps: outer steps.
        inner: stochastic fixed-point iterations in each.
        batch: points in a minibatch, drawn with replacement; 0 takes all points.
        average: weight of the past in the running mean, in [0, 1).
        seed: of the keyed minibatches.

    Raises:
        InvalidInput: a setting outside its range.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [9.0], [10.0]])
        >>> kmeans = StochasticBackwardEulerKMeans(step_size=1.0, batch=0)
        >>> kmeans.run(torch.tensor([[[0.0], [9.5]]]), points)  # the means
        tensor([[[0.5000],
                 [9.5000]]])
    """

    papers = (YIN_BACKWARD_EULER,)

    step_size: float = 5.0
    steps: int = 100
    inner: int = 20
    batch: int = 100
    average: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.step_size < float("inf"):
            raise InvalidInput(f"step_size must be positive and finite, got {self.step_size}")
        if self.steps < 1 or self.inner < 1 or self.batch < 0:
            raise InvalidInput(
                f"steps and inner must be at least 1 and batch at least 0, got "
                f"{self.steps}, {self.inner} and {self.batch}"
            )
        if not 0.0 <= self.average < 1.0:
            raise InvalidInput(f"average must be in [0, 1), got {self.average}")

    def run(self, x: Tensor, points: Tensor) -> Tensor:
        """Centroids after all steps.

        Args:
            x: start centroids of R independent starts, (R, K, d).
            points: (N, d).

        Returns:
            (R, K, d).
        """
        for step in range(self.steps):
            x = self.step(x, points, step)
        return x

    def step(self, x: Tensor, points: Tensor, step: int) -> Tensor:
        """One outer step, number `step`, from `x` (R, K, d)."""
        y = mean = x
        for l in range(self.inner):
            force = kmeans_force(y, self._minibatch(points, len(x), step * self.inner + l))
            y = x + self.step_size * force
            mean = self.average * mean + (1.0 - self.average) * y
        return mean

    def _minibatch(self, points: Tensor, starts: int, step: int) -> Tensor:
        """Points of a minibatch for each start, (R, batch, d)."""
        if self.batch == 0:
            return points
        chance = uniform(
            (starts, self.batch), seed=self.seed, purpose=Purpose.DATA, chains=starts, step=step,
            dtype=torch.float64, device=points.device,
        )  # fmt: skip
        return points[(chance * len(points)).long()]
