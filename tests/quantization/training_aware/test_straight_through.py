"""Straight-through estimators: their derivatives, the contract of `through`, the activations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.activations import (
    BinaryActivation,
    QuantizedReLU,
    Sign,
)
from driftwell.quantization.training_aware.straight_through import (
    ClippedReLUSTE,
    ClippedSTE,
    IdentitySTE,
    LogTailedSTE,
    ReLUSTE,
    StraightThrough,
    through,
)

# Each estimator beside the function it claims to be the derivative of.
SURROGATES = {
    IdentitySTE(): lambda x: x,
    ReLUSTE(): torch.relu,
    ClippedReLUSTE(1.5): lambda x: x.clamp(0.0, 1.5),
    ClippedSTE(0.8): lambda x: x.clamp(-0.8, 0.8),
    LogTailedSTE(0.7): lambda x: torch.where(
        x > 0.7, 0.7 * (1 + torch.log(x.clamp(min=0.7) / 0.7)), torch.relu(x)
    ),
}
each_ste = pytest.mark.parametrize("ste", SURROGATES, ids=lambda ste: type(ste).__name__)


def points(dtype: torch.dtype = torch.float64) -> Tensor:
    """Away from every kink."""
    return torch.tensor([-2.0, -0.55, -0.2, 0.1, 0.6, 0.9, 1.2, 3.0], dtype=dtype)


def step(x: Tensor, ste: StraightThrough) -> Tensor:
    return through((x > 0).to(x.dtype), x, ste)


@each_ste
def test_the_derivative_is_that_of_the_named_function(ste: StraightThrough) -> None:
    x, h = points(), 1e-6
    g = SURROGATES[ste]
    torch.testing.assert_close(ste.derivative(x), (g(x + h) - g(x - h)) / (2 * h))


@each_ste
def test_the_derivative_is_never_negative_and_exact_at_its_edges(ste: StraightThrough) -> None:
    x = torch.linspace(-4, 4, 801, dtype=torch.float64)
    assert (ste.derivative(x) >= 0).all()
    at_zero = ste.derivative(torch.zeros(1)).item()
    assert at_zero == (1.0 if isinstance(ste, IdentitySTE | ClippedSTE) else 0.0)


def test_clipping_is_open_at_both_ends() -> None:
    edges = torch.tensor([-1.0, 0.0, 1.0])
    assert ClippedReLUSTE(1.0).derivative(edges).tolist() == [0, 0, 0]
    assert ClippedSTE(1.0).derivative(edges).tolist() == [0, 1, 0]


@each_ste
def test_through_returns_the_value_and_the_surrogate_derivative(ste: StraightThrough) -> None:
    x = points().requires_grad_()
    weight = torch.arange(1.0, 9.0, dtype=torch.float64)
    y = step(x, ste)
    assert y.tolist() == (points() > 0).double().tolist()
    (grad,) = torch.autograd.grad(y @ weight, x)
    torch.testing.assert_close(grad, weight * ste.derivative(points()))


@each_ste
def test_double_backward_is_that_of_the_surrogate(ste: StraightThrough) -> None:
    """d/dx and d/dv of v g'(x): finite differences by `gradcheck` on the first backward."""

    def backward(x: Tensor, v: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(step(x, ste), x, v, create_graph=True)
        return grad

    x, v = points().requires_grad_(), (points() + 3).requires_grad_()
    assert torch.autograd.gradcheck(backward, (x, v))


@each_ste
def test_a_surrogate_forward_passes_gradcheck(ste: StraightThrough) -> None:
    """Where the forward value is g itself, the claim of `through` is the truth."""
    g = SURROGATES[ste]
    x = points().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: through(g(x.detach()), x, ste), x, check_forward_ad=True
    )


@each_ste
def test_transforms_agree_with_backward(ste: StraightThrough) -> None:
    x = points()
    truth = ste.derivative(x)
    each = torch.func.vmap(torch.func.grad(lambda r: step(r, ste)))(x)
    tangent = torch.func.jvp(lambda x: step(x, ste), (x,), (torch.ones_like(x),))[1]
    forward = torch.func.jacfwd(lambda x: step(x, ste))(x).diagonal()
    reverse = torch.func.jacrev(lambda x: step(x, ste))(x).diagonal()
    for found in (each, tangent, forward, reverse):
        torch.testing.assert_close(found, truth)


def test_compiling_changes_nothing() -> None:
    compiled = torch.compile(lambda x: step(x, LogTailedSTE(0.7)), backend="eager", fullgraph=True)
    x = points().requires_grad_()
    y = compiled(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, step(x, LogTailedSTE(0.7)))
    assert torch.equal(grad, LogTailedSTE(0.7).derivative(points()))


@each_ste
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_floating_dtype_is_kept(ste: StraightThrough, dtype: torch.dtype) -> None:
    x = points(dtype).requires_grad_()
    y = step(x, ste)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype == grad.dtype == dtype
    torch.testing.assert_close(grad.double(), ste.derivative(points()), rtol=0.01, atol=0.0)


def test_nothing_flows_into_the_forward_value_nor_past_a_saturated_step() -> None:
    x = torch.tensor([5.0], requires_grad=True)
    value = 2 * x
    (grad,) = torch.autograd.grad(through(value, x, ClippedReLUSTE(1.0)), x)
    assert grad.item() == 0.0


def test_the_output_is_not_the_value_itself() -> None:
    x, value = torch.ones(2), torch.zeros(2)
    through(value, x, IdentitySTE()).add_(1.0)
    assert value.tolist() == [0, 0]


def test_the_log_tail_has_no_nan_at_zero_in_any_order() -> None:
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(step(x, LogTailedSTE()), x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    assert first.item() == second.item() == 0.0


@pytest.mark.parametrize("family", [ClippedReLUSTE, ClippedSTE, LogTailedSTE])
@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_must_be_positive(family: type[StraightThrough], limit: float) -> None:
    with pytest.raises(InvalidInput, match="positive"):
        family(limit)  # type: ignore[call-arg]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="one shape"):
        through(torch.zeros(2), torch.zeros(3), ReLUSTE())
    with pytest.raises(InvalidInput, match="dtype"):
        through(torch.zeros(2), torch.zeros(2, dtype=torch.float64), ReLUSTE())
    with pytest.raises(InvalidInput, match="floating"):
        through(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), ReLUSTE())


def test_binary_activation_and_sign_decide_zero_as_said() -> None:
    x = torch.tensor([-2.0, -0.0, 0.0, 1e-30, 4.0])
    assert BinaryActivation()(x).tolist() == [0, 0, 0, 1, 1]
    assert Sign()(x).tolist() == [-1, 1, 1, 1, 1]


@pytest.mark.parametrize("activation", [BinaryActivation(), Sign(), QuantizedReLU(2)])
def test_a_nan_stays_a_nan(activation: torch.nn.Module) -> None:
    assert activation(torch.tensor([float("nan"), 1.0])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_the_staircase_has_its_levels_and_saturates(bits: int) -> None:
    """sigma(x) = k step for (k - 1) step < x <= k step, k = 1 .. 2^b - 1."""
    step, top = 0.5, 2**bits - 1
    x = torch.linspace(-2.0, step * (top + 2), 5001, dtype=torch.float64)
    y = QuantizedReLU(bits, step)(x)
    k = (y / step).round()
    assert torch.equal(y, k * step)
    assert sorted(set(k.tolist())) == list(range(top + 1))
    inside = (x > 0) & (x <= step * top)
    assert ((k[inside] - 1) * step < x[inside]).all()
    assert (x[inside] <= k[inside] * step).all()
    assert (k[x <= 0] == 0).all()
    assert (k[x > step * top] == top).all()


def test_one_bit_is_the_unit_step() -> None:
    x = torch.linspace(-3, 3, 100)
    assert torch.equal(QuantizedReLU(1, 1.0)(x), BinaryActivation()(x))


def test_the_default_backward_of_a_staircase_ends_at_its_top() -> None:
    relu = QuantizedReLU(2, 0.5)
    x = torch.tensor([-1.0, 0.7, 1.4, 1.6], requires_grad=True)
    (grad,) = torch.autograd.grad(relu(x).sum(), x)
    assert relu.top == 1.5
    assert grad.tolist() == [0, 1, 1, 0]
    assert QuantizedReLU(2, 0.5, ReLUSTE()).ste == ReLUSTE()


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInput, match="1 to 8"):
        QuantizedReLU(0)
    with pytest.raises(InvalidInput, match="positive"):
        QuantizedReLU(2, -1.0)
