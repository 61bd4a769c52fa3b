"""Keyed noise: known answers, addressing, distributions, and two backends that agree."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core import native, noise
from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, permutation, uniform, words
from driftwell.core.philox import philox

KEY = {"seed": 2**63 + 12345, "purpose": Purpose.DYNAMICS, "step": 2**39 + 77, "leaf": 300}
compiled_only = pytest.mark.skipif(
    native.load("core/noise.c") is None, reason=f"no compiled kernel: {native.status().reason}"
)
BACKENDS = [pytest.param("native", marks=compiled_only), "eager"]


# ------------------------------------------------------------------------------ known answers


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)  # fmt: skip
@pytest.mark.parametrize("backend", BACKENDS)
def test_words_are_the_published_known_answers(
    counter: str, key: str, answer: str, backend: str
) -> None:
    """The vectors of Random123 for philox4x32-10, also through the addressing of `words`."""
    c, k, expected = ([int(w, 16) for w in text.split()] for text in (counter, key, answer))
    made = philox(tuple(torch.tensor([w]) for w in c), (k[0], k[1]))
    assert [int(w) for w in made] == expected
    if c[0] > 2**20:
        return  # an element that far out would need a large tensor
    got = words(
        (1, 4 * c[0] + 4), seed=k[0] | k[1] << 32, step=c[2] | (c[3] & 0xFF) << 32,
        purpose=c[3] >> 8 & 0xFF, leaf=c[3] >> 16, chains=torch.tensor([c[1]]), backend=backend,
    )  # fmt: skip
    assert got[0, -4:].tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_part_of_the_key_lands_in_its_place_of_the_counter(backend: str) -> None:
    got = words(
        (1, 6), seed=0x299F31D0_A4093822, step=0xAB_13198A2E, purpose=0xCD, leaf=0x0370,
        chains=torch.tensor([0x85A308D3]), backend=backend,
    )[0]  # fmt: skip
    zero = torch.zeros(1, dtype=torch.int64)
    counter = (zero + 1, zero + 0x85A308D3, zero + 0x13198A2E, zero + 0x0370CDAB)
    expected = philox(counter, (0xA4093822, 0x299F31D0))
    assert got[4:].tolist() == [int(w) for w in expected[:2]]


# --------------------------------------------------------------------------- two backends


@compiled_only
@pytest.mark.parametrize("elements", [0, 1, 3, 4, 31, 63, 64, 65, 200, 5000])
def test_backends_give_identical_words_and_uniforms(elements: int) -> None:
    chains = torch.tensor([0, 5, 2**32 - 1, 77, 123456])
    shape = (5, elements)
    a, b = (words(shape, chains=chains, backend=which, **KEY) for which in ("native", "eager"))
    assert torch.equal(a, b)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        a, b = (
            uniform(shape, chains=chains, dtype=dtype, backend=which, **KEY)
            for which in ("native", "eager")
        )
        assert torch.equal(a, b)


@compiled_only
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 6e-7), (torch.float64, 2e-15)], ids=str
)
def test_backends_agree_on_normals_to_rounding(dtype: torch.dtype, tolerance: float) -> None:
    """Relative to each number, the smallest ones included: no cancellation anywhere."""
    exact = normal((300, 1003), chains=300, dtype=torch.float64, backend="eager", **KEY)
    for which in ("native", "eager"):
        made = normal((300, 1003), chains=300, dtype=dtype, backend=which, **KEY).double()
        assert ((made - exact) / exact).abs().max() < tolerance


@pytest.mark.parametrize("backend", BACKENDS)
def test_normals_are_box_muller_of_the_words(backend: str) -> None:
    w = words((7, 400), chains=7, backend=backend, **KEY).double()
    u, a = (w[:, 0::2] + 0.5) * 2.0**-32, (w[:, 1::2] + 0.5) * 2.0**-32 * 2 * math.pi
    radius = torch.sqrt(-2 * torch.log(u))
    n = normal((7, 400), chains=7, dtype=torch.float64, backend=backend, **KEY)
    torch.testing.assert_close(n[:, 0::2], radius * torch.cos(a), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(n[:, 1::2], radius * torch.sin(a), rtol=1e-9, atol=1e-12)


def test_half_precisions_are_rounded_float32() -> None:
    single = normal((3, 50), chains=3, **KEY)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(normal((3, 50), chains=3, dtype=dtype, **KEY), single.to(dtype))


# ------------------------------------------------------------------------------ addressing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_chain_does_not_depend_on_its_batch(backend: str, dtype: torch.dtype) -> None:
    whole = normal((40, 6, 11), chains=40, dtype=dtype, backend=backend, **KEY)
    some = torch.tensor([31, 2, 39])
    assert torch.equal(
        whole[some], normal((3, 6, 11), chains=some, dtype=dtype, backend=backend, **KEY)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_longer_event_begins_with_the_shorter_one(backend: str) -> None:
    long = normal((2, 1000), chains=2, backend=backend, **KEY)
    assert torch.equal(long[:, :37], normal((2, 37), chains=2, backend=backend, **KEY))


def test_threads_change_nothing() -> None:
    before = torch.get_num_threads()
    made = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            made.append(normal((16, 5003), chains=16, **KEY))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    normal((4, 100), chains=4, **KEY)
    permutation(10, seed=0, purpose=Purpose.DATA, step=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_streams_of_different_keys_are_uncorrelated(backend: str) -> None:
    """Correlation of N independent pairs: N(0, 1/N), N = 40,000; bound 5 standard errors."""
    key = {"seed": 1, "purpose": 1, "step": 5, "leaf": 0, "chains": torch.tensor([3])}
    others = [
        {"seed": 2}, {"seed": 1 + 2**32}, {"purpose": 2}, {"step": 6}, {"step": 5 + 2**32},
        {"leaf": 1}, {"chains": torch.tensor([4])},
    ]  # fmt: skip
    size = 40_000
    streams = [
        normal((1, size), backend=backend, dtype=torch.float64, **{**key, **change})[0]
        for change in ({}, *others)
    ]
    correlation = torch.corrcoef(torch.stack(streams))
    off_diagonal = correlation - torch.eye(len(streams), dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 / math.sqrt(size)
    # neighbours within one stream
    for lag in (1, 2, 3, 4, 8, 32):
        a, b = streams[0][:-lag], streams[0][lag:]
        assert abs(float((a * b).mean())) < 5 / math.sqrt(size)


# --------------------------------------------------------------------------- distributions


def _kolmogorov(sample: Tensor, cdf: Tensor) -> float:
    n = len(sample)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum(steps[1:] - cdf, cdf - steps[:-1]).max()) * math.sqrt(n)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_normals_are_normal(backend: str, dtype: torch.dtype) -> None:
    """Moments within 4.5 standard errors; Kolmogorov-Smirnov at level 1e-4 (sqrt(N) D < 2.23)."""
    n = normal((500, 800), chains=500, dtype=dtype, backend=backend, **KEY).double().flatten()
    size = len(n)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        error = math.sqrt(variance / size)
        assert abs(float((n**power).mean()) - mean) < 4.5 * error, power
    ordered = n.sort().values
    assert _kolmogorov(ordered, torch.special.ndtr(ordered)) < 2.23


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_uniforms_are_uniform_and_open(backend: str, dtype: torch.dtype) -> None:
    u = uniform((200, 1000), chains=200, dtype=dtype, backend=backend, **KEY)
    assert (u > 0).all()
    assert (u < 1).all()
    if dtype != torch.bfloat16:
        ordered = u.double().flatten().sort().values
        assert _kolmogorov(ordered, ordered) < 2.23


@compiled_only
def test_extreme_words_give_finite_normals_and_open_uniforms() -> None:
    """The tails of the transform, which random draws do not reach."""
    from driftwell.core.philox import to_normals, to_uniforms

    w = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    w, v = (grid.flatten() for grid in torch.meshgrid(w, w, indexing="ij"))
    for dtype in (torch.float32, torch.float64):
        n, u = to_normals((w, v, v, w), dtype), to_uniforms((w, v, v, w), dtype)
        assert n.isfinite().all()
        assert (u > 0).all()
        assert (u < 1).all()
    assert n.abs().max() > 6.7  # sqrt(2 ln 2^33)


# --------------------------------------------------------------------------- permutations


def test_a_permutation_is_one_and_follows_its_key() -> None:
    key = {"seed": 9, "purpose": Purpose.DATA}
    p = permutation(1000, step=0, **key)
    assert torch.equal(p.sort().values, torch.arange(1000))
    assert torch.equal(p, permutation(1000, step=0, **key))
    assert not torch.equal(p, permutation(1000, step=1, **key))
    assert permutation(0, step=0, **key).shape == (0,)


def test_permutations_are_unbiased() -> None:
    """All 24 orders of 4 things equally often: chi-squared with 23 degrees below 58.6 (p 6e-5)."""
    counts: dict[tuple[int, ...], int] = {}
    trials = 4800
    for step in range(trials):
        order = tuple(permutation(4, seed=1, purpose=Purpose.DATA, step=step).tolist())
        counts[order] = counts.get(order, 0) + 1
    expected = trials / 24
    assert len(counts) == 24
    assert sum((seen - expected) ** 2 / expected for seen in counts.values()) < 58.6


# --------------------------------------------------------------------------- out and errors


@pytest.mark.parametrize("backend", BACKENDS)
def test_out_is_filled_whatever_its_layout_and_dtype(backend: str) -> None:
    fresh = normal((5, 30), chains=5, backend=backend, **KEY)
    out = torch.empty(5, 30)
    assert normal((5, 30), chains=5, out=out, backend=backend, **KEY) is out
    assert torch.equal(out, fresh)
    strided = torch.empty(30, 5).T
    normal((5, 30), chains=5, out=strided, backend=backend, **KEY)
    assert torch.equal(strided, fresh)
    half = torch.empty(5, 30, dtype=torch.bfloat16)
    normal((5, 30), chains=5, out=half, backend=backend, **KEY)
    assert torch.equal(half, fresh.bfloat16())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": -1}, "seed must be in"),
        ({"seed": 2**64}, "seed must be in"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"step": 2**40}, "step must be in"),
        ({"step": -1}, "step must be in"),
        ({"purpose": 256}, "purpose must be in"),
        ({"leaf": 2**16}, "leaf must be in"),
        ({"chains": 3}, "2 chains"),
        ({"chains": torch.tensor([0, 2**32])}, "chain ids"),
        ({"chains": torch.tensor([-1, 0])}, "chain ids"),
        ({"chains": torch.tensor([0.0, 1.0])}, "int64"),
        ({"shape": ()}, r"\(B, \*event\)"),
        ({"shape": (2, -3)}, "shape"),
        ({"dtype": torch.int64}, "floating dtype"),
        ({"out": torch.empty(3, 3)}, "out must have shape"),
        ({"backend": "fast"}, "backend must be"),
    ],
)  # fmt: skip
def test_bad_arguments_get_one_sentence(change: dict[str, object], says: str) -> None:
    good = {"shape": (2, 3), "seed": 0, "purpose": 1, "chains": 2, "step": 0, "leaf": 0}
    with pytest.raises(InvalidInput, match=says) as caught:
        normal(**{**good, **change})
    assert "\n" not in str(caught.value)


def test_backend_says_what_fills_cpu_tensors() -> None:
    assert noise.backend() == ("eager" if native.load("core/noise.c") is None else "native")
