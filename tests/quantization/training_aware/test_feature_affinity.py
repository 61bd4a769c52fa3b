"""Feature affinity: the naive matrices, invariances, the fast loss on average; distillation."""

from __future__ import annotations

import copy
import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.quantization.formats import Binary, Ternary
from driftwell.quantization.training_aware.distillation import AffinityDistillation, faqd_loss
from driftwell.quantization.training_aware.feature_affinity import (
    feature_affinity,
    feature_affinity_loss,
)
from driftwell.quantization.training_aware.quantized_weights import quantization_aware
from driftwell.quantization.training_aware.threshold_ternary import ThresholdTernary

orders = pytest.mark.parametrize("order", [1, 2])


def gaussian(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def naive(features: Tensor) -> Tensor:
    """A of one map (C, H, W), by two loops over places."""
    f = features.flatten(1)
    places = f.shape[1]
    a = torch.zeros(places, places, dtype=f.dtype)
    for i in range(places):
        for j in range(places):
            a[i, j] = f[:, i] @ f[:, j] / (f[:, i].norm() * f[:, j].norm())
    return a


def test_affinities_are_the_cosines_between_places() -> None:
    maps = gaussian(0, 2, 3, 3, 4)
    torch.testing.assert_close(feature_affinity(maps), torch.stack([naive(f) for f in maps]))


@orders
def test_the_loss_is_the_norm_of_the_naive_difference(order: Literal[1, 2]) -> None:
    student, teacher = gaussian(1, 3, 2, 3, 3), gaussian(2, 3, 7, 3, 3)
    gaps = [naive(s) - naive(t) for s, t in zip(student, teacher, strict=True)]
    norms = [gap.abs().sum() / 81 if order == 1 else gap.norm() / 9 for gap in gaps]
    found = feature_affinity_loss(student, teacher, order=order)
    torch.testing.assert_close(found, torch.stack(norms).mean())


@orders
@pytest.mark.parametrize("fast_dim", [None, 5])
def test_sizes_rotations_and_repetition_of_samples_change_nothing(
    order: Literal[1, 2], fast_dim: int | None
) -> None:
    """What is compared is which places look alike: not how long features are, nor which axes."""
    student, teacher = gaussian(3, 4, 6, 3, 3), gaussian(4, 4, 6, 3, 3)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return feature_affinity_loss(a, b, order=order, fast_dim=fast_dim, seed=0)

    plain = loss(student, teacher)
    lengths = gaussian(5, 4, 1, 3, 3).exp()
    turn = torch.linalg.qr(gaussian(6, 6, 6))[0]
    torch.testing.assert_close(loss(lengths * student, 100 * teacher), plain)
    torch.testing.assert_close(loss(torch.einsum("ij,bjhw->bihw", turn, student), teacher), plain)
    torch.testing.assert_close(loss(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1)), plain)
    padded = torch.cat([student, torch.zeros(4, 2, 3, 3, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(loss(padded, teacher), plain)
    assert float(loss(teacher, lengths * teacher)) < 1e-12 < float(plain)


@orders
def test_gradients_reach_the_student_alone_and_are_those_of_differences(
    order: Literal[1, 2],
) -> None:
    student, teacher = gaussian(7, 2, 3, 2, 2), gaussian(8, 2, 4, 2, 2).requires_grad_()
    for fast_dim in (None, 3):
        assert torch.autograd.gradcheck(
            lambda s, k=fast_dim: feature_affinity_loss(
                s, teacher, order=order, fast_dim=k, seed=0
            ),
            student.clone().requires_grad_(),
        )
    feature_affinity_loss(student.requires_grad_(), teacher, order=order).backward()
    assert teacher.grad is None


def test_equal_maps_and_dark_places_have_finite_gradients() -> None:
    student = gaussian(9, 2, 3, 3, 3).relu()
    student[:, :, 0] = 0.0
    for order in (1, 2):
        for teacher in (student.clone(), gaussian(10, 2, 3, 3, 3)):
            held = student.clone().requires_grad_()
            feature_affinity_loss(held, teacher, order=order).backward()  # type: ignore[arg-type]
            assert held.grad is not None
            assert held.grad.isfinite().all()


@orders
def test_the_fast_loss_has_the_stated_mean(order: Literal[1, 2]) -> None:
    """Order 2 squared is |A_s - A_t|_F^2 / P^2 on average; order 1 is
    sqrt(2 / pi) sum_i |row i|_2 / P^2. Within 4.5 standard errors of 400 draws.
    """
    student, teacher = gaussian(11, 1, 3, 4, 4), gaussian(12, 1, 5, 4, 4)
    gap = feature_affinity(student)[0] - feature_affinity(teacher)[0]
    draws = [
        feature_affinity_loss(student, teacher, order=order, fast_dim=4, seed=1, step=i)
        for i in range(400)
    ]
    found, exact = torch.stack(draws), math.sqrt(2 / math.pi) * gap.norm(dim=1).sum() / 256
    if order == 2:
        found, exact = found.square(), gap.square().sum() / 256
    assert (found.mean() - exact).abs() < 4.5 * found.std() / 20


@orders
def test_the_fast_loss_is_its_definition_for_the_vectors_of_its_seed(order: Literal[1, 2]) -> None:
    places, k = 6, 3
    student, teacher = gaussian(13, 1, 4, places), gaussian(24, 1, 7, places)
    v = normal(
        (1, places, k), seed=0, purpose=Purpose.PROBE, chains=1, step=0, dtype=torch.float64
    )[0]
    seen = (feature_affinity(student) - feature_affinity(teacher))[0] @ v
    each = seen.abs().sum(0) / 36 if order == 1 else seen.square().sum(0)
    exact = each.mean() if order == 1 else each.mean().sqrt() / 6
    losses = [
        feature_affinity_loss(student, teacher, order=order, fast_dim=k, seed=seed, step=step)
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    torch.testing.assert_close(losses[0], exact)
    assert losses[0] == losses[1]
    assert len({float(each) for each in losses}) == 3


def test_a_teachers_map_of_another_size_is_resized_to_the_students() -> None:
    student, teacher = gaussian(14, 2, 3, 4, 4), gaussian(15, 2, 5, 8, 8)
    halved = F.interpolate(teacher, size=(4, 4), mode="bilinear", align_corners=False)
    for fast_dim in (None, 4):
        losses = [
            feature_affinity_loss(student, t, fast_dim=fast_dim, seed=0) for t in (teacher, halved)
        ]
        assert losses[0] == losses[1]
    tokens = feature_affinity_loss(gaussian(16, 2, 3, 5), gaussian(17, 2, 3, 10))
    assert tokens.isfinite()


def network(width: int, seed: int) -> nn.Sequential:
    draw = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        nn.utils.skip_init(nn.Conv2d, 1, width, 3, padding=1), nn.ReLU(),
        nn.utils.skip_init(nn.Conv2d, width, width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.utils.skip_init(nn.Linear, 16 * width, 3),
    )  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=draw))
    return net


def test_the_whole_loss_is_the_sum_of_its_parts() -> None:
    student, teacher, x = network(4, 0), network(6, 1).eval(), gaussian(18, 5, 1, 8, 8).float()
    labels = torch.tensor([0, 1, 2, 1, 0])
    logits, target = student(x), teacher(x)
    maps = [feature_affinity_loss(student[:k](x), teacher[:k](x), order=2) for k in (2, 4)]
    way = AffinityDistillation(outputs=0.5, affinity=0.2, labels=0.7, order=2)
    free = faqd_loss(student, teacher, x, ["1", "3"], objective=way)
    expected = 0.5 * (logits - target).square().mean() + 0.2 * sum(maps)
    torch.testing.assert_close(free, expected)
    whole = faqd_loss(student, teacher, x, {"1": "1", "3": "3"}, labels, objective=way)
    torch.testing.assert_close(whole, free + 0.7 * F.cross_entropy(logits, labels))


def test_the_softened_loss_has_the_gradient_of_t_times_the_difference_of_softmaxes() -> None:
    student, teacher = gaussian(19, 4, 5).requires_grad_(), gaussian(20, 4, 5)
    t = 3.0
    AffinityDistillation(temperature=t).output_loss(student, teacher).backward()
    exact = t * ((student / t).softmax(1) - (teacher / t).softmax(1)).detach() / 4
    torch.testing.assert_close(student.grad, exact)


def test_distillation_leaves_no_hook_and_no_gradient_in_the_teacher() -> None:
    student, teacher, x = network(4, 2), network(6, 3).eval(), gaussian(21, 5, 1, 8, 8).float()
    student = quantization_aware(student, Binary())
    faqd_loss(student, teacher, x, ["1", "3"]).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())
    with pytest.raises(InvalidInput, match="no map"):
        faqd_loss(nn.Sequential(nn.GRU(8, 3)), nn.Sequential(nn.GRU(8, 3)).eval(), x[:, 0], ["0"])
    assert not any(m._forward_hooks for net in (student, teacher) for m in net.modules())


def test_descending_the_loss_brings_a_students_maps_to_its_teachers() -> None:
    student, teacher, x = network(6, 4), network(6, 5).eval(), gaussian(22, 16, 1, 8, 8).float()
    way = AffinityDistillation(outputs=0.0, affinity=1.0)
    optimizer = torch.optim.Adam(student.parameters(), 0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = faqd_loss(student, teacher, x, ["1", "3"], objective=way)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_the_scale_of_a_threshold_is_the_least_squares_one_of_its_support() -> None:
    w = gaussian(23, 8, 30)
    what = ThresholdTernary()(w)
    support = w.abs() > 0.7 * w.abs().mean()
    signs = w.sign() * support
    best = (w * signs).sum() / signs.square().sum()
    torch.testing.assert_close(what, best * signs)
    costs = [float((w - ThresholdTernary(mean_over=m)(w)).norm()) for m in ("support", "all")]
    exact = float((w - Ternary(per="tensor").fake(w)).norm())
    assert exact <= costs[0] < costs[1]
    assert float(ThresholdTernary(mean_over="all")(w).max()) == pytest.approx(
        float((w.abs() * support).mean())
    )


def test_mistakes_are_told() -> None:
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    with pytest.raises(InvalidInput, match="order"):
        feature_affinity_loss(a, b, order=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="seed"):
        feature_affinity_loss(a, b, fast_dim=15)
    with pytest.raises(InvalidInput, match="same samples"):
        feature_affinity_loss(a, b[:1])
    with pytest.raises(InvalidInput, match="same samples"):
        feature_affinity_loss(a, b.flatten(2))
    with pytest.raises(InvalidInput, match="a map is"):
        feature_affinity(torch.rand(2, 3))
    student, teacher, x = network(4, 0), network(4, 0), torch.rand(2, 1, 8, 8)
    with pytest.raises(InvalidInput, match="eval"):
        faqd_loss(student, teacher, x, ["1"])
    with pytest.raises(InvalidInput, match="no layer is named 'relu'"):
        faqd_loss(student, copy.deepcopy(teacher).eval(), x, ["relu"])
    with pytest.raises(InvalidInput, match="make no pairs"):
        faqd_loss(student, copy.deepcopy(teacher).eval(), x, [])
    with pytest.raises(InvalidInput, match="negative"):
        AffinityDistillation(affinity=-1.0)
    with pytest.raises(InvalidInput, match="temperature"):
        AffinityDistillation(temperature=0.0)
    with pytest.raises(InvalidInput, match="threshold"):
        ThresholdTernary(-0.1)
