"""The verb `integrate`: carry a state through time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput, NotConverged
from driftwell.core.results import Trajectory
from driftwell.core.state import State, check_state, flatten, leaves, rebuild, unflatten
from driftwell.core.status import Status
from driftwell.dynamics.laws import VectorField, as_field
from driftwell.integration.adaptive import run_adaptive
from driftwell.integration.brownian import Brownian, BrownianPath
from driftwell.integration.constant import run_constant
from driftwell.integration.flat_field import Course, FlatField, Travelled
from driftwell.integration.integrators.heun import Heun
from driftwell.integration.integrators.integrator import Integrator
from driftwell.integration.step_control import AdaptiveStep, ConstantStep


def integrate(
    field: VectorField | Callable[..., State],
    z0: State,
    ts: Tensor | Sequence[float],
    x: Any = None,
    *,
    integrator: Integrator = Heun(),
    step: ConstantStep | AdaptiveStep = AdaptiveStep(),
    noise: Brownian | None = None,
    gradient: None = None,
    max_steps: int = 10_000,
    throw: bool = True,
) -> Trajectory:
    """States of a batch along dz = b(t, z, x) dt + s(t, z, x) dW, at the times `ts`.

    Steps are cut to end at every one of `ts`. With `AdaptiveStep` each sample has its own steps,
    and its result does not depend on its neighbours. A sample that fails stays at the last state
    that was good, and its `status` says so.

    Args:
        field: drift b(t, z[, x]) or a `VectorField`, whose diffusion makes it an SDE; t is (B,)
            in the state's real dtype.
        z0: state at ``ts[0]``, a tensor (B, ...) or a tree of them.
        ts: at least two times, increasing or decreasing, in integration units; the state is
            returned at each. Decreasing ones run an ODE backwards.
        x: input, handed to the field as it is.
        integrator: rule for one step. ODE: `Euler`, `Heun`, `RK4`, `DormandPrince`; SDE:
            `EulerMaruyama` (Itô), `StochasticHeun` (Stratonovich).
        step: `ConstantStep`, or `AdaptiveStep` for an integrator with an error estimate.
        noise: the Brownian path of an SDE.
        gradient: None: back-propagation through the steps as they were taken, whenever grad mode
            is on, to z0, x and the field's parameters (not to `ts`); memory grows with the steps.
        max_steps: steps a sample may try.
        throw: raise if a sample fails.

    Raises:
        InvalidInput: bad state, times or settings; an SDE with an ODE integrator or the reverse;
            an SDE without `noise`; an adaptive step without error estimate.
        Diverged: a sample left the finite numbers.
        NotConverged: a sample used up its steps, or needed one too small for its dtype.

    Example:
        >>> flow = integrate(lambda t, z: -z, torch.ones(2, 1), [0.0, 0.5, 1.0])
        >>> flow.zs.shape, flow.explain(0)
        (torch.Size([3, 2, 1]), 'sample 0 ran all its steps: ... steps accepted, 0 rejected')
    """
    check_state(z0)
    law = FlatField(as_field(field), x, z0)
    times = _check_times(ts)
    _check_settings(integrator, step, noise, gradient, max_steps)
    flat = flatten(z0)
    start = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    course = Course(law, integrator, start, times, max_steps)
    stochastic = law.is_stochastic(course.time(times[0]), start)
    _check_kind(stochastic, integrator, step, noise, times)
    if isinstance(step, AdaptiveStep):
        travelled = run_adaptive(course, step)
    else:
        travelled = run_constant(course, step, _path(noise, z0, start))
    result = _trajectory(ts, times, z0, travelled)
    if throw:
        _check_outcome(result)
    return result


def _check_times(ts: Tensor | Sequence[float]) -> list[float]:
    if isinstance(ts, Tensor) and ts.ndim != 1:
        raise InvalidInput(f"ts must be one-dimensional, got shape {tuple(ts.shape)}")
    times = [float(t) for t in (ts.tolist() if isinstance(ts, Tensor) else ts)]
    if len(times) < 2:
        raise InvalidInput(f"ts needs at least a start and an end, got {len(times)} times")
    if not all(math.isfinite(t) for t in times):
        raise InvalidInput(f"ts must be finite, got {times}")
    pairs = list(pairwise(times))
    if not (all(a < b for a, b in pairs) or all(a > b for a, b in pairs)):
        raise InvalidInput("ts must be strictly increasing or strictly decreasing; sort it")
    return times


def _check_settings(
    integrator: Integrator, step: Any, noise: Any, gradient: Any, max_steps: int
) -> None:
    if not isinstance(integrator, Integrator):
        raise InvalidInput(f"integrator must be an Integrator such as Heun(), got {integrator!r}")
    if not isinstance(step, (ConstantStep, AdaptiveStep)):
        raise InvalidInput(f"step must be ConstantStep(dt) or AdaptiveStep(), got {step!r}")
    if noise is not None and not isinstance(noise, Brownian):
        raise InvalidInput(f"noise must be Brownian(seed) or None, got {noise!r}")
    if gradient is not None:
        raise InvalidInput(
            f"gradient must be None (back-propagation through the steps), got {gradient!r}"
        )
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise InvalidInput(f"max_steps must be an integer of at least 1, got {max_steps!r}")


def _check_kind(
    stochastic: bool,
    integrator: Integrator,
    step: ConstantStep | AdaptiveStep,
    noise: Brownian | None,
    times: list[float],
) -> None:
    """Refuse combinations that would run and converge to something else."""
    name = type(integrator).__name__
    if isinstance(step, AdaptiveStep) and stochastic:
        raise InvalidInput("AdaptiveStep would bias the noise of an SDE; use step=ConstantStep(dt)")
    if stochastic and integrator.interpretation is None:
        raise InvalidInput(
            f"{name} ignores noise and the field has a diffusion; use integrator="
            "EulerMaruyama() (Itô) or StochasticHeun() (Stratonovich)"
        )
    if not stochastic and integrator.interpretation is not None:
        raise InvalidInput(
            f"{name} is for SDEs and the field has no diffusion; use integrator=Euler() or Heun()"
        )
    if isinstance(step, AdaptiveStep) and integrator.error_order is None:
        raise InvalidInput(
            f"AdaptiveStep needs an error estimate and {name} has none; "
            "use DormandPrince() or Heun(), or step=ConstantStep(dt)"
        )
    if stochastic and noise is None:
        raise InvalidInput("the field has a diffusion: give its path, noise=Brownian(seed=...)")
    if not stochastic and noise is not None:
        raise InvalidInput("noise was given and the field has no diffusion; leave noise=None")
    if stochastic and times[0] > times[-1]:
        raise InvalidInput("an SDE runs forwards only, got decreasing ts")
    if noise is not None and isinstance(step, ConstantStep):
        cell = noise.span * 2.0**-noise.levels
        if step.dt < cell * (1.0 - 1e-9):
            raise InvalidInput(
                f"ConstantStep(dt={step.dt}) is finer than the Brownian path, which resolves "
                f"{cell}; use Brownian(..., resolution={step.dt})"
            )


def _path(noise: Brownian | None, z0: State, start: Tensor) -> BrownianPath | None:
    if noise is None:
        return None
    shapes = [
        (*leaf.shape[1:], 2) if leaf.is_complex() else tuple(leaf.shape[1:]) for leaf in leaves(z0)
    ]
    return noise.path(shapes, start.shape[0], dtype=start.dtype, device=start.device)


def _trajectory(
    ts: Tensor | Sequence[float], times: list[float], z0: State, travelled: Travelled
) -> Trajectory:
    states = [z0, *(unflatten(z, z0) for z in travelled.zs[1:])]
    columns = zip(*(leaves(state) for state in states), strict=True)
    return Trajectory(
        ts=ts if isinstance(ts, Tensor) else torch.tensor(times, dtype=torch.float64),
        z=states[-1],
        zs=rebuild(z0, [torch.stack(column) for column in columns]),
        status=travelled.status,
        steps=travelled.steps,
        rejected=travelled.rejected,
    )


def _check_outcome(result: Trajectory) -> None:
    failed = result.status > int(Status.COMPLETED)
    if not bool(failed.any()):
        return
    diverged = result.status == int(Status.DIVERGED)
    worst = int((diverged if bool(diverged.any()) else failed).int().argmax())
    count = f" ({int(failed.sum())} of {failed.numel()} samples failed)"
    raise (Diverged if bool(diverged.any()) else NotConverged)(result.explain(worst) + count)
