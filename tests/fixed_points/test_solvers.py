"""Solvers: what they cost, whom they serve, and what they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import Diverged, InvalidInput, NotConverged
from driftwell.fixed_points import Anderson, Broyden, NewtonKrylov, Picard, Solver
from driftwell.testing import ConformanceError, check_solver

FAMILY = [
    Picard(),
    Picard(damping=0.6),
    Anderson(),
    Anderson(memory=1),
    Anderson(memory=3, damping=0.8, ridge=1e-6, restart=1.0),
    Broyden(),
    NewtonKrylov(),
]


def gaussian(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def iid(g: float = 0.9, batch: int = 256, d: int = 512):
    """z = tanh(W z + U x), W = g N / sqrt(d)."""
    W, U = g * gaussian(d, d, seed=0) / d**0.5, gaussian(d, d, seed=1) / d**0.5
    drive = gaussian(batch, d, seed=2) @ U.T
    return lambda z: torch.tanh(z @ W.T + drive), torch.zeros(batch, d)


def psd(rho: float, activation=torch.tanh, batch: int = 64, d: int = 256, seed: int = 0):
    """W = G G^T with spectral norm rho, input scale .05."""
    G = gaussian(d, d, seed=seed, dtype=torch.float64)
    W = G @ G.T
    W = (W * rho / torch.linalg.matrix_norm(W, 2)).float()
    drive = 0.05 * gaussian(batch, d, seed=seed + 1) @ (gaussian(d, d, seed=seed + 2) / d**0.5).T
    return lambda z: activation(z @ W.T + drive), torch.zeros(batch, d)


def evaluations(problem, solver: Solver, max_steps: int = 400) -> int:
    f, z0 = problem
    calls = 0

    def counted(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(z)

    found = dw.fixed_point(counted, z0, solver=solver, max_steps=max_steps)
    assert calls == int(found.steps.max())
    assert bool((found.residual <= 1e-4).all())
    return calls


@pytest.mark.parametrize("solver", FAMILY, ids=str)
def test_every_solver_keeps_the_contract(solver):
    check_solver(solver)


def test_yardstick_of_independent_gaussian_weights():
    assert evaluations(iid(), Anderson()) <= 20


@pytest.mark.parametrize(("rho", "bar"), [(0.90, 16), (0.97, 24), (0.99, 33)])
@pytest.mark.parametrize("seed", [0, 10])
def test_yardsticks_of_positive_weights(rho, bar, seed):
    assert evaluations(psd(rho, seed=seed), Anderson()) <= bar


@pytest.mark.parametrize(
    "problem",
    [
        iid(batch=32, d=128),
        iid(1.2, batch=32, d=128),
        psd(0.9),
        psd(0.99),
        psd(0.99, torch.relu),
        (lambda z: torch.cos(z), torch.linspace(-2, 2, 20)[:, None]),
        (lambda z: 0.9 * z.roll(1, dims=1) + 1.0, gaussian(8, 16, seed=3)),
    ],
    ids=["iid", "iid 1.2", "psd .9", "psd .99", "relu", "cos", "rotation"],
)
def test_anderson_is_never_much_worse_than_picard(problem):
    assert evaluations(problem, Anderson()) <= 1.05 * evaluations(problem, Picard()) + 2


def test_anderson_converges_where_picard_does_not():
    a = torch.tensor([[-1.5, 0.4], [0.0, -1.2]])  # both eigenvalues below -1

    def f(z):
        return z @ a.T + 1.0

    start = torch.zeros(3, 2)
    assert bool((dw.fixed_point(f, start).status == dw.Status.CONVERGED).all())
    with pytest.raises(NotConverged):
        dw.fixed_point(f, start, solver=Picard())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evaluations_do_not_depend_on_the_units_of_the_state(dtype):
    f, z0 = psd(0.97)
    f64 = f if dtype is torch.float32 else lambda z: f(z.float()).double()
    counts = [
        evaluations((lambda z, c=c: c * f64(z / c), z0.to(dtype)), Anderson())
        for c in (1e-3, 1.0, 1e3)
    ]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=str)
def test_half_precision_states_are_solved_to_their_own_rounding(dtype, solver):
    W, drive = 0.6 * gaussian(32, 32, seed=0) / 32**0.5, gaussian(8, 32, seed=1)
    exact = dw.fixed_point(lambda z: torch.tanh(z @ W.T + drive), torch.zeros(8, 32), tol=1e-6).z
    low = dw.fixed_point(
        lambda z: torch.tanh(z @ W.T.to(dtype) + drive.to(dtype)),
        torch.zeros(8, 32, dtype=dtype),
        solver=solver,
    )
    assert low.z.dtype == dtype
    assert float((low.z.float() - exact).norm() / exact.norm()) < 4 * torch.finfo(dtype).eps


def test_a_fixed_start_costs_one_evaluation():
    found = dw.fixed_point(lambda z: z.clone(), torch.ones(2, 3))
    assert found.steps.tolist() == [1, 1]
    assert found.residual.tolist() == [0.0, 0.0]


def test_what_is_returned_is_not_the_start_s_own_memory():
    start = torch.ones(2, 3)
    found = dw.fixed_point(lambda z: z.clone(), start)
    start.zero_()
    assert torch.equal(found.z, torch.ones(2, 3))


def test_the_residual_is_that_of_what_is_returned_and_the_best_one_seen():
    W = 3.0 * gaussian(16, 16, seed=4, dtype=torch.float64) / 4.0  # chaotic: never converges
    seen: list[Tensor] = []

    def f(z):
        after = torch.tanh(z @ W.T)
        seen.append(((after - z).norm(dim=1) / after.norm(dim=1)).detach())
        return after

    start = gaussian(4, 16, seed=5, dtype=torch.float64)
    found = dw.fixed_point(f, start, solver=Picard(), max_steps=30, throw=False)
    assert bool((found.status == dw.Status.BUDGET_REACHED).all())
    again = torch.tanh(found.z @ W.T)
    torch.testing.assert_close(
        found.residual, (again - found.z).norm(dim=1) / again.norm(dim=1), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(found.residual, torch.stack(seen[:30]).amin(dim=0))


def rates(z: Tensor, x: Tensor) -> Tensor:
    """One coordinate per sample that contracts at the rate x."""
    return x * z + 1.0


def test_finished_samples_are_frozen():
    x = torch.tensor([[0.1], [0.5], [0.95]], dtype=torch.float64)
    start = torch.zeros(3, 1, dtype=torch.float64)
    together = dw.fixed_point(rates, start, x, solver=Picard(), max_steps=1000)
    assert together.steps[0] < together.steps[1] < together.steps[2]
    for i in range(3):
        alone = dw.fixed_point(
            rates, start[i : i + 1], x[i : i + 1], solver=Picard(), max_steps=1000
        )
        assert torch.equal(alone.z[0], together.z[i])
        assert alone.steps[0] == together.steps[i]


def test_f_sees_a_finished_sample_where_it_was_found():
    seen = []

    def f(z, x):
        seen.append(z.clone())
        return x * z + 1.0

    x = torch.tensor([[0.1], [0.95]])
    found = dw.fixed_point(f, torch.zeros(2, 1), x, solver=Picard(), max_steps=1000)
    last = [z[0] for z in seen[int(found.steps[0]) :]]
    assert len(last) > 10
    assert all(torch.equal(z, found.z[0]) for z in last)


def test_compact_drops_finished_samples_with_their_input():
    x = {"rate": torch.tensor([[0.1], [0.5], [0.95], [0.2]]), "shift": torch.ones(4, 1)}
    sizes = []

    def f(z, x):
        sizes.append(len(z))
        return x["rate"] * z + x["shift"]

    def solve(compact):
        return dw.fixed_point(
            f, torch.zeros(4, 1), x, solver=Picard(), max_steps=1000, compact=compact
        )

    whole = solve(False)
    sizes.clear()
    compact = solve(True)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 4
    assert sizes[-1] == 1
    assert sum(sizes) == int(compact.steps.sum())  # nobody is evaluated after it finished
    assert torch.equal(whole.z, compact.z)
    assert torch.equal(whole.steps, compact.steps)


def test_nan_is_reported_per_sample_with_the_step_at_which_it_appeared():
    def f(z):
        return torch.where(z > 2.5, torch.nan, z + 1.0) * torch.tensor([[1.0], [0.5]])

    found = dw.fixed_point(f, torch.zeros(2, 1), solver=Picard(), throw=False)
    assert found.status.tolist() == [dw.Status.DIVERGED, dw.Status.CONVERGED]
    assert found.steps[0] == 4  # z = 0, 1, 2, 3: f(3) is NaN
    assert bool(torch.isfinite(found.z).all())
    with pytest.raises(Diverged, match=r"sample 0 left the finite numbers.*\(1 of 2 samples"):
        dw.fixed_point(f, torch.zeros(2, 1), solver=Picard())


def test_nan_from_the_start_is_said_and_the_start_is_returned():
    found = dw.fixed_point(lambda z: z * torch.nan, torch.ones(1, 2), throw=False)
    assert found.status.tolist() == [dw.Status.DIVERGED]
    assert found.steps.tolist() == [1]
    assert found.residual.isnan().all()
    assert torch.equal(found.z, torch.ones(1, 2))


def test_growth_beyond_the_dtype_is_divergence():
    found = dw.fixed_point(
        lambda z: 1e3 * z, torch.ones(1, 1), solver=Picard(), max_steps=50, throw=False
    )
    assert found.status.tolist() == [dw.Status.DIVERGED]


def test_budget_names_the_worst_sample():
    x = torch.tensor([[0.1], [0.999], [0.99]])
    with pytest.raises(NotConverged, match=r"sample 1 used up its steps.*\(2 of 3 samples failed"):
        dw.fixed_point(rates, torch.zeros(3, 1), x, solver=Picard(), max_steps=20)


def test_tree_and_complex_states():
    def f(z):
        return {"a": 0.5 * z["a"] + 1, "b": (0.5j * z["b"][0] + 1, torch.cos(z["b"][1]))}

    start = {
        "a": torch.zeros(2, 3),
        "b": (torch.zeros(2, 1, dtype=torch.complex64), torch.zeros(2, 2, 2, dtype=torch.float64)),
    }
    z = dw.fixed_point(f, start, tol=1e-6).z
    torch.testing.assert_close(z["a"], torch.full((2, 3), 2.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        z["b"][0], torch.full((2, 1), 1 / (1 - 0.5j), dtype=torch.complex64), rtol=1e-4, atol=0
    )
    assert z["b"][1].dtype == torch.float64


def test_no_gradient_is_kept_where_none_is_needed():
    layer = nn.Linear(3, 3)
    nn.init.orthogonal_(layer.weight, 0.5)
    with torch.no_grad():
        assert not dw.fixed_point(layer, torch.zeros(2, 3)).z.requires_grad
    assert not dw.fixed_point(torch.cos, torch.zeros(2, 3, requires_grad=True)).z.requires_grad


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(f=lambda z: z[:, :1]), "keep the state's shape and dtype"),
        (dict(f=lambda z: z.double()), "keep the state's shape and dtype"),
        (dict(f=lambda z: (z, z)), "tree like its state"),
        (dict(f=lambda z: None), "a state is a tensor"),
        (dict(f=3), "f must be a Map or a callable"),
        (dict(z0=torch.zeros(2, 2, dtype=torch.int64)), "floating-point"),
        (dict(z0=torch.zeros(0, 2)), "empty batch"),
        (dict(z0=torch.tensor(1.0)), "no batch dimension"),
        (dict(z0=torch.full((2, 2), torch.nan)), "NaN or infinite"),
        (dict(tol=-1e-3), "tol must be finite and not negative, got -0.001"),
        (dict(tol=float("nan")), "tol must be"),
        (dict(max_steps=0), "max_steps must be an integer of at least 1, got 0"),
        (dict(max_steps=2.5), "max_steps must be"),
        (dict(solver="anderson"), "solver must be a Solver"),
        (dict(gradient="implicit"), "gradient must be a Gradient"),
        (dict(f=lambda z, x: z, x=torch.zeros(3, 2), compact=True), "must have 2 rows"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    given = {"f": torch.cos, "z0": torch.zeros(2, 2), **arguments}
    with pytest.raises(InvalidInput, match=sentence):
        dw.fixed_point(given.pop("f"), given.pop("z0"), given.pop("x", None), **given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Picard(damping=0.0),
        lambda: Picard(damping=1.5),
        lambda: Anderson(memory=0),
        lambda: Anderson(damping=0.0),
        lambda: Anderson(ridge=-1.0),
        lambda: Anderson(restart=0.5),
        lambda: dw.Implicit(tol=-1.0),
        lambda: dw.Implicit(max_steps=0),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(InvalidInput):
        make()


# Members that break the contract: the suite must see each.
class MixesSamples(Solver):
    def init(self, z):
        return ()

    def step(self, z, fz, carry, f):
        return fz + 0.01 * (fz - z).mean(dim=0), ()


class MissesTheAnswer(Solver):
    def init(self, z):
        return ()

    def step(self, z, fz, carry, f):
        return 0.5 * fz, ()


class ChangesItsArgument(Solver):
    def init(self, z):
        return ()

    def step(self, z, fz, carry, f):
        return z.copy_(fz), ()


class AbsoluteRidge(Solver):
    """Two-point mixing whose ridge has units."""

    def init(self, z):
        return (torch.zeros_like(z), torch.zeros_like(z), torch.zeros(len(z), 1, dtype=z.dtype))

    def step(self, z, fz, carry, f):
        last_r, last_f, known = carry
        r = fz - z
        dr = r - last_r
        top, below = (r * dr).sum(1, keepdim=True), (dr * dr).sum(1, keepdim=True)
        after = fz - known * top / (below + 1e-3) * (fz - last_f)
        return after, (r, fz, torch.ones_like(known))


class Detaches(Solver):
    def init(self, z):
        return ()

    def step(self, z, fz, carry, f):
        return z + 0.5 * (fz - z).detach(), ()


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (MixesSamples(), "mixes samples"),
        (MissesTheAnswer(), "did not solve"),
        (ChangesItsArgument(), "in place"),
        (AbsoluteRidge(), "units of the state"),
        (Detaches(), "derivative"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_suite_sees_a_broken_solver(broken, sentence):
    with pytest.raises(ConformanceError, match=sentence):
        check_solver(broken)
