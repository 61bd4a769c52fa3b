"""Coarse gradients: closed forms against sampling and differences, and the descent diagnostics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.activations import BinaryActivation
from driftwell.quantization.training_aware.binary_teacher import BinaryTeacher
from driftwell.quantization.training_aware.coarse_gradient import (
    coarse_gradient_alignment,
    descent_test,
)
from driftwell.quantization.training_aware.straight_through import (
    ClippedReLUSTE,
    IdentitySTE,
    ReLUSTE,
    StraightThrough,
)

both = pytest.mark.parametrize("ste", [ReLUSTE(), IdentitySTE()], ids=["relu", "identity"])


def gaussian(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pairs(draws: int = 50) -> tuple[BinaryTeacher, Tensor, Tensor]:
    teacher = BinaryTeacher(gaussian(1, draws, 4), gaussian(2, draws, 6))
    return teacher, gaussian(3, draws, 4), gaussian(4, draws, 6)


def test_the_population_loss_is_the_mean_of_the_sampled_one() -> None:
    teacher, v, w = BinaryTeacher(gaussian(1, 4), gaussian(2, 6)), gaussian(3, 4), gaussian(4, 6)
    z = gaussian(5, 40_000, 4, 6)
    outputs = [(z @ direction > 0).double() @ weight for direction, weight in
               ((w, v), (teacher.w, teacher.v))]  # fmt: skip
    losses = 0.5 * (outputs[0] - outputs[1]).square()
    error = losses.std() / math.sqrt(len(losses))
    assert abs(losses.mean() - teacher.loss(v, w)) < 4.5 * error


def test_the_population_gradients_are_those_of_the_loss() -> None:
    teacher, v, w = pairs()
    h = 1e-6
    d_v, d_w = teacher.gradients(v, w)
    for i in range(4):
        e = torch.zeros(4, dtype=torch.float64)
        e[i] = h
        slope = (teacher.loss(v + e, w) - teacher.loss(v - e, w)) / (2 * h)
        torch.testing.assert_close(slope, d_v[:, i], rtol=1e-6, atol=1e-8)
    for i in range(6):
        e = torch.zeros(6, dtype=torch.float64)
        e[i] = h
        slope = (teacher.loss(v, w + e) - teacher.loss(v, w - e)) / (2 * h)
        torch.testing.assert_close(slope, d_w[:, i], rtol=1e-6, atol=1e-8)


@both
def test_the_expected_coarse_gradient_is_the_mean_of_the_sampled_ones(
    ste: StraightThrough,
) -> None:
    """Ten blocks give the error of the mean: t statistics of 10 entries, each below 8."""
    teacher, v, w = BinaryTeacher(gaussian(1, 4), gaussian(2, 6)), gaussian(3, 4), gaussian(4, 6)
    blocks = [
        torch.cat(teacher.sampled_gradients(v, w, gaussian(10 + i, 5000, 4, 6), ste))
        for i in range(10)
    ]
    found = torch.stack(blocks)
    exact = torch.cat([teacher.gradients(v, w)[0], teacher.expected_coarse_gradient(v, w, ste)])
    t = (found.mean(0) - exact) / (found.std(0) / math.sqrt(10))
    # Student's t with 9 degrees of freedom: |t| > 8 has probability 2e-5 an entry
    assert (t.abs() < 8).all()


@both
def test_the_inner_product_with_the_population_gradient_is_the_theorem_s(
    ste: StraightThrough,
) -> None:
    """<E g, df/dw> = sin t (v^T v*)^2 / (c (2 pi)^(3/2) |w|), c = 2 for ReLU, 1 for identity."""
    teacher, v, w = pairs()
    product = (teacher.expected_coarse_gradient(v, w, ste) * teacher.gradients(v, w)[1]).sum(-1)
    c = 2 if isinstance(ste, ReLUSTE) else 1
    overlap = (v * teacher.v).sum(-1).square()
    truth = teacher.angle(w).sin() * overlap / (c * (2 * math.pi) ** 1.5 * w.norm(dim=-1))
    torch.testing.assert_close(product, truth)
    assert (product > 0).all()


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradients() -> None:
    teacher, _, _ = pairs()
    v, w = teacher.v, 3 * teacher.w
    assert teacher.loss(v, w).abs().max() < 1e-12
    d_v, d_w = teacher.gradients(v, w)
    assert d_v.abs().max() < 1e-12
    assert d_w.abs().max() == 0
    for ste in (ReLUSTE(), IdentitySTE()):
        assert teacher.expected_coarse_gradient(v, w, ste).abs().max() < 1e-12


def test_only_relu_rests_at_the_spurious_minimum() -> None:
    teacher, _, _ = pairs()
    v, w = teacher.spurious_minimum()
    d_v, d_w = teacher.gradients(v, w)
    assert d_v.abs().max() < 1e-12
    assert d_w.abs().max() == 0
    assert teacher.angle(w).sub(math.pi).abs().max() < 1e-12
    assert teacher.expected_coarse_gradient(v, w, ReLUSTE()).abs().max() < 1e-12
    # s^2 (2 m - 2) / ((m + 1)^2 sqrt(2 pi)), s = 1^T v*
    drift = teacher.expected_coarse_gradient(v, w, IdentitySTE()).norm(dim=-1)
    truth = teacher.v.sum(-1).square() * 6 / (25 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(drift, truth)


def test_the_angle_is_accurate_at_both_ends() -> None:
    teacher = BinaryTeacher(torch.ones(2).double(), torch.tensor([1.0, 0.0]).double())
    for t in (1e-9, 1.0, math.pi - 1e-9):
        w = torch.tensor([math.cos(t), math.sin(t)], dtype=torch.float64)
        assert teacher.angle(w).item() == pytest.approx(t, rel=1e-6, abs=0)
        assert math.pi - teacher.angle(-w).item() == pytest.approx(t, abs=1e-12)


def test_many_students_at_once_are_sampled_as_one_by_one() -> None:
    teacher, v, w = pairs(3)
    z = gaussian(9, 3, 100, 4, 6)
    many = teacher.sampled_gradients(v, w, z, ReLUSTE())
    for i in range(3):
        one = BinaryTeacher(teacher.v[i], teacher.w[i])
        alone = one.sampled_gradients(v[i], w[i], z[i], ReLUSTE())
        torch.testing.assert_close(alone, (many[0][i], many[1][i]))


def test_an_estimator_without_a_closed_form_is_refused() -> None:
    teacher, v, w = pairs()
    with pytest.raises(InvalidInput, match="closed form"):
        teacher.expected_coarse_gradient(v, w, ClippedReLUSTE(1.0))


@pytest.mark.parametrize("w", [torch.zeros(3), torch.tensor([float("nan"), 1.0])])
def test_a_teacher_without_a_direction_is_refused(w: Tensor) -> None:
    with pytest.raises(InvalidInput, match="direction"):
        BinaryTeacher(torch.ones(2), w)


def test_alignment_is_the_cosine_over_all_tensors() -> None:
    a, b = [gaussian(1, 3, 2), gaussian(2, 5)], [gaussian(3, 3, 2), gaussian(4, 5)]
    flat = [torch.cat([t.flatten() for t in side]) for side in (a, b)]
    truth = flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm())
    torch.testing.assert_close(coarse_gradient_alignment(a, b), truth)
    small = [1e-200 * each for each in a]
    torch.testing.assert_close(coarse_gradient_alignment(small, b), truth)
    assert coarse_gradient_alignment(a, [0 * each for each in a]) == 0


def test_alignment_of_things_that_differ_in_shape_is_refused() -> None:
    with pytest.raises(InvalidInput, match="shapes"):
        coarse_gradient_alignment([torch.ones(2)], [torch.ones(3)])
    with pytest.raises(InvalidInput, match="shapes"):
        coarse_gradient_alignment([], [])


class Student(nn.Module):
    """v^T s(Z w) with a fixed v."""

    def __init__(self, ste: StraightThrough, v: Tensor, w: Tensor) -> None:
        super().__init__()
        self.activation = BinaryActivation(ste)
        self.w = nn.Parameter(w.clone())
        self.register_buffer("v", v)

    def forward(self, z: Tensor) -> Tensor:
        hidden: Tensor = self.activation(z @ self.w)
        return hidden @ self.v


class Uphill(StraightThrough):
    def derivative(self, x: Tensor) -> Tensor:
        return -(x > 0).to(x.dtype)


def student_and_data(ste: StraightThrough) -> tuple[Student, list[tuple[Tensor, Tensor]]]:
    v, w, truth = gaussian(1, 4), gaussian(2, 6), gaussian(3, 6)
    batches = [gaussian(10 + i, 2000, 4, 6) for i in range(8)]
    return Student(ste, v, w), [(z, (z @ truth > 0).double() @ v) for z in batches]


@pytest.mark.parametrize("ste", [ReLUSTE(), IdentitySTE(), ClippedReLUSTE(2.0)])
def test_a_sound_estimator_descends(ste: StraightThrough) -> None:
    model, data = student_and_data(ste)
    before = model.w.detach().clone()
    found = descent_test(model, nn.functional.mse_loss, data, step=0.05)
    assert found.descends
    assert (found.batches, found.flat) == (8, 0)
    assert torch.equal(model.w, before)
    assert model.w.grad is None


def test_a_wrong_estimator_is_found_out() -> None:
    model, data = student_and_data(Uphill())
    found = descent_test(model, nn.functional.mse_loss, data, step=0.05)
    assert found.decrease < -2 * found.standard_error
    assert not found.descends


def test_the_decrease_is_that_of_the_loss() -> None:
    """L = w^2 at w = 3: a step of 1 % of |w| gives 9 (1 - 0.99^2)."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(3.0)
    data = [(torch.ones(1, 1).double(), torch.zeros(1, 1).double())] * 3
    found = descent_test(model, nn.functional.mse_loss, data)
    assert found.decrease == pytest.approx(9 * (1 - 0.99**2))
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)


def test_a_flat_loss_is_counted_not_hidden() -> None:
    model, data = student_and_data(ClippedReLUSTE(1e-12))
    found = descent_test(model, nn.functional.mse_loss, data)
    assert found.flat == 8
    assert not found.descends


def test_a_descent_test_says_what_it_needs() -> None:
    model, data = student_and_data(ReLUSTE())
    with pytest.raises(InvalidInput, match="two batches"):
        descent_test(model, nn.functional.mse_loss, data[:1])
    with pytest.raises(InvalidInput, match="positive"):
        descent_test(model, nn.functional.mse_loss, data, step=0.0)
    with pytest.raises(InvalidInput, match="gradient"):
        descent_test(model.requires_grad_(False), nn.functional.mse_loss, data)
