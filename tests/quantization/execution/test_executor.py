"""The executor: one answer whatever the path, and never a silent slow or wrong one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.execution import Executor, choose, kernels
from driftwell.quantization.execution.decoded import Decoded32
from driftwell.quantization.execution.kernel import Activations, Kernel
from driftwell.quantization.execution.rounding import rounded
from driftwell.quantization.execution.selection import KERNELS
from driftwell.quantization.execution.self_test import Verdict, examine
from driftwell.quantization.formats import NormalFloat, Packed, Uniform

BOTH: tuple[Activations, ...] = ("float", "int8")
both = pytest.mark.parametrize("activations", BOTH)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def packed_of(rows: int = 400, columns: int = 96, bits: int = 4) -> Packed:
    return Uniform(bits).encode(random(rows, columns, seed=1)).pack()


@pytest.fixture(params=["with kernels", "without a compiler"])
def _compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test that asks for this runs a second time with compiled kernels switched off."""
    if request.param == "without a compiler":
        monkeypatch.setenv("DRIFTWELL_NATIVE", "0")


# ------------------------------------------------------------------------------ answers


@pytest.mark.usefixtures("_compiler")
@both
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_outcome_is_the_product_with_the_decoded_weight(
    activations: Activations, bits: int, rows: int
) -> None:
    packed, x = packed_of(bits=bits), random(rows, 96)
    given = rounded(x) if activations == "int8" else x
    expected = given.double() @ packed.decode().double().T
    for exact, bound in ((False, 2.0**-7), (True, 1e-5)):
        y = Executor(packed, activations, exact=exact)(x)
        assert y.dtype == x.dtype
        assert (y - expected).abs().max() <= bound * expected.abs().max()


@pytest.mark.usefixtures("_compiler")
@both
def test_batch_axes_are_kept_and_any_stride_is_read(activations: Activations) -> None:
    executor = Executor(packed_of(), activations)
    x = random(5, 96, 3).transpose(1, 2)
    assert not x.is_contiguous()
    y = executor(x)
    assert y.shape == (5, 3, 400)
    assert torch.equal(y, executor(x.contiguous()))
    assert executor(x[0, 0]).shape == (400,)
    assert executor(x[:0]).shape == (0, 3, 400)


@pytest.mark.usefixtures("_compiler")
@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_of_x_is_the_dtype_of_y(activations: Activations, dtype: torch.dtype) -> None:
    packed = packed_of()
    x = random(4, 96, dtype=torch.float64).to(dtype)
    y = Executor(packed, activations)(x)
    given = rounded(x.double() if dtype == torch.float64 else x.float()).double()
    expected = (given if activations == "int8" else x.double()) @ packed.decode().double().T
    bound = 1e-6 if dtype == torch.float64 else 2.0**-6
    assert y.dtype == dtype
    assert (y - expected).abs().max() <= bound * expected.abs().max()


def test_threads_do_not_change_the_outcome() -> None:
    executor, before = Executor(packed_of(rows=300), "int8"), torch.get_num_threads()
    x = random(33, 96)
    try:
        torch.set_num_threads(1)
        alone = executor(x)
        torch.set_num_threads(3)
        assert torch.equal(executor(x), alone)
    finally:
        torch.set_num_threads(before)


def test_loading_other_codes_into_the_buffers_is_seen() -> None:
    packed, other = packed_of(), Uniform(4).encode(random(400, 96, seed=9)).pack()
    executor, x = Executor(packed, exact=True), random(2, 96)
    executor(x)
    packed.data.copy_(other.data)
    packed.grid.scale.copy_(other.grid.scale)
    packed.grid.zero.copy_(other.grid.zero)
    assert torch.equal(executor(x), Executor(other, exact=True)(x))


def test_a_copy_answers_alike() -> None:
    executor, x = Executor(packed_of(), "int8"), random(2, 96)
    y = executor(x)
    assert torch.equal(copy.deepcopy(executor)(x), y)


# ------------------------------------------------------------------------------ torch looks inside


def test_gradients_in_x_are_exact_in_float64() -> None:
    executor = Executor(packed_of(4, 6))
    x = random(3, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(executor, (x,))
    assert torch.autograd.gradgradcheck(executor, (x,))


@both
def test_gradients_in_x_pass_through_a_kernel_and_its_rounding(activations: Activations) -> None:
    packed = packed_of()
    x, weights = random(3, 5, 96).requires_grad_(), random(3, 5, 400)
    (Executor(packed, activations)(x) * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weights @ packed.decode(), rtol=1e-5, atol=1e-5)


@both
def test_values_are_the_same_with_and_without_gradients(activations: Activations) -> None:
    executor, x = Executor(packed_of(), activations), random(3, 96)
    assert torch.equal(executor(x.clone().requires_grad_()).detach(), executor(x))


class Layer(torch.nn.Module):
    """What a quantized layer does with its buffers."""

    def __init__(self, activations: Activations) -> None:
        super().__init__()
        self.executor = Executor(packed_of(), activations)

    def forward(self, x: Tensor) -> Tensor:
        return self.executor(x)


def by_vmap(layer: Layer, x: Tensor) -> Tensor:
    return torch.vmap(layer)(x[:, None])[:, 0]


def by_forward_mode(layer: Layer, x: Tensor) -> Tensor:
    return torch.func.jvp(layer, (x,), (torch.ones_like(x),))[0]


def by_functional_gradient(layer: Layer, x: Tensor) -> Tensor:
    return torch.func.vjp(layer, x)[0]


def by_export(layer: Layer, x: Tensor) -> Tensor:
    program = torch.export.export(layer, (x,))
    y: Tensor = program.module()(x)
    return y


WAYS = (by_vmap, by_forward_mode, by_functional_gradient, by_export)


@both
@pytest.mark.parametrize("way", WAYS)
def test_transforms_of_torch_find_plain_operations(
    way: Callable[[Layer, Tensor], Tensor], activations: Activations
) -> None:
    layer, x = Layer(activations), random(4, 96)
    y = layer(x)  # in bfloat16, where nothing is compiled
    assert (way(layer, x) - y).abs().max() <= 2.0**-7 * y.abs().max()


# ------------------------------------------------------------------------------ which path


@dataclass(frozen=True)
class Wrong(Kernel):
    """Right but for one number of y."""

    name: ClassVar[str] = "wrong"
    activations: ClassVar[Activations] = "float"
    error: ClassVar[float] = 1e-3
    fault: float = 1.05

    def missing(self) -> str:
        return ""

    def refuses(self, packed: Packed) -> str:
        return ""

    def prepare(self, packed: Packed) -> Any:
        return Decoded32().prepare(packed)

    def run(self, x: Tensor, layout: Any) -> Tensor:
        y = Decoded32().run(x, layout)
        if self.fault == 0:
            raise RuntimeError("no such operator")
        y[-1, 3] *= self.fault
        return y


@pytest.mark.parametrize("fault", [1.05, float("nan"), 0.0])
def test_a_kernel_that_fails_its_self_test_is_never_chosen(fault: float) -> None:
    assert examine(Wrong(fault=1.0)).available
    assert "self-test" in examine(Wrong(fault=fault)).why
    choice = choose(packed_of(3000), 1, "float", candidates=(Wrong(fault=fault), Decoded32()))
    assert choice.kernel == Decoded32()
    assert "not wrong: its self-test" in choice.why


def test_saturated_pair_sums_are_caught() -> None:
    """What `torch._int_mm` does without VNNI: sums of two products stop at 16 bits."""

    @dataclass(frozen=True)
    class Saturated(Wrong):
        activations: ClassVar[Activations] = "int8"

        def run(self, x: Tensor, layout: Any) -> Tensor:
            pairs = (x[:, None, :] * layout).unflatten(-1, (-1, 2)).sum(-1)
            return pairs.clamp(-32768, 32767).sum(-1)

    assert not examine(Saturated()).available


def test_every_kernel_has_a_verdict_that_says_why() -> None:
    rows = kernels()
    assert [row.name for row in rows] == [kernel.name for kernel in KERNELS]
    assert all(row.why for row in rows)
    assert {row.name: row.available for row in rows}["decoded to float32"]


@pytest.mark.usefixtures("_compiler")
@both
def test_the_path_is_told_with_its_reason(activations: Activations) -> None:
    for format in (Uniform(4), NormalFloat(4, group_size=32)):
        executor = Executor(format.encode(random(80, 96)).pack(), activations)
        for rows in (1, 300):
            assert executor.path(rows).count(": ") >= 1
    assert "float64" in executor.path(1, torch.float64)
    assert "exact" in Executor(packed_of(), exact=True).path(1)


def test_a_path_that_is_passed_over_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTWELL_NATIVE", "0")
    assert "not compiled int8: switched off" in Executor(packed_of(), "int8").path(1)


@pytest.mark.usefixtures("_compiler")
def test_kernels_that_are_slow_for_these_rows_are_not_taken() -> None:
    for rows in (1, 16, 256):
        name = choose(packed_of(256, 256, 8), rows, "float").kernel.name
        assert rows == 1 or name in {"decoded to bfloat16", "decoded to float32"}


def test_verdicts_are_plain_values() -> None:
    assert examine(Decoded32()) == Verdict(True, examine(Decoded32()).why)


# ------------------------------------------------------------------------------ mistakes


def test_a_wrong_number_of_columns_is_one_sentence() -> None:
    with pytest.raises(InvalidInput, match=r"96 columns, not torch\.float32 of shape"):
        Executor(packed_of())(random(2, 95))
    with pytest.raises(InvalidInput, match="96 columns"):
        Executor(packed_of())(torch.tensor(1.0))
    with pytest.raises(InvalidInput, match=r"torch\.int64"):
        Executor(packed_of())(torch.zeros(2, 96, dtype=torch.int64))


def test_unknown_activations_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'float' or 'int8', not 'int4'"):
        Executor(packed_of(), "int4")  # type: ignore[arg-type]
