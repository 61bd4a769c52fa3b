"""The consistency student: boundary, times, losses by hand, and solves that start with a jump."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.core.status import Status
from driftwell.fixed_points import Anderson, Picard, fixed_point
from driftwell.models.equilibrium.consistency import ConsistencyDEQ, ConsistencyJumps
from driftwell.models.equilibrium.distillation import Distillation
from driftwell.models.equilibrium.recorded_solves import record_trajectory

D, P = 8, 3


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


A = drawn(D, D, seed=0)
W = 0.95 * (A @ A.T) / torch.linalg.matrix_norm(A @ A.T, 2)
U = 0.1 * drawn(D, P, seed=1)


def teacher(z: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(z @ W.T + x @ U.T)


@pytest.fixture(scope="module")
def student() -> ConsistencyDEQ:
    """Distilled well enough that a jump beats a Picard step."""
    record = record_trajectory(teacher, torch.zeros(256, D), drawn(256, P, seed=2), steps=16)
    made = ConsistencyDEQ(teacher, D, width=6, seed=3)
    losses = Distillation(updates=600, batch=32, learning_rate=5e-3).run(made, record, seed=4)
    assert sum(losses[-20:]) < 0.1 * sum(losses[:20])
    return made


def test_at_the_last_time_the_student_is_the_identity_to_the_last_bit() -> None:
    for T in (5.0, 0.7, 3.1):
        student = ConsistencyDEQ(teacher, D, T=T, seed=1)
        z = drawn(5, D, seed=2)
        assert torch.equal(student(z, student.times(7)[-1], drawn(5, P, seed=3)), z)


def test_times_run_evenly_in_the_seventh_root() -> None:
    student = ConsistencyDEQ(teacher, D)
    t = student.times(10)
    assert float(t[0]) == pytest.approx(0.002, rel=1e-12)
    assert float(t[-1]) == 5.0
    assert torch.allclose((t ** (1 / 7)).diff(), (t ** (1 / 7)).diff().mean(), rtol=1e-9)


def test_a_record_is_the_solver_s_iterates_and_then_the_fixed_point() -> None:
    x, z = drawn(4, P, seed=5), torch.zeros(4, D)
    record = record_trajectory(teacher, z, x, steps=6)
    for j in range(6):
        assert torch.equal(record.z[j], z)
        z = teacher(z, x)
        assert torch.equal(record.fz[j], z)
    assert torch.linalg.vector_norm(record.fz[-1] - record.z[-1], dim=1).max() < 1e-5
    star = fixed_point(teacher, torch.zeros(4, D), x, tol=1e-6).z
    assert torch.allclose(record.z[-1], star, atol=1e-5)
    assert torch.allclose(record.errors()[0], torch.ones(4))


def test_a_record_of_a_solve_that_ends_at_once_is_filled_up() -> None:
    record = record_trajectory(lambda z: 0.0 * z + 1.0, torch.zeros(2, 3), steps=5)
    assert record.z.shape == (6, 2, 3)
    assert torch.equal(record.z[2:], torch.ones(4, 2, 3))


def test_the_loss_is_the_card_s_sum_and_its_target_sits_nearer_to_the_fixed_point() -> None:
    record = record_trajectory(teacher, torch.zeros(4, D), drawn(4, P, seed=5), steps=6)
    student, other = ConsistencyDEQ(teacher, D, seed=1), ConsistencyDEQ(teacher, D, seed=2)
    rows, points = torch.tensor([0, 3]), torch.tensor([2, 5])
    loss = Distillation(share=0.9).loss(student, other.g, record, rows, points)
    t = student.times(6).float()
    far, near = torch.zeros(2), torch.zeros(2)
    for k, (i, j) in enumerate(zip(rows.tolist(), points.tolist(), strict=True)):
        g = student.g(torch.cat([record.fz[j, i], t[j : j + 1]]))
        jumped = t[j] / 5 * record.z[j, i] + (1 - t[j] / 5) * g
        g = other.g(torch.cat([record.fz[j + 1, i], t[j + 1 : j + 2]]))
        target = t[j + 1] / 5 * record.z[j + 1, i] + (1 - t[j + 1] / 5) * g
        far[k] = functional.smooth_l1_loss(jumped, record.z[-1, i])
        near[k] = (jumped - target).square().mean()
    expected = 0.9 * far.mean() + 0.1 * near.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in other.g.parameters())


def test_distillation_is_a_function_of_its_seed() -> None:
    record = record_trajectory(teacher, torch.zeros(8, D), drawn(8, P, seed=5), steps=6)
    how, runs = Distillation(updates=5), []
    for seed in (0, 0, 1):
        runs.append(how.run(ConsistencyDEQ(teacher, D, seed=1), record, seed=seed))
    assert runs[0] == runs[1] != runs[2]


def test_a_jump_is_nearer_to_the_fixed_point_than_a_picard_step(student: ConsistencyDEQ) -> None:
    x, z0 = drawn(64, P, seed=9), torch.zeros(64, D)
    jump = record_trajectory(teacher, z0, x, steps=3, solver=ConsistencyJumps(student))
    plain = record_trajectory(teacher, z0, x, steps=3)
    assert jump.errors()[1].mean() < 0.5 * plain.errors()[1].mean()


def test_jumps_in_a_solve_are_the_student_s_own_and_the_best_is_kept(
    student: ConsistencyDEQ,
) -> None:
    x, z = drawn(4, P, seed=9), torch.zeros(4, D)
    record = record_trajectory(teacher, z, x, steps=4, solver=ConsistencyJumps(student, jumps=3))
    for j, t in enumerate(student.times(3)[:3]):
        with torch.no_grad():
            z = student(z, t, x)
        assert torch.allclose(record.z[j + 1], z, atol=1e-6)
    found = fixed_point(
        teacher, torch.zeros(4, D), x, solver=ConsistencyJumps(student, 3), tol=0.0, max_steps=4,
        throw=False,
    )  # fmt: skip
    gaps = torch.linalg.vector_norm(record.fz[:4] - record.z[:4], dim=2)
    gaps = gaps / torch.linalg.vector_norm(record.fz[:4], dim=2)
    assert torch.allclose(found.residual, gaps.amin(dim=0), rtol=1e-4)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("then", [Picard(), Anderson()], ids=repr)
def test_a_jump_is_a_warm_start_whose_refinement_is_honest(
    student: ConsistencyDEQ, then: Picard | Anderson, compact: bool
) -> None:
    x, z0 = drawn(32, P, seed=11), torch.zeros(32, D)
    jumped = fixed_point(
        teacher, z0, x, solver=ConsistencyJumps(student, then=then), tol=1e-5, max_steps=300,
        compact=compact,
    )  # fmt: skip
    plain = fixed_point(teacher, z0, x, solver=then, tol=1e-5, max_steps=300)
    assert bool((jumped.status == int(Status.CONVERGED)).all())
    assert torch.allclose(jumped.z, plain.z, atol=2e-3)
    assert jumped.steps.float().mean() < plain.steps.float().mean()


def test_states_of_any_shape_and_dtype_can_jump() -> None:
    solver = ConsistencyJumps(ConsistencyDEQ(torch.cos, dim=6))
    z = torch.zeros(2, 2, 3, dtype=torch.float64)
    found = fixed_point(torch.cos, z, solver=solver, tol=1e-9)
    assert found.z.shape == z.shape
    assert torch.allclose(found.z, torch.full_like(z, 0.7390851332), atol=1e-8)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput, match="0 < eps < T"):
        ConsistencyDEQ(teacher, D, T=0.001)
    with pytest.raises(InvalidInput, match="at least 1"):
        ConsistencyJumps(ConsistencyDEQ(teacher, D), jumps=0)
    solver = ConsistencyJumps(ConsistencyDEQ(teacher, D))
    with pytest.raises(InvalidInput, match="8 entries"):
        fixed_point(torch.cos, torch.zeros(1, 2), solver=solver)
    with pytest.raises(InvalidInput, match="share"):
        Distillation(share=1.5)
    with pytest.raises(InvalidInput, match="learning_rate"):
        Distillation(learning_rate=math.nan)
    with pytest.raises(InvalidInput, match="steps"):
        record_trajectory(teacher, torch.zeros(1, D), drawn(1, P, seed=0), steps=0)
