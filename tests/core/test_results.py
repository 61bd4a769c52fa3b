"""Results: frozen, and each sample can explain itself."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.core.results import Chains, ChainState, Diagnostics, FixedPoint, Trajectory
from driftwell.core.status import Status


def fixed_point(*codes: Status) -> FixedPoint:
    n = len(codes)
    return FixedPoint(
        z=torch.zeros(n, 1),
        residual=torch.full((n,), 0.5),
        steps=torch.full((n,), 7),
        status=torch.tensor([int(code) for code in codes], dtype=torch.int8),
    )


def trajectory(code: Status) -> Trajectory:
    return Trajectory(
        ts=torch.tensor([0.0, 1.0]),
        z=torch.zeros(1, 1),
        zs=torch.zeros(2, 1, 1),
        status=torch.tensor([int(code)], dtype=torch.int8),
        steps=torch.tensor([12]),
        rejected=torch.tensor([3]),
    )


def chains(code: Status) -> Chains:
    class Sampler:
        step_size = 0.25

    state = ChainState(seed=1, next_step=40, chains=torch.tensor([17]), sampler=Sampler())
    status = torch.tensor([int(code)], dtype=torch.int8)
    return Chains(z=torch.zeros(1, 2), kept=None, diagnostics=None, status=status, state=state)


def test_a_fixed_point_explains_each_sample():
    result = fixed_point(Status.CONVERGED, Status.BUDGET_REACHED, Status.DIVERGED)
    assert result.explain(0) == ("sample 0 reached its tolerance: residual 0.5 after 7 steps")
    assert "raise max_steps or tol" in result.explain(1)
    assert "expands" in result.explain(2)
    assert result.explain(-1).endswith(result.explain(2).partition(";")[2])


def test_a_trajectory_explains_itself():
    assert trajectory(Status.COMPLETED).explain() == (
        "sample 0 ran all its steps: 12 steps accepted, 3 rejected"
    )
    assert "loosen rtol" in trajectory(Status.BUDGET_REACHED).explain()
    assert "smaller step" in trajectory(Status.DIVERGED).explain()
    assert "stiff or singular" in trajectory(Status.STEP_UNDERFLOW).explain()


def test_a_chain_explains_itself_by_its_own_id():
    assert chains(Status.COMPLETED).explain() == "chain 17 ran all its steps by step 40"
    assert "step size 0.25 is too large" in chains(Status.DIVERGED).explain()
    assert len(chains(Status.COMPLETED)) == 1


@pytest.mark.parametrize("sample", [2, -3, 100])
def test_a_sample_outside_the_batch_is_refused(sample):
    with pytest.raises(InvalidInput, match=f"sample {sample} is not in this batch of 2"):
        fixed_point(Status.CONVERGED, Status.CONVERGED).explain(sample)


@pytest.mark.parametrize(
    "result",
    [fixed_point(Status.CONVERGED), trajectory(Status.COMPLETED), chains(Status.COMPLETED)],
    ids=lambda result: type(result).__name__,
)
def test_results_are_frozen(result):
    with pytest.raises(FrozenInstanceError):
        result.status = None


def test_the_summary_of_diagnostics_is_scalars():
    diagnostics = Diagnostics(
        steps=torch.tensor([1, 2]),
        energy=torch.tensor([[1.0, 3.0], [2.0, 4.0]]),
        virial=torch.tensor([0.5, 1.5]),
        virial_error=0.1,
        ess=20.0,
        rhat=1.0,
        acceptance=0.9,
        step_size=0.1,
        backend="eager",
    )
    summary = diagnostics.summary()
    assert summary["energy"] == 3.0
    assert summary["virial"] == 1.0
    assert all(isinstance(value, (float, str)) for value in summary.values())
