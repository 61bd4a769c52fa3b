"""Adapters: the update they add is the matrix their paper writes down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import normal
from driftwell.quantization.adapters import (
    CDKA,
    Adapter,
    AdapterDescription,
    BlockDiagonalAdapter,
    DiaBlo,
    KroneckerAdapter,
    LoRA,
    LowRankAdapter,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return normal(shape, seed=seed, purpose=64, chains=shape[0], step=0, dtype=torch.float64)


def linear(in_features: int = 12, out_features: int = 8) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(drawn(out_features, in_features, seed=9))
    return layer


def stirred(adapter: Adapter) -> Adapter:
    """The adapter after some training: every number of it drawn."""
    with torch.no_grad():
        for i, p in enumerate(p for p in adapter.parameters() if p.requires_grad):
            p.copy_(drawn(*p.shape, seed=i + 1))
    return adapter


each = pytest.mark.parametrize(
    "description",
    [
        LoRA(3, alpha=5.0),
        LoRA(3, alpha=5.0, rank_stabilized=True),
        DiaBlo(4),
        DiaBlo(5),
        DiaBlo(3, permuted=7),
        CDKA(2, 3, 2, alpha=4.0),
        CDKA(4, 2, 3, scaling="sqrt(r r2)", alpha=1.0),
        CDKA(1, 1, 3),
    ],
    ids=str,
)


@each
def test_the_update_is_x_times_delta_transposed(description: AdapterDescription) -> None:
    adapter = stirred(description.attach(linear()))
    x = drawn(2, 5, 12)
    torch.testing.assert_close(adapter.update(x), x @ adapter.delta().mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        adapter(x), F.linear(x, adapter.merged_weight(), adapter.base.bias), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(adapter(x[0, 0]), adapter(x)[0, 0])


@each
def test_a_fresh_adapter_changes_nothing_and_can_learn(description: AdapterDescription) -> None:
    layer = linear()
    adapter = description.attach(layer)
    x = drawn(6, 12)
    assert torch.equal(adapter(x), layer(x))
    adapter(x).square().sum().backward()
    sizes = {n: p.grad.norm().item() for n, p in adapter.named_parameters() if p.grad is not None}
    assert set(sizes) == {n for n, p in adapter.named_parameters() if p.requires_grad}
    assert max(sizes.values()) > 0
    assert layer.weight.grad is None


@each
def test_the_count_is_what_trains(description: AdapterDescription) -> None:
    adapter = description.attach(linear())
    assert adapter.parameter_count == description.count(12, 8)
    assert not any(p.requires_grad for p in adapter.base.parameters())


@each
def test_gradients_match_finite_differences(description: AdapterDescription) -> None:
    adapter = stirred(description.attach(linear()))
    x = drawn(2, 12).requires_grad_()
    trained = [p for p in adapter.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: adapter(x), (x, *trained))


def test_a_kronecker_update_is_the_sum_of_torch_kron() -> None:
    adapter = KroneckerAdapter(linear(), r1=4, r2=3, r=2, scale=0.7)
    stirred(adapter)
    dense = sum(torch.kron(adapter.kron_B[:, i], adapter.kron_A[i]) for i in range(2))
    torch.testing.assert_close(adapter.delta(), 0.7 * dense, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(7,), (3, 5)])
def test_one_by_one_components_are_lora_bit_for_bit(
    dtype: torch.dtype, batch: tuple[int, ...]
) -> None:
    layer = nn.Linear(33, 17, dtype=dtype)
    low = LoRA(5, alpha=3.0, rank_stabilized=True, seed=4).attach(layer, 2)
    kron = CDKA(1, 1, 5, alpha=3.0, seed=4).attach(layer, 2)
    assert torch.equal(low.lora_A, kron.kron_A[:, 0])
    with torch.no_grad():
        low.lora_B.copy_(drawn(17, 5))
        kron.kron_B.copy_(low.lora_B[:, :, None])
    x = drawn(*batch, 33).to(dtype)
    assert torch.equal(low(x), kron(x))
    for adapter in (low, kron):
        adapter(x).sin().sum().backward()
    assert torch.equal(low.lora_A.grad, kron.kron_A.grad[:, 0])
    assert torch.equal(low.lora_B.grad, kron.kron_B.grad[:, :, 0])


def test_a_kronecker_update_has_more_rank_than_lora_of_its_size() -> None:
    layer = linear(16, 16)
    kron, low = (stirred(d.attach(layer)) for d in (CDKA(2, 2, 2), LoRA(2)))
    assert kron.parameter_count == low.parameter_count
    assert torch.linalg.matrix_rank(kron.delta()) == 8
    assert torch.linalg.matrix_rank(low.delta()) == 2


def test_a_block_diagonal_update_is_a_masked_dense_one() -> None:
    """Training D by gradient steps equals training the weight with a block mask."""
    layer, x, wanted = linear(12, 8), drawn(20, 12, seed=1), drawn(20, 8, seed=2)
    adapter = BlockDiagonalAdapter(layer, blocks=4)
    dense = layer.weight.detach().clone().requires_grad_()
    mask = torch.block_diag(*[torch.ones(2, 3, dtype=torch.float64)] * 4)
    for _ in range(5):
        gradient = torch.autograd.grad(F.mse_loss(adapter(x), wanted), adapter.blocks)[0]
        masked = torch.autograd.grad(F.mse_loss(F.linear(x, dense, layer.bias), wanted), dense)[0]
        with torch.no_grad():
            adapter.blocks -= 0.1 * gradient
            dense -= 0.1 * mask * masked
    torch.testing.assert_close(adapter.merged_weight(), dense.detach(), rtol=1e-12, atol=1e-12)


def test_permuted_blocks_couple_drawn_inputs() -> None:
    plain, permuted = (
        stirred(BlockDiagonalAdapter(linear(), blocks=4, permuted=seed)) for seed in (None, 3)
    )
    assert not torch.equal(plain.delta(), permuted.delta())
    assert int((permuted.delta() != 0).sum()) == int((plain.delta() != 0).sum()) == 24
    torch.testing.assert_close(permuted.delta()[:, permuted.order], plain.delta())


def test_scales_follow_their_rules() -> None:
    assert LoRA(4, alpha=8.0).scale == 2.0
    assert LoRA(4, alpha=8.0, rank_stabilized=True).scale == 4.0
    assert LoRA(4).scale == CDKA(2, 2, 4).scale == 1.0
    assert CDKA(2, 4, 4, alpha=8.0).scale == 4.0
    assert CDKA(2, 4, 4, alpha=8.0, scaling="r").scale == 2.0
    assert CDKA(2, 4, 4, alpha=8.0, scaling="sqrt(r r2)").scale == 2.0


def test_layers_start_from_noise_of_their_own() -> None:
    first, second, again = (LoRA(2).attach(linear(), i).lora_A for i in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert float(first.detach().abs().max()) <= 12**-0.5


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LowRankAdapter(linear(), rank=9), "use at most 8"),
        (lambda: LowRankAdapter(linear(), rank=0), "at least 1"),
        (lambda: BlockDiagonalAdapter(linear(), blocks=9), "use at most 8"),
        (lambda: KroneckerAdapter(linear(), r1=3, r2=1, r=1), "r1 must divide the 8 outputs"),
        (lambda: KroneckerAdapter(linear(), r1=1, r2=5, r=1), "r2 the 12 inputs"),
        (lambda: LowRankAdapter(nn.ReLU(), rank=1), "wraps a linear layer"),
        (lambda: LowRankAdapter(LowRankAdapter(linear(), 1), rank=1), "wraps a linear layer"),
        (lambda: LoRA(0), "rank"),
        (lambda: LoRA(2, alpha=-1.0), "alpha"),
        (lambda: LoRA(2, split="B"), "split"),
        (lambda: DiaBlo(0), "blocks"),
        (lambda: DiaBlo(2, permuted=-1), "permuted"),
        (lambda: CDKA(2, 2, 0), "r="),
        (lambda: CDKA(2, 2, 1, scaling="1"), "scaling"),
    ],
)
def test_what_does_not_fit_is_said(make: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        make()
