"""The plan of a training step: counts by hand, memory that nothing shares at the same moment."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.training_lowering import lower_training
from driftwell.quantization.edge.training_memory import plan_memory
from driftwell.quantization.edge.training_plan import plan_training
from driftwell.quantization.edge.training_tiles import Product, Tile, choose_tile


class Residual(nn.Module):
    """x + conv(relu(conv(x))), or with a strided shortcut."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(channels, out, 1, stride=stride) if stride > 1 else nn.Identity()
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.first = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.relu(self.first(x))) + self.shortcut(x))


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


def deep() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), Residual(4, 4), Residual(4, 8, 2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def test_bytes_and_multiplications_are_those_counted_by_hand() -> None:
    """Conv 2 -> 4 of 3 x 3 on 8 x 8 at stride 2: 16 places, 18 entries, 4 rows."""
    plan = plan_training(small(), (2, 8, 8))
    conv, relu, pool, first, tanh, last = plan.layers
    assert conv.macs == (4 * 16 * 18, 4 * 16 * 18, 0)  # nobody needs the gradient of the sample
    assert first.macs == (128, 128, 128)
    assert last.macs == (24, 24, 24)
    assert relu.macs == pool.macs == tanh.macs == (0, 0, 0)
    assert plan.macs == (1152 + 152, 1152 + 152, 152)
    assert conv.column_bytes == 4 * 18 * 16
    assert conv.input_bytes == 4 * 128
    assert conv.output_bytes == 4 * 64
    parameters = 72 + 4 + 128 + 8 + 24 + 3
    assert plan.weight_bytes == plan.gradient_bytes == 4 * parameters
    assert conv.nbytes == 4 * (76 + 76 + 18 * 16 + 128 + 64)


def test_a_grouped_convolution_multiplies_and_unfolds_one_group_at_a_time() -> None:
    plan = plan_training(nn.Conv2d(8, 8, 3, padding=1, groups=4), (8, 6, 6))
    assert plan.macs[0] == 8 * 36 * 2 * 9
    assert plan.layers[0].column_bytes == 4 * 2 * 9 * 36


def test_a_pointwise_convolution_needs_no_columns() -> None:
    assert plan_training(nn.Conv2d(3, 5, 1), (3, 4, 4)).layers[0].column_bytes == 0


def test_memory_at_the_peak_of_a_small_network_by_hand() -> None:
    """Two linear layers, 3 -> 8 -> 2: in the last moments 8 values, 8 gradients, 2 gradients."""
    plan = plan_training(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), (3,))
    assert plan.peak_bytes == plan.arena_bytes == 4 * (8 + 8 + 2)


@pytest.mark.parametrize(("model", "shape"), [(small(), (2, 8, 8)), (deep(), (1, 8, 8))])
def test_buffers_that_live_at_the_same_moment_never_overlap(
    model: nn.Module, shape: tuple[int, ...]
) -> None:
    memory = plan_memory(lower_training(model, shape))
    for a, b in itertools.combinations(memory.buffers, 2):
        one, two = memory.buffers[a], memory.buffers[b]
        if one.start <= two.end and two.start <= one.end:
            low, high = sorted((memory.places[a], one.size) if n == a else (memory.places[b],
                               two.size) for n in (a, b))  # fmt: skip
            assert low[0] + low[1] <= high[0], (a, b)
    assert memory.peak <= memory.entries <= 1.1 * memory.peak


def test_what_is_frozen_has_no_gradients_and_what_lies_before_it_none_either() -> None:
    model = small()
    model[0].requires_grad_(False)
    plan = plan_training(model, (2, 8, 8))
    assert plan.layers[0].macs == (1152, 0, 0)
    assert plan.layers[3].macs == (128, 128, 0)  # the first that learns passes nothing back
    assert plan.gradient_bytes == plan.weight_bytes - 4 * 76


def test_half_precision_halves_what_is_stored_and_masters_are_counted() -> None:
    single, half, bare = (
        plan_training(small(), (2, 8, 8)),
        plan_training(small(), (2, 8, 8), precision="float16"),
        plan_training(small(), (2, 8, 8), precision="float16", master=False),
    )
    assert 2 * half.weight_bytes == single.weight_bytes
    assert 2 * half.arena_bytes == single.arena_bytes
    assert half.optimizer_bytes == single.weight_bytes
    assert 2 * bare.total_bytes == single.total_bytes
    heavy = plan_training(small(), (2, 8, 8), optimizer="momentum")
    assert heavy.optimizer_bytes == single.weight_bytes


@pytest.mark.parametrize("fast", [12, 100, 1024, 64 * 1024])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 5, 300), (64, 4096, 27), (4096, 1, 64)])
def test_tiles_fit_and_no_tile_that_fits_carries_less(
    sizes: tuple[int, int, int], fast: int
) -> None:
    product = Product(*sizes)
    tile = choose_tile(product, fast)
    assert tile.nbytes(4) <= fast
    powers = [[min(n, 2**k) for k in range(13)] for n in sizes]
    for other in itertools.starmap(Tile, itertools.product(*powers)):
        if other.nbytes(4) <= fast:
            assert tile.traffic(product) <= other.traffic(product)


def test_traffic_is_what_a_walk_over_the_tiles_carries() -> None:
    product, tile = Product(7, 5, 11), Tile(3, 2, 4)
    carried = 0
    for m in range(0, 7, 3):
        for n in range(0, 5, 2):
            rows, columns = min(3, 7 - m), min(2, 5 - n)
            carried += 2 * rows * columns
            for k in range(0, 11, 4):
                carried += (rows + columns) * min(4, 11 - k)
    assert tile.traffic(product) == carried


def test_the_plan_prints_a_line_a_layer_and_the_totals() -> None:
    plan = plan_training(small(), (2, 8, 8))
    lines = plan.table().splitlines()
    assert len(lines) == 1 + 7 + 7
    assert "1304 + 1304 + 152 = 2760" in plan.table()
    assert lines[-1].split() == ["together", str(plan.total_bytes), "bytes"]


class Odd(nn.Module):
    """Every operator that is not carried, of this file."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.BatchNorm2d(2), nn.GELU(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


class Twice(nn.Module):
    """One layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


def tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


def damaged() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight.data[0, 0] = float("nan")
    return layer


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Odd(), (2, 4, 8), r"BatchNorm2d \(a\), GELU \(b\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), (4,), "Dropout"),
        (Twice(), (4,), "used twice"),
        (tied(), (4,), "share a parameter"),
        (damaged(), (4,), "not finite"),
        (nn.Linear(4, 4).requires_grad_(False), (4,), "nothing is learned"),
        (nn.Linear(4, 4), (5,), "does not run on one sample"),
        (nn.Linear(4, 4), (3, 4), "flatten"),
        (nn.MaxPool2d(2, ceil_mode=True), (1, 5, 5), "ceil_mode"),
        (nn.Conv2d(1, 1, 3, padding_mode="circular", padding=1), (1, 5, 5), "padding"),
    ],
)
def test_what_cannot_be_trained_is_named(
    model: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        plan_training(model, shape)


def test_settings_that_are_not_known_are_refused() -> None:
    with pytest.raises(InvalidInput, match="float32"):
        plan_training(small(), (2, 8, 8), precision="bfloat16")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="sgd"):
        plan_training(small(), (2, 8, 8), optimizer="adam")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="at least 12"):
        plan_training(small(), (2, 8, 8), fast_bytes=8)
