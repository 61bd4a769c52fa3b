"""Langevin steps whose two products are integers."""

import math

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.kernels import energy_and_force
from driftwell.models.langevin.walk import Walk, checked_walk
from driftwell.quantization.langevin import kernel
from driftwell.quantization.langevin.integer_steps import (
    _bytes_multiply_right,
    integer_force,
    integer_product,
    integer_steps,
)
from driftwell.quantization.langevin.shared_couplings import Integers

compiled = pytest.mark.skipif(not kernel.is_fast(), reason="no compiler, or no byte products here")
BACKENDS = ["eager", pytest.param("native", marks=compiled)]


def couplings(n: int, dtype: torch.dtype = torch.float32) -> Integers:
    made = torch.Generator().manual_seed(n)
    Q = torch.randint(-128, 128, (n, n), generator=made).to(torch.int8)
    scale = 1.5 / (74 * math.sqrt(n)) * (0.5 + torch.rand(n, generator=made))
    return Integers(Q, scale.to(dtype))


def states(count: int, n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, n, generator=torch.Generator().manual_seed(count)).to(dtype)


def walk(x: torch.Tensor, held: Integers, **changed: object) -> Walk:
    settings = {
        "steps": 7, "step_size": 0.05, "temperature": 1.0, "seed": 3, "first_step": 0,
        "chains": len(x), "scheme": "lm", "precision": None, "preconditioner": None,
        "free": None, "onsager": True, "matmul": "float32",
    } | changed  # fmt: skip
    return checked_walk(x, held.values.to(x.dtype), x.new_full((x.shape[1],), 0.1), **settings)


def test_the_force_is_the_float_one_up_to_the_rounding_of_what_is_multiplied() -> None:
    held, x = couplings(60, torch.float64), states(40, 60, torch.float64)
    b = torch.full((60,), 0.1, dtype=torch.float64)
    J = held.values
    _, exact, e, phi = energy_and_force(x, J, b)
    off_h = (J.abs().sum(1) / 254).expand(40, -1)  # |error of phi| <= 1/254
    peak = ((e.abs() + off_h) * held.scale).amax(1, keepdim=True)
    off_g = peak / 254 * held.Q.double().abs().sum(0) + off_h @ J.abs()
    found = integer_force(x, held, b)
    assert ((found - exact).abs() <= off_h + (1 - phi * phi) * off_g + 1e-12).all()
    relative = (found - exact).norm() / exact.norm()
    assert 1e-4 < relative < 0.02
    # rounding has no direction: its part along the force is far smaller
    assert abs(float((found * exact).sum() / exact.square().sum()) - 1) < 1e-3


@compiled
@pytest.mark.parametrize("n", [1, 2, 7, 16, 31, 33, 64, 130])
@pytest.mark.parametrize("transpose", [False, True])
def test_the_kernels_products_are_exact(n: int, transpose: bool) -> None:
    Q = couplings(n).Q
    codes = torch.randint(-127, 128, (11, n), generator=torch.Generator().manual_seed(0))
    exact = codes.double() @ (Q.double() if transpose else Q.double().T)
    assert torch.equal(kernel.product(Q, codes.to(torch.int8), transpose).double(), exact)


@compiled
def test_the_kernels_products_are_exact_at_the_extremes() -> None:
    for q in (-128, 127):
        for code in (-127, 127):
            Q, codes = torch.full((300, 300), q), torch.full((3, 300), code)
            found = kernel.product(Q.to(torch.int8), codes.to(torch.int8), False)
            assert found.eq(300 * q * code).all()


@pytest.mark.parametrize("n", [64, 1200])
def test_tensor_products_are_exact_with_and_without_byte_instructions(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Q, codes = torch.full((2, n), -128, dtype=torch.int8), torch.full((3, n), 127.0)
    codes[:, 0] = 126.0
    exact = codes.double() @ Q.double().T
    assert torch.equal(integer_product(codes, Q).double(), exact)
    monkeypatch.setattr(
        "driftwell.quantization.langevin.integer_steps._bytes_multiply_right", lambda: False
    )
    assert torch.equal(integer_product(codes, Q).double(), exact)


def test_the_self_test_finds_saturating_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a.double() + 128, b.double()
        pairs = sum(
            (a[:, k::2][:, :, None] * b[k::2][None]) for k in (0, 1)
        ).clamp(-(2**15), 2**15 - 1)  # fmt: skip
        return (pairs.sum(1) - 128 * b.sum(0)).to(torch.int32)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    _bytes_multiply_right.cache_clear()
    try:
        assert not _bytes_multiply_right()
    finally:
        _bytes_multiply_right.cache_clear()


@compiled
@pytest.mark.parametrize("scheme", ["lm", "em", "none"])
def test_the_kernel_takes_the_reference_steps(scheme: str) -> None:
    held, x = couplings(100), states(19, 100)
    one, name = integer_steps(walk(x, held, scheme=scheme), held, 2, "native")
    other, eager = integer_steps(walk(x, held, scheme=scheme), held, 1, "eager")
    assert name == "native, 8-bit products"
    assert eager == "eager, 8-bit products"
    # the same integers but where rounding in float32 tips a code: one code is 1 / 127
    assert (one - other).abs().median() < 1e-6
    assert (one - other).abs().max() < 0.01


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_chain_does_not_depend_on_the_batch_nor_on_threads(backend: str) -> None:
    held, x = couplings(70), states(45, 70)
    whole, _ = integer_steps(walk(x, held), held, 2, backend)
    ids = torch.arange(45)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 45)):
        part, _ = integer_steps(walk(x[rows], held, chains=ids[rows]), held, 1, backend)
        if backend == "native":
            assert torch.equal(part, whole[rows])
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=5e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_in_two_parts_is_the_same_run(backend: str) -> None:
    held, x = couplings(40), states(9, 40)
    whole, _ = integer_steps(walk(x, held, steps=8), held, 1, backend)
    half, _ = integer_steps(walk(x, held, steps=3), held, 1, backend)
    rest, _ = integer_steps(walk(half, held, steps=5, first_step=3), held, 1, backend)
    assert torch.equal(rest, whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_clamped_neurons_stay(backend: str) -> None:
    held, x = couplings(20), states(9, 20)
    for free in (torch.arange(20) % 3 == 0, torch.rand(9, 20) < 0.5):
        found, _ = integer_steps(walk(x, held, free=free), held, 1, backend)
        moved = free.expand(9, 20)
        assert torch.equal(found[~moved], x[~moved])
        assert found[moved].ne(x[moved]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_chain_stays_broken_and_alone(backend: str, bad: float) -> None:
    held, x = couplings(20), states(9, 20)
    good, _ = integer_steps(walk(x, held), held, 1, backend)
    x[4, 3] = bad
    found, _ = integer_steps(walk(x, held), held, 1, backend)
    others = torch.arange(9) != 4
    assert torch.equal(found[others], good[others])
    assert found[4].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_neuron_at_rest_stays_at_rest(backend: str) -> None:
    held = Integers(torch.zeros(3, 3, dtype=torch.int8), torch.ones(3))
    found, _ = integer_steps(walk(torch.full((2, 3), 0.1), held, scheme="none"), held, 1, backend)
    assert torch.equal(found, torch.full((2, 3), 0.1))


def test_other_backends_are_refused() -> None:
    held = couplings(4, torch.float64)
    given = walk(states(2, 4, torch.float64), held)
    with pytest.raises(InvalidInput, match="auto, native or eager"):
        integer_steps(given, held, 1, "fast")
    with pytest.raises(InvalidInput, match='"native" needs float32'):
        integer_steps(given, held, 1, "native")
