"""Closed forms: CLoQ, the SVD of LoftQ, block least squares, Kronecker fits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import normal
from driftwell.quantization.adapters import (
    BlockDiagonalAdapter,
    KroneckerAdapter,
    LowRankAdapter,
    cloq_init,
    closest_kronecker,
    svd_init,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, seed=seed, purpose=64, chains=shape[0], step=0, dtype=torch.float64)


def layer_of(seed: int, inputs: int = 24, outputs: int = 18, decades: float = 2.0) -> list[Tensor]:
    """W, its values on a coarse grid, and a Gram matrix of condition 10^decades."""
    w = drawn(outputs, inputs, seed=seed)
    q = 1.5 * (w / 1.5).round()
    basis = torch.linalg.qr(drawn(inputs, inputs, seed=seed + 1000)).Q
    spectrum = torch.logspace(0, -decades, inputs, dtype=torch.float64)
    return [w, q, basis @ torch.diag(spectrum) @ basis.mT]


def error(delta: Tensor, gram: Tensor) -> float:
    """||X delta^T||_F^2."""
    return float(((delta @ gram) * delta).sum())


def test_cloq_is_the_optimum_of_weighted_low_rank_approximation() -> None:
    """Its error is the sum of the discarded squared singular values of R (W - Q)^T."""
    w, q, gram = layer_of(1)
    a, b = cloq_init(w, q, gram, rank=5, damp=0.0)
    root = torch.linalg.cholesky(gram).mT  # another R with R^T R = G
    discarded = torch.linalg.svdvals(root @ (w - q).mT)[5:].square().sum()
    assert error(w - q - b @ a, gram) == pytest.approx(float(discarded), rel=1e-9)


def test_no_alternating_least_squares_does_better() -> None:
    """Exact alternating minimisation, run long from three starts, ends at CLoQ's error."""
    w, q, gram = layer_of(2, inputs=10, outputs=8)
    a, b = cloq_init(w, q, gram, rank=3, damp=0.0)
    best = error(w - q - b @ a, gram)
    for seed in range(3):
        found = drawn(8, 3, seed=seed)
        for _ in range(400):
            other = torch.linalg.lstsq(found, w - q).solution
            found = torch.linalg.solve(other @ gram @ other.mT, other @ gram @ (w - q).mT).mT
        reached = error(w - q - found @ other, gram)
        assert reached >= best * (1 - 1e-9)
        assert reached == pytest.approx(best, rel=1e-3)


def test_every_small_step_away_from_cloq_costs_output_error() -> None:
    w, q, gram = layer_of(3)
    a, b = cloq_init(w, q, gram, rank=4, damp=0.0, split="sym")
    best = error(w - q - b @ a, gram)
    for seed in range(20):
        moved_a, moved_b = a + 1e-3 * drawn(4, 24, seed=seed), b + 1e-3 * drawn(18, 4, seed=seed)
        assert error(w - q - moved_b @ moved_a, gram) > best


@pytest.mark.parametrize("decades", [0.0, 2.0, 6.0])
def test_cloq_is_never_worse_in_output_error_than_the_svd(decades: float) -> None:
    for seed in range(5):
        w, q, gram = layer_of(seed, decades=decades)
        for rank in (1, 6, 18):
            (a, b), (sa, sb) = cloq_init(w, q, gram, rank, damp=0.0), svd_init(w, q, rank)
            ours, theirs = error(w - q - b @ a, gram), error(w - q - sb @ sa, gram)
            assert ours <= theirs * (1 + 1e-9) + 1e-12


def test_white_inputs_make_cloq_the_svd() -> None:
    w, q, _ = layer_of(4)
    a, b = cloq_init(w, q, 3.0 * torch.eye(24, dtype=torch.float64), rank=5, damp=0.3)
    sa, sb = svd_init(w, q, rank=5)
    torch.testing.assert_close(b @ a, sb @ sa, rtol=1e-10, atol=1e-10)


def test_both_splits_are_one_product() -> None:
    w, q, gram = layer_of(5)
    (a, b), (sym_a, sym_b) = (cloq_init(w, q, gram, 4, split=split) for split in ("A", "sym"))
    torch.testing.assert_close(b @ a, sym_b @ sym_a)
    torch.testing.assert_close(b.mT @ b, torch.eye(4, dtype=torch.float64))
    assert float(sym_b.norm()) > float(b.norm())


def test_a_singular_gram_matrix_is_repaired_where_inputs_are() -> None:
    """Fewer samples than inputs: damping keeps the factors small; without it the rest gets zero."""
    w, q, _ = layer_of(6)
    x = drawn(6, 24, seed=7)
    gram = x.mT @ x
    a, b = cloq_init(w, q, gram, rank=6, damp=0.0)
    torch.testing.assert_close(x @ (q + b @ a).mT, x @ w.mT, rtol=1e-8, atol=1e-8)
    nowhere = torch.linalg.qr(x.mT, mode="complete").Q[:, 6:]
    torch.testing.assert_close(b @ (a @ nowhere), torch.zeros(18, 18, dtype=torch.float64))
    a, b = cloq_init(w, q, gram, rank=6, damp=0.01)
    assert bool(torch.isfinite(b @ a).all())
    assert float((b @ a).norm()) < 3 * float((w - q).norm())


def test_damping_adds_its_share_of_the_mean_diagonal() -> None:
    w, q, gram = layer_of(6)
    damped = gram + 0.3 * gram.diagonal().mean() * torch.eye(24, dtype=torch.float64)
    (a, b), (plain_a, plain_b) = cloq_init(w, q, gram, 4, 0.3), cloq_init(w, q, damped, 4, 0.0)
    torch.testing.assert_close(b @ a, plain_b @ plain_a)
    adapters = [BlockDiagonalAdapter(nn.Linear(24, 18, dtype=torch.float64), 3) for _ in "ab"]
    adapters[0].start_from(w - q, gram, damp=0.3)
    adapters[1].start_from(w - q, damped, damp=0.0)
    torch.testing.assert_close(adapters[0].delta(), adapters[1].delta())


def test_the_figure_of_the_synthetic_layer() -> None:
    """Card: 64 inputs, 48 outputs, rank 8, condition 1e4: 0.46 with CLoQ, 0.75 with the SVD."""
    ours, theirs = [], []
    for seed in range(5):
        w, _, gram = layer_of(seed, inputs=64, outputs=48, decades=4.0)
        delta = drawn(48, 64, seed=seed + 50)
        whole = error(delta, gram)
        for kept, (a, b) in (
            (ours, cloq_init(w, w - delta, gram, 8)),
            (theirs, svd_init(w, w - delta, 8)),
        ):
            kept.append((error(delta - b @ a, gram) / whole) ** 0.5)
    assert sum(ours) / 5 == pytest.approx(0.46, abs=0.05)
    assert sum(theirs) / 5 == pytest.approx(0.75, abs=0.05)


def test_a_sum_of_kronecker_products_is_found_again() -> None:
    dense = sum(torch.kron(drawn(4, 3, seed=i), drawn(2, 5, seed=i + 9)) for i in range(3))
    b, a = closest_kronecker(dense, r1=2, r2=3, r=3)
    found = sum(torch.kron(b[:, i], a[i]) for i in range(3))
    torch.testing.assert_close(found, dense, rtol=1e-10, atol=1e-10)


def test_the_nearest_kronecker_sum_leaves_the_discarded_singular_values() -> None:
    target = drawn(8, 12)
    for r in (1, 4, 12):
        b, a = closest_kronecker(target, r1=2, r2=3, r=r)
        left = target - sum(torch.kron(b[:, i], a[i]) for i in range(r))
        entries = [target[2 * i : 2 * i + 2, 4 * p : 4 * p + 4] for i in range(4) for p in range(3)]
        s = torch.linalg.svdvals(torch.stack([block.flatten() for block in entries]))
        assert float(left.norm()) == pytest.approx(float(s[r:].norm()), abs=1e-9)


def test_one_by_one_components_are_the_truncated_svd() -> None:
    target = drawn(8, 12)
    b, a = closest_kronecker(target, 1, 1, 3)
    sa, sb = svd_init(target, torch.zeros_like(target), 3)
    torch.testing.assert_close(b[:, :, 0] @ a[:, 0], sb @ sa)


def test_terms_beyond_the_full_rank_are_zero() -> None:
    b, a = closest_kronecker(drawn(2, 4), r1=2, r2=1, r=3)
    assert torch.equal(b[:, 1:], torch.zeros(1, 2, 1, dtype=torch.float64))
    assert torch.equal(a[1:], torch.zeros(2, 2, 4, dtype=torch.float64))


def test_adapters_start_at_their_closed_form() -> None:
    w, q, gram = layer_of(8, inputs=24, outputs=16)
    layer = nn.Linear(24, 16, dtype=torch.float64)
    low = LowRankAdapter(layer, rank=4, scale=2.5)
    low.start_from(w - q, gram, damp=0.02)
    a, b = cloq_init(w, q, gram, 4, damp=0.02)
    torch.testing.assert_close(low.delta(), b @ a)
    low.start_from(w - q, None, damp=0.0)
    a, b = svd_init(w, q, 4)
    torch.testing.assert_close(low.delta(), b @ a)
    kron = KroneckerAdapter(layer, 2, 2, 3, scale=2.5)
    kron.start_from(w - q, None, damp=0.0)
    b, a = closest_kronecker(w - q, 2, 2, 3)
    torch.testing.assert_close(kron.delta(), torch.einsum("bip,iaq->bapq", b, a).reshape(16, 24))
    with pytest.raises(InvalidInput, match="white inputs only"):
        kron.start_from(w - q, gram, damp=0.0)


@pytest.mark.parametrize(("blocks", "permuted"), [(4, None), (5, None), (3, 2)])
def test_blocks_start_at_their_least_squares_solution(blocks: int, permuted: int | None) -> None:
    """The gradient of the output error with respect to D is zero there."""
    w, q, gram = layer_of(9, inputs=24, outputs=16)
    layer = nn.Linear(24, 16, dtype=torch.float64)
    adapter = BlockDiagonalAdapter(layer, blocks, permuted)
    adapter.start_from(w - q, gram, damp=0.0)
    left = w - q - adapter.delta()
    ((left @ gram) * left).sum().backward()
    torch.testing.assert_close(
        adapter.blocks.grad, torch.zeros_like(adapter.blocks), atol=1e-8, rtol=0
    )
    assert error(left.detach(), gram) < error(w - q, gram)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rank": 0}, "rank must be"),
        ({"rank": 19}, "rank must be an integer from 1 to 18"),
        ({"damp": -0.1}, "damp"),
        ({"split": "B"}, "split"),
        ({"gram": torch.eye(3)}, "24 x 24"),
        ({"gram": torch.full((24, 24), torch.nan)}, "NaN"),
        ({"quantized": torch.zeros(3, 3)}, "one shape"),
        ({"w": torch.full((18, 24), torch.inf)}, "infinity"),
    ],
)
def test_bad_input_to_cloq_is_said(change: dict[str, object], says: str) -> None:
    w, q, gram = layer_of(0)
    with pytest.raises(InvalidInput, match=says):
        cloq_init(**({"w": w, "quantized": q, "gram": gram, "rank": 2} | change))


def test_components_that_do_not_tile_are_refused() -> None:
    with pytest.raises(InvalidInput, match="r1 must divide"):
        closest_kronecker(torch.zeros(8, 12), 3, 1, 1)
    with pytest.raises(InvalidInput, match="finite matrix"):
        closest_kronecker(torch.full((8, 12), torch.nan), 2, 2, 1)
