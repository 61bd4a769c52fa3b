"""What the three verbs return: values, what happened to each sample, and what to carry on with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, batch_size
from driftwell.core.status import Status


def _code(status: Tensor, sample: int) -> Status:
    if not -status.numel() <= sample < status.numel():
        raise InvalidInput(f"sample {sample} is not in this batch of {status.numel()}")
    return Status(int(status[sample]))


@dataclass(frozen=True)
class FixedPoint:
    """Fixed points z* = f(z*) of a batch.

    Attributes:
        z: the state returned, (B, ...); differentiable as the `gradient` asked for.
        residual: relative residual ||f(z) - z|| / ||f(z)|| of what is returned, (B,).
        steps: evaluations of f each sample used, int64 (B,).
        status: `Status` codes, int8 (B,).

    Example:
        >>> import torch, driftwell as dw
        >>> settled = dw.fixed_point(torch.cos, torch.zeros(1, 1), tol=1e-6)
        >>> print(f"{settled.z.item():.4f}")
        0.7391
    """

    z: State
    residual: Tensor
    steps: Tensor
    status: Tensor

    def explain(self, sample: int = 0) -> str:
        """Sentence about one sample: what happened, its residual and steps, what to try."""
        code = _code(self.status, sample)
        text = (
            f"sample {sample} {code.sentence}: residual {float(self.residual[sample]):.3g} "
            f"after {int(self.steps[sample])} steps"
        )
        if code is Status.BUDGET_REACHED:
            text += "; raise max_steps or tol, damp the solver, or check that f is a contraction"
        if code is Status.DIVERGED:
            text += (
                "; f expands here: use solver=Anderson(), damping < 1, or scale its weights down"
            )
        return text


@dataclass(frozen=True)
class Trajectory:
    """States of a batch along time.

    Attributes:
        ts: times asked for, (K,).
        z: state at the last time, (B, ...).
        zs: states at all times, each leaf (K, B, ...).
        status: `Status` codes, int8 (B,).
        steps: accepted steps of each sample, int64 (B,).
        rejected: rejected steps of each sample, int64 (B,).

    Example:
        >>> import torch, driftwell as dw
        >>> step = dw.ConstantStep(0.01)
        >>> decay = dw.integrate(lambda t, z: -z, torch.ones(1, 1), [0.0, 1.0], step=step)
        >>> print(f"{decay.z.item():.3f}")
        0.368
    """

    ts: Tensor
    z: State
    zs: State
    status: Tensor
    steps: Tensor
    rejected: Tensor

    def explain(self, sample: int = 0) -> str:
        """Sentence about one sample: what happened, its steps, what to try."""
        code = _code(self.status, sample)
        text = (
            f"sample {sample} {code.sentence}: {int(self.steps[sample])} steps accepted, "
            f"{int(self.rejected[sample])} rejected"
        )
        if code is Status.BUDGET_REACHED:
            text += "; raise max_steps, loosen rtol and atol, or use a stiffer method"
        if code is Status.DIVERGED:
            text += "; take a smaller step or AdaptiveStep()"
        if code is Status.STEP_UNDERFLOW:
            text += "; the field is stiff or singular there: loosen rtol and atol or use float64"
        return text


@dataclass(frozen=True)
class Diagnostics:
    """What a sampling run says about itself; memory does not grow with the number of steps.

    All are over the records taken after `warmup`, at most `sampling.RECORDS` of them, evenly
    spaced. Energies are in the law's own units.

    Attributes:
        steps: absolute step of each record, int64 (R,).
        energy: energy trace, (R, B).
        virial: <z . grad E> / (n_free T) per chain, (B,); 1 at equilibrium (equipartition).
        virial_error: standard error of the virial's mean over chains.
        ess: effective sample size over all chains and records, the smallest over the energy and
            `projections` fixed random projections of the state.
        rhat: split R-hat, the largest over the same observables; 1 when chains agree.
        acceptance: mean Metropolis acceptance. For MALA, HMC and replica exchange their own;
            for unadjusted samplers what MALA would accept at the visited states.
        swap_acceptance: of replica exchange between neighbouring temperatures, (R-1,), else None.
        step_size: the step that was used, in integration units.
        backend: which implementation ran ("native-small", "eager", ...).
    """

    steps: Tensor
    energy: Tensor
    virial: Tensor
    virial_error: float
    ess: float
    rhat: float
    acceptance: float
    step_size: float
    backend: str
    swap_acceptance: Tensor | None = None

    def summary(self) -> dict[str, float | str]:
        """Scalars of the run, for metrics and tables."""
        return {
            "energy": float(self.energy[-1].mean()) if self.energy.numel() else float("nan"),
            "virial": float(self.virial.mean()) if self.virial.numel() else float("nan"),
            "virial_error": self.virial_error,
            "ess": self.ess,
            "rhat": self.rhat,
            "acceptance": self.acceptance,
            "step_size": self.step_size,
            "backend": self.backend,
        }


@dataclass(frozen=True)
class ChainState:
    """All that is needed to carry chains on exactly where they stopped.

    Attributes:
        seed: seed of the keyed noise.
        next_step: absolute index of the next step.
        chains: chain ids, int64 (B,).
        sampler: the sampler with every automatic setting resolved.
        carry: what the sampler keeps besides z (momenta, replicas), or None.
    """

    seed: int
    next_step: int
    chains: Tensor
    sampler: Any
    carry: State | None = None


@dataclass(frozen=True)
class Chains:
    """Chains after a sampling run.

    Attributes:
        z: last states, (B, ...), detached.
        kept: states kept as `keep` asked, each leaf (K, B, ...), or None.
        diagnostics: virial, ESS, R-hat, acceptance, traces; None if switched off.
        status: `Status` codes, int8 (B,).
        state: what `sample` continues from.

    Example:
        >>> import torch, driftwell as dw
        >>> chains = dw.sample(lambda z: 0.5 * (z**2).sum(1), torch.zeros(4, 2), steps=30, seed=0)
        >>> chains.explain(2)
        'chain 2 ran all its steps by step 30'
    """

    z: State
    kept: State | None
    diagnostics: Diagnostics | None
    status: Tensor
    state: ChainState = field(repr=False)

    def explain(self, sample: int = 0) -> str:
        """Sentence about one chain: what happened, at which step, what to try."""
        code = _code(self.status, sample)
        text = (
            f"chain {int(self.state.chains[sample])} {code.sentence} by step {self.state.next_step}"
        )
        if code is Status.DIVERGED:
            text += (
                f"; the step size {getattr(self.state.sampler, 'step_size', None)} is too large "
                "for the curvature: stay below 2 / lambda_max, or leave step_size=None"
            )
        return text

    def __len__(self) -> int:
        return batch_size(self.z)
