"""Langevin steps of the machine: the equations, their truth, and three forms that agree."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from driftwell.core import native, noise
from driftwell.core.errors import InvalidInput
from driftwell.models.langevin import compiled, kernels
from driftwell.models.langevin.kernels import energy_and_force, langevin_steps

compiled_only = pytest.mark.skipif(
    native.load(compiled.KERNEL) is None,
    reason=f"no compiled kernel: {native.status(compiled.KERNEL).reason}",
)
FORMS = [
    pytest.param("loop", marks=compiled_only),
    pytest.param("products", marks=compiled_only),
    "eager",
]
RUN = {
    "steps": 5,
    "step_size": 0.03,
    "temperature": 0.7,
    "seed": 2**63 + 5,
    "first_step": 2**32 - 2,
}


def keyed(*shape: int, seed: int = 0) -> Tensor:
    return noise.normal(shape, seed=seed, purpose=noise.Purpose.USER, chains=shape[0], step=0)


def problem(count: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """States, couplings of gain 1.5, biases."""
    return keyed(count, n), keyed(n, n, seed=1) * 1.5 / n**0.5, keyed(1, n, seed=2)[0] * 0.1


# -------------------------------------------------------------------------------- equations


@pytest.mark.parametrize("weighted", [False, True])
def test_force_is_minus_the_gradient_of_the_energy(weighted: bool) -> None:
    x, J, b = (t.double() for t in problem(6, 11))
    s = keyed(1, 11, seed=3)[0].double().exp() if weighted else None
    x.requires_grad_()
    energy, force, e, phi = energy_and_force(x, J, b, s)
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    torch.testing.assert_close(force, -gradient, rtol=1e-12, atol=1e-12)
    residual = x - torch.tanh(x) @ J.T - b
    torch.testing.assert_close(e, residual if s is None else s * residual)
    torch.testing.assert_close(phi, torch.tanh(x))
    # by indices, as the card writes it: h_i = sum_j J_ij phi_j
    weight = torch.ones(11, dtype=torch.float64) if s is None else s
    h = torch.einsum("ij,bj->bi", J, torch.tanh(x))
    torch.testing.assert_close(energy, 0.5 * (weight * (x - h - b) ** 2).sum(-1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["lm", "em", "none"])
def test_one_step_is_the_equation_with_the_keyed_noise(form: str, scheme: str) -> None:
    x, J, b = problem(4, 40)
    d, T, dt = keyed(1, 40, seed=4)[0].exp(), 0.7, 0.03
    run = {**RUN, "steps": 1, "temperature": T, "step_size": dt}
    made, _ = langevin_steps(
        x, J, b, chains=4, scheme=scheme, preconditioner=d, backend=form, **run
    )
    key = {"seed": run["seed"], "purpose": noise.Purpose.DYNAMICS, "chains": 4}
    now, following = (
        noise.normal((4, 40), step=run["first_step"] + k, dtype=torch.float64, **key)
        for k in (0, 1)
    )
    xi = {"lm": (now + following) / 2, "em": now, "none": 0 * now}[scheme]
    force = energy_and_force(x.double(), J.double(), b.double())[1]
    expected = x + dt * d.double() * force + torch.sqrt(2 * T * dt * d.double()) * xi
    torch.testing.assert_close(made.double(), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_bare_network_has_no_feedback_term(form: str) -> None:
    x, J, b = problem(3, 20)
    made, _ = langevin_steps(
        x, J, b, chains=3, onsager=False, scheme="none", backend=form, **{**RUN, "steps": 1}
    )
    torch.testing.assert_close(made, x + 0.03 * (torch.tanh(x) @ J.T + b - x))


@compiled_only
@pytest.mark.parametrize("n", [1, 5, 16, 17, 33, 64, 130])
@pytest.mark.parametrize("count", [1, 3, 8, 11])
@pytest.mark.parametrize("form", ["loop", "products"])
def test_compiled_steps_are_the_reference_in_float64(n: int, count: int, form: str) -> None:
    x, J, b = problem(count, n)
    weights = keyed(2, n, seed=5).exp()
    chains = noise.words((1, count), seed=1, purpose=noise.Purpose.USER, chains=1, step=0)[0]
    for scheme in ("lm", "em", "none"):
        for onsager in (True, False):
            for free in (None, keyed(1, n, seed=6)[0] > 0, keyed(count, n, seed=6) > 0):
                run = {**RUN, "chains": chains, "scheme": scheme, "onsager": onsager, "free": free}
                exact, _ = langevin_steps(
                    x.double(), J.double(), b.double(), precision=weights[0].double(),
                    preconditioner=weights[1].double(), backend="eager", **run,
                )  # fmt: skip
                made, _ = langevin_steps(
                    x, J, b, precision=weights[0], preconditioner=weights[1], backend=form, **run
                )
                torch.testing.assert_close(made.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_tanh_is_relatively_accurate_everywhere(form: str) -> None:
    """With J = 1, dt = 1 and no feedback a step is x -> tanh(x), exactly so while x < 2 tanh(x)."""
    size = 64
    x = torch.cat([torch.logspace(-30, 0.27, 32 * size), torch.linspace(1.9, 30, 32 * size)])
    x = torch.cat([x, -x]).reshape(-1, size)
    made, _ = langevin_steps(
        x, torch.eye(size), torch.zeros(size), steps=1, step_size=1.0, temperature=0.0, seed=0,
        first_step=0, chains=len(x), scheme="none", onsager=False, backend=form,
    )  # fmt: skip
    error = (made.double() - torch.tanh(x.double())).abs()
    small = x.abs() < 1.9
    assert (error / x.double().abs().tanh())[small].max() < 3e-7
    assert (error / x.abs())[~small].max() < 2e-7
    zeros = torch.tensor([[0.0, -0.0]])
    kept, _ = langevin_steps(
        zeros, torch.eye(2), torch.zeros(2), steps=1, step_size=1.0, temperature=0.0, seed=0,
        first_step=0, chains=1, scheme="none", onsager=False, backend=form,
    )  # fmt: skip
    assert torch.equal(kept, zeros)


# ------------------------------------------------------------------------------------ truth


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["lm", "em"])
def test_stationary_variance_of_a_harmonic_well(form: str, scheme: str) -> None:
    """J = 0: E = s x^2 / 2 with k = dt d s; "lm" gives T/s exactly, "em" T / (s (1 - k/2)).

    40,960 independent numbers per neuron group: relative error sqrt(2/N) = 0.7 %, bound 4.5 of it.
    """
    count, n, T = 2560, 32, 0.6
    s = torch.tensor([0.5, 2.0]).repeat_interleave(16)
    d = torch.tensor([1.6, 0.5]).repeat_interleave(16)
    x, _ = langevin_steps(
        torch.zeros(count, n), torch.zeros(n, n), torch.zeros(n), steps=60, step_size=0.5,
        temperature=T, seed=3, first_step=0, chains=count, scheme=scheme, precision=s,
        preconditioner=d, backend=form,
    )  # fmt: skip
    k = 0.5 * d * s
    expected = T / s if scheme == "lm" else T / (s * (1 - k / 2))
    for group in (slice(0, 16), slice(16, 32)):
        sample = x[:, group].double().flatten()
        error = 4.5 * math.sqrt(2 / len(sample))
        assert abs(float((sample**2).mean()) / float(expected[group][0]) - 1) < error


def test_descent_lowers_the_energy() -> None:
    x, J, b = problem(8, 50)
    before = energy_and_force(x, J, b)[0]
    x, _ = langevin_steps(x, J, b, chains=8, **{**RUN, "steps": 200, "temperature": 0.0})
    assert (energy_and_force(x, J, b)[0] < 0.2 * before).all()


# -------------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["lm", "em"])
def test_a_run_in_two_parts_is_the_same_run(form: str, scheme: str) -> None:
    x, J, b = problem(9, 70)
    run: dict[str, Any] = {**RUN, "chains": 9, "scheme": scheme, "backend": form}
    whole, _ = langevin_steps(x, J, b, **{**run, "steps": 7})
    half, _ = langevin_steps(x, J, b, **{**run, "steps": 3})
    half, _ = langevin_steps(half, J, b, **{**run, "steps": 4, "first_step": run["first_step"] + 3})
    assert torch.equal(whole, half)


@compiled_only
@pytest.mark.parametrize("n", [20, 64, 100])
def test_the_loop_does_not_depend_on_batch_or_threads(n: int) -> None:
    """Bit for bit, through tiles of one, four and eight chains."""
    x, J, b = problem(37, n)
    run: dict[str, Any] = {**RUN, "backend": "loop"}
    whole, _ = langevin_steps(x, J, b, chains=37, threads=1, **run)
    for threads in (2, 3, 8, 37):
        assert torch.equal(whole, langevin_steps(x, J, b, chains=37, threads=threads, **run)[0])
    for rows in ([5], [36, 0], [1, 2, 30], list(range(3, 16))):
        part, _ = langevin_steps(x[rows], J, b, chains=torch.tensor(rows), threads=1, **run)
        assert torch.equal(whole[rows], part)


@compiled_only
def test_products_depend_on_the_batch_by_rounding_only() -> None:
    x, J, b = problem(37, 100)
    run: dict[str, Any] = {**RUN, "backend": "products"}
    whole, _ = langevin_steps(x, J, b, chains=37, **run)
    part, _ = langevin_steps(x[5:6], J, b, chains=torch.tensor([5]), **run)
    torch.testing.assert_close(whole[5:6], part, rtol=1e-5, atol=1e-5)
    one, _ = langevin_steps(x, J, b, chains=37, threads=1, **run)
    two, _ = langevin_steps(x, J, b, chains=37, threads=2, **run)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_each_chain_may_have_its_temperature(form: str) -> None:
    x, J, b = problem(5, 30)
    run: dict[str, Any] = {**RUN, "backend": form, "chains": 5}
    hot, cold = (langevin_steps(x, J, b, **{**run, "temperature": T})[0] for T in (2.0, 0.5))
    T = torch.tensor([2.0, 0.5, 0.5, 2.0, 0.5])
    mixed, _ = langevin_steps(x, J, b, **{**run, "temperature": T})
    expected = torch.where((T == 2.0)[:, None], hot, cold)
    torch.testing.assert_close(mixed, expected, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------- clamping, NaN, arguments


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per_chain", [False, True])
def test_clamped_neurons_keep_their_bits_and_act_on_the_others(form: str, per_chain: bool) -> None:
    x, J, b = problem(11, 45)
    x[:, 0] = -0.0
    free = (keyed(11, 45, seed=8) if per_chain else keyed(1, 45, seed=8)[0]) > 0
    free[..., 0] = False
    made, _ = langevin_steps(x, J, b, chains=11, free=free, backend=form, **RUN)
    held = ~free.expand_as(x)
    assert torch.equal(made[held].view(torch.int32), x[held].view(torch.int32))
    assert (made[~held] != x[~held]).all()
    moved = torch.where(held, x + 1, x)
    other, _ = langevin_steps(moved, J, b, chains=11, free=free, backend=form, **RUN)
    assert (other[~held] != made[~held]).any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("onsager", [True, False])
def test_not_a_number_stays_visible_and_in_its_chain(form: str, onsager: bool) -> None:
    """Without the feedback term it spreads by way of tanh alone."""
    x, J, b = problem(10, 40)
    good, _ = langevin_steps(x, J, b, chains=10, backend=form, onsager=onsager, **RUN)
    x[3, 7] = float("nan")
    made, _ = langevin_steps(x, J, b, chains=10, backend=form, onsager=onsager, **RUN)
    others = torch.arange(10) != 3
    assert made[3].isnan().all()
    torch.testing.assert_close(made[others], good[others])


@pytest.mark.parametrize("form", FORMS)
def test_inputs_are_not_modified_and_outputs_are_detached(form: str) -> None:
    x, J, b = problem(4, 30)
    kept = x.clone()
    made, _ = langevin_steps(x, J.requires_grad_(), b, chains=4, backend=form, **RUN)
    assert torch.equal(x, kept)
    assert not made.requires_grad
    same, _ = langevin_steps(x, J, b, chains=4, backend=form, **{**RUN, "steps": 0})
    assert torch.equal(same, x)
    assert same.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("form", FORMS)
def test_memory_layout_does_not_matter(form: str) -> None:
    x, J, b = problem(6, 24)
    run: dict[str, Any] = {**RUN, "chains": 6, "backend": form}
    expected, _ = langevin_steps(x, J, b, **run)
    strided = torch.stack([x, x], dim=-1)[..., 0]
    made, _ = langevin_steps(strided, J.T.contiguous().T, torch.stack([b, b], dim=-1)[:, 0], **run)
    torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------- choice of the form


@compiled_only
def test_the_form_follows_from_shape_and_dtype() -> None:
    def name(n: int, dtype: torch.dtype = torch.float32, **more: Any) -> str:
        x, J, b = (t.to(dtype) for t in problem(2, n))
        return langevin_steps(x, J, b, chains=2, **{**RUN, "steps": 1}, **more)[1]

    assert name(kernels.LOOP_NEURONS) == "native loop"
    assert name(kernels.LOOP_NEURONS + 1).startswith("native passes")
    assert name(8, matmul="bfloat16").startswith("native passes")
    assert name(8, dtype=torch.float64) == "eager"
    assert name(8, backend="eager") == "eager"


@compiled_only
def test_without_onednn_the_plain_product_is_used_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, J, b = problem(9, 80)
    expected, _ = langevin_steps(x, J, b, chains=9, backend="eager", **RUN)
    monkeypatch.setattr(compiled, "_onednn_multiplies", lambda dtype: False)
    made, name = langevin_steps(x, J, b, chains=9, backend="products", **RUN)
    assert name == "native passes, torch.mm float32"
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)


@compiled_only
def test_bfloat16_products_keep_state_and_update_in_float32() -> None:
    """A step's displacement differs by the products' rounding, about 2^-8 of their size."""
    x, J, b = problem(64, 200)
    run: dict[str, Any] = {**RUN, "steps": 1, "chains": 64}
    exact, _ = langevin_steps(x, J, b, **run)
    made, name = langevin_steps(x, J, b, matmul="bfloat16", **run)
    eager, eager_name = langevin_steps(x, J, b, matmul="bfloat16", backend="eager", **run)
    assert "bfloat16" in name
    assert "bfloat16" in eager_name
    assert made.dtype == torch.float32
    drift = (exact - x).norm()
    assert 1e-5 < (made - exact).norm() / drift < 1e-2
    assert 1e-5 < (eager - exact).norm() / drift < 1e-2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(3)}, r"\(B, n\)"),
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, "floating"),
        ({"J": torch.zeros(3, 4)}, "J must be"),
        ({"J": torch.zeros(3, 3).double()}, "J must be"),
        ({"b": torch.zeros(4)}, "b must be"),
        ({"steps": -1}, "steps"),
        ({"first_step": -1}, "first_step"),
        ({"first_step": 2**40}, "first_step"),
        ({"step_size": 0.0}, "step_size"),
        ({"step_size": float("nan")}, "step_size"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": torch.tensor([1.0, 2.0, 3.0])}, "temperature"),
        ({"temperature": torch.tensor([1.0, -2.0])}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"chains": 3}, "chains"),
        ({"chains": torch.tensor([0, 2**32])}, "chain ids"),
        ({"scheme": "heun"}, "scheme"),
        ({"matmul": "int8"}, "matmul"),
        ({"backend": "gpu"}, "backend"),
        ({"threads": 0}, "threads"),
        ({"precision": torch.tensor([1.0, 0.0, 1.0])}, "precision must be positive"),
        ({"preconditioner": torch.tensor([1.0, -1.0, 1.0])}, "preconditioner must be positive"),
        ({"free": torch.ones(3)}, "free must be bool"),
        ({"free": torch.ones(2, dtype=torch.bool)}, "free must be bool"),
    ],
)  # fmt: skip
def test_bad_arguments_get_one_sentence(change: dict[str, Any], says: str) -> None:
    good = {**RUN, "x": torch.zeros(2, 3), "J": torch.zeros(3, 3), "b": torch.zeros(3), "chains": 2}
    with pytest.raises(InvalidInput, match=says) as caught:
        langevin_steps(**{**good, **change})
    assert "\n" not in str(caught.value)


def test_a_compiled_form_that_does_not_apply_is_refused_by_name() -> None:
    x, J, b = (t.double() for t in problem(2, 3))
    with pytest.raises(InvalidInput, match="float32 on the CPU"):
        langevin_steps(x, J, b, chains=2, backend="native", **RUN)
