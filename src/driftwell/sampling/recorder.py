"""Diagnostics of a sampling run, in memory that does not grow with the number of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, normal
from driftwell.core.results import Diagnostics
from driftwell.core.state import State, flatten, inner
from driftwell.sampling.samplers.mala import langevin_proposal, log_acceptance
from driftwell.sampling.samplers.sampler import Problem, Sampler
from driftwell.sampling.statistics import SHORTEST_TRACE, effective_sample_size, split_rhat

RECORDS = 200
LEAST_SPACING = 10
PROJECTIONS = 4


def record_spacing(steps: int, warmup: int) -> int:
    """Steps between records: at most `RECORDS` of them, at least `LEAST_SPACING` steps apart.

    Example:
        >>> record_spacing(1000, 0), record_spacing(100_000, 0)
        (10, 500)
    """
    return max(LEAST_SPACING, -(-(steps - warmup) // RECORDS))


class Recorder:
    """Collects the records of one run; `finish` turns them into `Diagnostics`."""

    def __init__(self, problem: Problem, sampler: Sampler, z: State) -> None:
        self.problem, self.sampler = problem, sampler
        self.steps: list[int] = []
        self.energy: list[Tensor] = []
        self.virial: list[Tensor] = []
        self.accept: list[Tensor] = []
        self.projected: list[Tensor] = []
        self.axes = self._axes(z)

    def _axes(self, z: State) -> Tensor:
        flat = flatten(z)
        axes = normal(
            (PROJECTIONS, flat.shape[1]), seed=0, purpose=Purpose.PROBE,
            chains=torch.arange(PROJECTIONS, device=flat.device), step=1, dtype=torch.float32,
        )  # fmt: skip
        length: Tensor = torch.linalg.vector_norm(axes, dim=1, keepdim=True)
        return axes.div(length).T

    def take(self, z: State, step: int) -> None:
        """Record the state after `step` steps."""
        energy, force = self.problem.energy_and_force(z)
        temperature = self.sampler.temperature_at(self.problem, step)
        self.steps.append(step)
        self.energy.append(energy)
        self.projected.append(flatten(z).float() @ self.axes)
        if temperature > 0:
            scale = self.problem.dimension(z) * temperature
            self.virial.append(-inner(self.problem.mask(z), force) / scale)
            self.accept.append(self._mala_acceptance(z, energy, force, temperature, step))

    def _mala_acceptance(
        self, z: State, energy: Tensor, force: State, temperature: float, step: int
    ) -> Tensor:
        dt = self.sampler.proposal_step()
        xi = self.problem.normal(z, step, Purpose.PROBE, copy=1)
        z_new = langevin_proposal(z, force, xi, dt, temperature)
        energy_new, force_new = self.problem.energy_and_force(z_new)
        log_ratio = log_acceptance(z, energy, force, z_new, energy_new, force_new, dt, temperature)
        return log_ratio.clamp_max(0.0).exp().mean()

    def finish(
        self, backend: str, own_acceptance: Tensor | None, swaps: Tensor | None
    ) -> Diagnostics:
        """Diagnostics over all records taken."""
        energy = torch.stack(self.energy) if self.energy else torch.empty(0, 0)
        virial = torch.stack(self.virial).mean(dim=0) if self.virial else torch.empty(0)
        ess, rhat = self._mixing(energy)
        if own_acceptance is not None:
            acceptance = float(own_acceptance.mean())
        else:
            acceptance = float(torch.stack(self.accept).mean()) if self.accept else float("nan")
        return Diagnostics(
            steps=torch.tensor(self.steps, dtype=torch.int64),
            energy=energy,
            virial=virial,
            virial_error=_standard_error(virial),
            ess=ess,
            rhat=rhat,
            acceptance=acceptance,
            step_size=float(getattr(self.sampler, "step_size")),  # noqa: B009
            backend=backend,
            swap_acceptance=swaps,
        )

    def _mixing(self, energy: Tensor) -> tuple[float, float]:
        if len(self.steps) < SHORTEST_TRACE:
            return float("nan"), float("nan")
        traces = [energy, *torch.stack(self.projected).unbind(dim=2)]
        finite = torch.stack([torch.isfinite(trace).all(dim=0) for trace in traces]).all(dim=0)
        if not bool(finite.any()):
            return float("nan"), float("nan")
        traces = [trace[:, finite] for trace in traces]
        ess = min(float(effective_sample_size(trace)) for trace in traces)
        return ess, max(float(split_rhat(trace)) for trace in traces)


def _standard_error(values: Tensor) -> float:
    if values.numel() < 2:
        return float("nan")
    return float(values.double().std() / values.numel() ** 0.5)
