"""Training a denoiser stage by stage on samples and keyed noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.models.proximal.learned import LPN
from driftwell.models.proximal.matching import Stage

Progress = Callable[[int, int, float], None]


def train_denoiser(
    lpn: LPN,
    draw: Callable[[int], Tensor],
    sigma: float,
    schedule: Sequence[Stage],
    *,
    seed: int,
    progress: Progress | None = None,
) -> list[float]:
    """Train `lpn` on y = x + N(0, sigma^2), stage after stage, by Adam, in place.

    Args:
        lpn: the network.
        draw: update index -> clean samples (B, *lpn.shape).
        sigma: standard deviation of the noise, in the units of x.
        schedule: the stages, as `matching_schedule` makes them.
        seed: of the keyed noise.
        progress: called as progress(done, updates, loss) a hundred times.

    Returns:
        The loss at the last update of every stage.

    Raises:
        InvalidInput: a sigma that is not positive, an empty schedule.
        Diverged: the loss left the finite numbers.

    Example:
        >>> lpn = LPN((1,), hidden=8, depth=2, seed=0)
        >>> train_denoiser(lpn, lambda k: torch.zeros(16, 1), 1.0, [Stage(None, 2, 1e-3)], seed=0)
        [...]
    """
    if not 0.0 < sigma < float("inf"):
        raise InvalidInput(f"sigma must be positive and finite, got {sigma}")
    if not schedule:
        raise InvalidInput("the schedule is empty: give at least one Stage")
    optimizer = torch.optim.Adam(lpn.parameters())
    total, done, last = sum(stage.updates for stage in schedule), 0, []
    for stage in schedule:
        for update in range(stage.updates):
            optimizer.param_groups[0]["lr"] = stage.lr_at(update)
            x = draw(done)
            noise = normal(
                x.shape, seed=seed, purpose=Purpose.DYNAMICS, chains=len(x), step=done,
                dtype=x.dtype, device=x.device,
            )  # fmt: skip
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = stage(lpn.prox(x + sigma * noise), x)
                loss.backward()
            optimizer.step()
            done += 1
            if progress and (done % max(1, total // 100) == 0 or done == total):
                progress(done, total, float(loss.detach()))
        last.append(float(loss.detach()))
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss is {last[-1]} after update {done} of {total}: lower the stages' lr"
            )
    return last
