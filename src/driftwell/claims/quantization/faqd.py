"""Claims of Li et al., *Feature Affinity Assisted Knowledge Distillation and Quantization*."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache, lru_cache
from statistics import median
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal, permutation
from driftwell.data import load
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear
from driftwell.quantization.formats import Binary
from driftwell.quantization.training_aware.distillation import AffinityDistillation, faqd_loss
from driftwell.quantization.training_aware.feature_affinity import FAQD, feature_affinity_loss
from driftwell.quantization.training_aware.quantized_weights import quantization_aware

_PLACES, _CHANNELS, _ROUNDS = 1024, 64, 15
_LEARNED, _RUNS, _UPDATES, _BATCH = 600, 3, 400, 64
_MAPS = ("0", "1", "2")
_Way = Literal["labels", "outputs", "affinity", "misled"]


def _judge_fast(fast_dim: int, seed: int) -> Outcome:
    """Squares of order 2 on random maps, and seconds of loss and gradient."""
    student, teacher = (
        normal((4, _CHANNELS, _PLACES), seed=seed, purpose=Purpose.DATA, chains=4, step=i)
        for i in range(2)
    )

    def loss(k: int | None) -> Tensor:
        held = student.clone().requires_grad_()
        found = feature_affinity_loss(held, teacher, order=2, fast_dim=k, seed=seed)
        found.backward()
        return found.detach()

    times: dict[int | None, list[float]] = {None: [], fast_dim: []}
    squares: dict[int | None, float] = {}
    for _ in range(_ROUNDS):
        for k, seconds in times.items():
            began = time.perf_counter()
            squares[k] = float(loss(k).square())
            seconds.append(time.perf_counter() - began)
    ratio = squares[fast_dim] / squares[None]
    faster = median(times[None]) / median(times[fast_dim])
    return Outcome(
        holds=abs(ratio - 1) < 0.3 and faster >= 3.0,
        measured={
            "fast / exact, squared": ratio,
            "times faster": faster,
            "exact, milliseconds": 1e3 * median(times[None]),
        },
        bound="square within 30 % of the exact one, loss and gradient at least 3 times faster "
        f"(median of {_ROUNDS}; 4 maps of {_CHANNELS} channels, {_PLACES} places)",
    )


@claim(
    id="faqd-fast-loss",
    paper=FAQD,
    states="with 15 random vectors the affinity loss is nearly the exact one and several times "
    "faster on maps of 32 x 32",
    stated="card: order 2, squared, within 30 % on random maps and at least 3 times faster",
    cpu_minutes=0.05,
    fast=True,
    control=lambda seed: _judge_fast(_PLACES, seed),
    control_is="as many vectors as places",
)
def fast_loss(seed: int) -> Outcome:
    """Error and time of the fast loss."""
    return _judge_fast(15, seed)


@cache
def _digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to learn from, and others to test on."""
    digits = load("digits", "all")
    order = permutation(len(digits), seed=seed, purpose=Purpose.DATA, step=0)
    labels = digits.labels
    if labels is None:
        raise RuntimeError("the bundled digits have labels")
    x, y = digits.images[order][:, None], labels[order]
    return x[:_LEARNED], y[:_LEARNED], x[_LEARNED:], y[_LEARNED:]


def _network(seed: int) -> nn.Module:
    """Three stages of convolution, batch norm and ReLU, and a linear layer."""
    draw = torch.Generator().manual_seed(seed)
    stages, channels = [], 1
    for stage, width in enumerate((12, 24, 24)):
        conv = drawn_conv(channels, width, 3, draw, stride=2 if stage else 1, gain=1.4)
        stages.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
        channels = width
    return nn.Sequential(*stages, nn.Flatten(), drawn_linear(4 * channels, 10, draw))


def _fit(
    model: nn.Module, updates: int, seed: int, loss: Callable[[nn.Module, Tensor, int], Tensor]
) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    draw = torch.Generator().manual_seed(seed)
    for update in range(updates):
        rows = torch.randint(_LEARNED, (_BATCH,), generator=draw)
        optimizer.zero_grad()
        loss(model, rows, update).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@lru_cache(maxsize=16)
def _teacher(seed: int) -> nn.Module:
    x, y, _, _ = _digits(seed)
    return _fit(_network(seed), 300, seed, lambda m, rows, _: F.cross_entropy(m(x[rows]), y[rows]))


class _Misled(nn.Module):
    """A teacher that says the next class."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.teacher(x)
        return logits.roll(1, dims=1)


@lru_cache(maxsize=64)
def _points(way: _Way, seed: int) -> float:
    """Test accuracy in per cent of a student with binary weights that starts at the teacher."""
    x, y, unseen, truth = _digits(seed)
    teacher = _teacher(seed)
    judge = _Misled(teacher).eval() if way == "misled" else teacher
    names = {m: f"teacher.{m}" if way == "misled" else m for m in _MAPS}
    objective = AffinityDistillation(affinity=0.0 if way == "outputs" else 0.1)

    def loss(model: nn.Module, rows: Tensor, update: int) -> Tensor:
        if way == "labels":
            return F.cross_entropy(model(x[rows]), y[rows])
        return faqd_loss(model, judge, x[rows], names, objective=objective, step=update)

    student = quantization_aware(copy.deepcopy(teacher).train(), Binary())
    _fit(student, _UPDATES, seed, loss)
    with torch.no_grad():
        return 100.0 * float((student(unseen).argmax(1) == truth).double().mean())


def _judge_label_free(ours: _Way, seed: int) -> Outcome:
    seeds = range(_RUNS * seed, _RUNS * (seed + 1))
    labels, outputs, affinity = (
        sum(_points(way, s) for s in seeds) / _RUNS for way in ("labels", "outputs", ours)
    )
    return Outcome(
        holds=affinity >= labels - 0.3 and affinity > outputs,
        measured={
            "cross-entropy": labels,
            "distillation": outputs,
            "with affinity": affinity,
            "with affinity - cross-entropy": affinity - labels,
            "with affinity - distillation": affinity - outputs,
        },
        bound="mean accuracy (per cent, 3 students) of distillation with affinity at least "
        "cross-entropy's - 0.3, and above that of distillation alone",
    )


@claim(
    id="faqd-label-free",
    paper=FAQD,
    states="a student with binary weights learns from its teacher without labels as well as with "
    "labels, and better with the affinity loss than without; on digits neither holds",
    stated="card: >= cross-entropy - 0.3 points, and above distillation alone, over 3 students",
    cpu_minutes=0.9,
    expected="not_reproduced",
    control=lambda seed: _judge_label_free("misled", seed),
    control_is="a teacher that says the next class",
)
def label_free(seed: int) -> Outcome:
    """Accuracy of three ways to train a student with binary weights."""
    return _judge_label_free("affinity", seed)
