"""Learned steps and clips: published derivatives, differences of the surrogate, what ships."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import (
    Format,
    NormalFloat,
    PowerOfSqrtTwo,
    PowerOfTwo,
    Uniform,
)
from driftwell.quantization.training_aware.learned_grid import LearnedClipWeight
from driftwell.quantization.training_aware.learned_step import (
    LearnedStep,
    LearnedStepQuantizer,
    LearnedStepWeight,
    rounded_to_steps,
    slowed,
)
from driftwell.quantization.training_aware.quantized_weights import (
    WeightQuantizer,
    hardened,
    quantization_aware,
)
from driftwell.quantization.training_aware.shifted_products import shifted_products


def gaussian(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def slope(f: Callable[[Tensor], Tensor], at: Tensor, h: float = 1e-6) -> Tensor:
    """Central difference of a sum in one number."""
    return (f(at + h) - f(at - h)).sum() / (2 * h)


ranges = pytest.mark.parametrize(("lowest", "highest"), [(0, 3), (-4, 3), (0, 15), (-1, 0)])


@ranges
def test_levels_are_the_nearest_multiples_of_the_step_within_the_range(
    lowest: int, highest: int
) -> None:
    x, s = 3 * gaussian(0, 500), torch.tensor(0.4, dtype=torch.float64)
    y = rounded_to_steps(x, s, lowest, highest)
    levels = 0.4 * torch.arange(lowest, highest + 1, dtype=torch.float64)
    nearest = levels[(x[:, None] - levels).abs().argmin(1)]
    torch.testing.assert_close(y, nearest, rtol=0, atol=1e-15)


@ranges
def test_derivatives_are_the_published_ones(lowest: int, highest: int) -> None:
    x = (3 * gaussian(1, 400)).requires_grad_()
    s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    out = gaussian(2, 400)
    in_x, in_s = torch.autograd.grad((rounded_to_steps(x, s, lowest, highest) * out).sum(), (x, s))
    v = (x / s).detach()
    inside = (v > lowest) & (v < highest)
    published = torch.where(inside, v.round() - v, v.clamp(lowest, highest).round())
    torch.testing.assert_close(in_x, out * inside)
    torch.testing.assert_close(in_s, (published * out).sum())


@ranges
def test_derivatives_are_those_of_the_surrogate_by_differences(lowest: int, highest: int) -> None:
    """The surrogate: s (clamp(x / s) + e), the rounding error e held still."""
    x, s = 3 * gaussian(3, 300), torch.tensor(0.7, dtype=torch.float64)
    error = (x / s).clamp(lowest, highest).round() - (x / s).clamp(lowest, highest)

    def surrogate(x: Tensor, s: Tensor) -> Tensor:
        return s * ((x / s).clamp(lowest, highest) + error)

    a, b = x.clone().requires_grad_(), s.clone().requires_grad_()
    in_x, in_s = torch.autograd.grad(rounded_to_steps(a, b, lowest, highest).sum(), (a, b))
    torch.testing.assert_close(in_s, slope(lambda t: surrogate(x, t), s), rtol=1e-6, atol=1e-6)
    both = (surrogate(x + 1e-7, s) - surrogate(x - 1e-7, s)) / 2e-7
    torch.testing.assert_close(in_x, both, rtol=1e-5, atol=1e-6)


def test_what_is_beyond_every_range_stays_finite_and_what_is_no_number_stays_none() -> None:
    s = torch.tensor(0.5, requires_grad=True)
    x = torch.tensor([math.inf, -math.inf, 1.0], requires_grad=True)
    y = rounded_to_steps(x, s, -2, 1)
    y.sum().backward()
    assert y.tolist() == [0.5, -1.0, 0.5]
    assert x.grad is not None
    assert s.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(s.grad)
    assert rounded_to_steps(torch.tensor([math.nan]), s, 0, 3).isnan().all()


def test_slowing_changes_the_gradient_and_not_the_value() -> None:
    s = gaussian(4, 1000).requires_grad_()
    assert torch.equal(slowed(s, 0.1234), s)
    torch.testing.assert_close(
        torch.autograd.grad(slowed(s, 0.1234).sum(), s)[0], torch.full_like(s, 0.1234)
    )


def test_the_first_batch_sets_the_step_and_no_later_one() -> None:
    quantizer, x = LearnedStepQuantizer(4), gaussian(5, 8, 6).float().relu()
    quantizer(x)
    assert float(quantizer.step.s.detach()) == pytest.approx(2 * float(x.mean()) / math.sqrt(15))
    before = quantizer.step.s.detach().clone()
    quantizer(7 * x)
    assert torch.equal(quantizer.step.s.detach(), before)


def test_a_started_step_is_in_the_state_and_stays() -> None:
    quantizer, other = LearnedStepQuantizer(4, signed=True), LearnedStepQuantizer(4, signed=True)
    x = gaussian(6, 8, 6).float()
    y = quantizer(x)
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other.eval()(x), y)


def test_the_step_moves_alike_for_every_batch_size() -> None:
    """The scale of the gradient is 1 / sqrt(N p) with N the numbers of one sample."""
    x = gaussian(7, 1, 3, 4, 4).float()
    grads = []
    for batch in (1, 10):
        quantizer = LearnedStepQuantizer(3, signed=True, step=0.3)
        quantizer(x.expand(batch, -1, -1, -1)).square().sum(dim=(1, 2, 3)).mean().backward()
        assert quantizer.step.s.grad is not None
        grads.append(float(quantizer.step.s.grad))
    s = torch.tensor(0.3, requires_grad=True)
    plain = torch.autograd.grad(rounded_to_steps(x, s, -4, 3).square().sum(), s)[0]
    assert grads[1] == pytest.approx(grads[0], rel=1e-5)
    assert grads[0] == pytest.approx(float(plain) / math.sqrt(48 * 3), rel=1e-5)


def test_a_step_that_crossed_zero_counts_by_its_size() -> None:
    x = gaussian(8, 5, 4).float()
    there, back = LearnedStepQuantizer(3, step=0.4), LearnedStepQuantizer(3, step=0.4)
    with torch.no_grad():
        back.step.s.neg_()
    assert torch.equal(there(x), back(x))
    with torch.no_grad():
        back.step.s.zero_()
    assert back(x).isfinite().all()


def test_learning_finds_the_step_of_least_square_error() -> None:
    """On frozen Gaussian numbers the squared error, descended, meets the best step found by
    trying; the published gradient is that of the error itself almost everywhere.
    """
    x = gaussian(9, 1, 20_000).float()
    quantizer = LearnedStepQuantizer(3, signed=True, step=0.2)
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.01)
    for _ in range(200):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    tried = torch.linspace(0.2, 1.0, 161)
    errors = [float((rounded_to_steps(x, s, -4, 3) - x).square().mean()) for s in tried]
    best = float(tried[min(range(161), key=errors.__getitem__)])
    assert float(quantizer.step.s.detach()) == pytest.approx(best, abs=0.02)


WEIGHTS: dict[str, Callable[[Tensor], WeightQuantizer]] = {
    "LSQ 2": lambda w: LearnedStepWeight(w, 2),
    "LSQ 4": lambda w: LearnedStepWeight(w, 4),
    "POST 3": lambda w: LearnedClipWeight(w, PowerOfSqrtTwo(3)),
    "POST 4": lambda w: LearnedClipWeight(w, PowerOfSqrtTwo(4)),
    "POT 4, not centred": lambda w: LearnedClipWeight(w, PowerOfTwo(4), centred=False),
}
each_weight = pytest.mark.parametrize("make", WEIGHTS.values(), ids=WEIGHTS)


@each_weight
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_computes_with_the_weight_that_ships(
    make: Callable[[Tensor], WeightQuantizer], dtype: torch.dtype
) -> None:
    w = 0.3 * gaussian(10, 16, 9).to(dtype) + 0.05
    quantizer = make(w)
    assert torch.equal(quantizer(w), quantizer.quantized(w).decode())
    assert torch.equal(quantizer.quantized(w).pack().decode(), quantizer(w))


@each_weight
def test_a_layer_trains_its_step_and_hardens_to_the_same_layer(
    make: Callable[[Tensor], WeightQuantizer],
) -> None:
    layer = nn.utils.skip_init(nn.Linear, 16, 8)
    with torch.no_grad():
        layer.weight.copy_(0.3 * gaussian(11, 8, 16))
        layer.bias.zero_()
    model, x = quantization_aware(nn.Sequential(layer), make), gaussian(12, 5, 16).float()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    pairs = zip(before, model.parameters(), strict=True)
    assert all(not torch.equal(old, new) for old, new in pairs)
    torch.testing.assert_close(hardened(model.eval())(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_weight_of_a_learned_step_is_that_of_the_uniform_format_on_its_grid() -> None:
    w = 0.2 * gaussian(13, 6, 5).float()
    quantizer = LearnedStepWeight(w, 3)
    grid = quantizer.quantized(w).grid
    assert grid.is_symmetric
    torch.testing.assert_close(quantizer(w), Uniform(3, symmetric=True).fake(w, grid))


def test_a_learned_clip_starts_at_the_formats_own_least_squares_scale() -> None:
    w = gaussian(14, 20, 30).float()
    quantizer = LearnedClipWeight(w, PowerOfSqrtTwo(4), centred=False)
    torch.testing.assert_close(
        quantizer(w), PowerOfSqrtTwo(4, per="tensor").fake(w), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("centred", [True, False])
def test_the_gradients_of_clip_and_weight_are_those_of_the_surrogate(centred: bool) -> None:
    """sigma alpha (clamp(v) + e), e held still; alpha's is slowed by 1 / sqrt(N)."""
    w = gaussian(15, 7, 6) + 0.1
    quantizer = LearnedClipWeight(w, PowerOfSqrtTwo(3), centred).double()
    with torch.no_grad():
        quantizer.alpha.copy_(0.8)  # so that several weights are clipped
    alpha, levels = quantizer.alpha.detach().clone(), PowerOfSqrtTwo(3).levels

    def units(w: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        scale = w.std(correction=0) * alpha
        return (w - w.mean() if centred else w) / scale, scale

    v = units(w, alpha)[0]
    error = levels[(v[..., None] - levels).abs().argmin(-1)] - v.clamp(-1, 1)
    assert (v.abs() > 1).any()

    def surrogate(w: Tensor, alpha: Tensor) -> Tensor:
        v, scale = units(w, alpha)
        return (scale * (v.clamp(-1, 1) + error) * out).sum()

    out = gaussian(16, 7, 6)
    held = w.clone().requires_grad_()
    value = quantizer(held)
    in_w, in_alpha = torch.autograd.grad((value * out).sum(), (held, quantizer.alpha))
    torch.testing.assert_close((value.detach() * out).sum(), surrogate(w, alpha))
    published = torch.where(v.abs() < 1, error, v.sign()) * out * w.std(correction=0)
    rate = 1 / math.sqrt(w.numel())
    torch.testing.assert_close(in_alpha, published.sum() * rate)
    torch.testing.assert_close(
        in_alpha, rate * slope(lambda a: surrogate(w, a), alpha), rtol=1e-6, atol=1e-8
    )
    for i in range(7):
        for j in range(6):
            h = torch.zeros_like(w)
            h[i, j] = 1e-6
            found = (surrogate(w + h, alpha) - surrogate(w - h, alpha)) / 2e-6
            torch.testing.assert_close(in_w[i, j], found, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("format", [PowerOfTwo(3), PowerOfTwo(4)], ids=str)
def test_powers_of_two_are_shifts_exactly(format: Format) -> None:
    weight = format.encode(gaussian(17, 6, 40))
    x = torch.randint(-128, 128, (9, 40), generator=torch.Generator().manual_seed(0))
    whole, unit = shifted_products(x, weight)
    levels = format.levels[weight.codes.long()] * 2.0 ** (2 ** (format.bits - 1) - 2)
    assert torch.equal(levels, levels.round())
    exact = (x.double() @ levels.T).to(torch.int64)
    shift = whole // exact.where(exact != 0, 1)
    assert torch.equal(whole, exact * int(shift.max()))
    torch.testing.assert_close(whole * unit, x.double() @ weight.matrix.T)


@pytest.mark.parametrize("bits", [3, 4])
def test_odd_powers_of_sqrt_two_share_one_rounded_product(bits: int) -> None:
    """The only error is that of y = round(sqrt(2) x 2^f): half a unit for each odd code."""
    weight = PowerOfSqrtTwo(bits).encode(gaussian(18, 6, 40))
    x = torch.randint(-128, 128, (9, 40), generator=torch.Generator().manual_seed(0))
    exact, errors = x.double() @ weight.matrix.T, []
    for fraction in (0, 8):
        whole, unit = shifted_products(x, weight, fraction)
        assert whole.dtype == torch.int64
        error = (whole * unit - exact).abs()
        errors.append(float(error.max()))
        level = weight.grid.scale[:, 0] * 2.0**-fraction / 2
        assert (error <= 40 * level + 1e-9).all()
    assert 0 < errors[1] < errors[0] / 50


def test_mistakes_are_told() -> None:
    x = torch.ones(2, 3)
    for bits, signed in ((0, False), (9, False), (1, True)):
        with pytest.raises(InvalidInput, match="bits"):
            LearnedStepQuantizer(bits, signed)
    with pytest.raises(InvalidInput, match="positive"):
        LearnedStep(3, start=-1.0)
    with pytest.raises(InvalidInput, match="show it a batch in training"):
        LearnedStepQuantizer(4).eval()(x)
    with pytest.raises(InvalidInput, match="first batch"):
        LearnedStepQuantizer(4)(torch.zeros(2, 3))
    with pytest.raises(InvalidInput, match="the weight"):
        LearnedStepWeight(torch.zeros(2, 3), 4)
    with pytest.raises(InvalidInput, match="symmetric around zero"):
        LearnedClipWeight(gaussian(0, 3, 4), NormalFloat(4))
    with pytest.raises(InvalidInput, match="spread"):
        LearnedClipWeight(torch.ones(3, 4), PowerOfSqrtTwo(4))
    with pytest.raises(InvalidInput, match="integers"):
        shifted_products(x, PowerOfTwo(3).encode(gaussian(1, 2, 3)))
    with pytest.raises(InvalidInput, match="power of sqrt"):
        shifted_products(x.long(), NormalFloat(4, "channel", None).encode(gaussian(1, 2, 3)))
    with pytest.raises(InvalidInput, match="one scale"):
        shifted_products(x.long(), Uniform(4).encode(gaussian(1, 2, 3)))
