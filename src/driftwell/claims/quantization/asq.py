"""Claims of Zhou et al., *Precision Neural Network Quantization via Learnable Adaptive Modules*."""

from __future__ import annotations

import copy
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal, permutation
from driftwell.data import load
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear
from driftwell.quantization.formats import Codebook, Format, PowerOfSqrtTwo, PowerOfTwo
from driftwell.quantization.formats.lookup import ASQ
from driftwell.quantization.training_aware.adaptive_step import AdaptiveStepQuantizer
from driftwell.quantization.training_aware.learned_step import (
    LearnedStepQuantizer,
    LearnedStepWeight,
)
from driftwell.quantization.training_aware.quantized_weights import quantization_aware

_WEIGHTS, _LEARNED, _PAIRS, _UPDATES, _BATCH = 50_000, 600, 6, 300, 64
_CONTRASTS = (0.5, 2.0)


def _error(format: Format, seed: int) -> float:
    """Mean square error on standard normal weights, the scale (nearly) the best."""
    w = normal((1, _WEIGHTS), seed=seed, purpose=Purpose.DATA, chains=1, step=0)
    return float((format.fake(w) - w).square().mean())


def _eighth_roots(bits: int) -> Format:
    """As many levels, but powers of 2^(1/8): crowded at the top."""
    sizes = tuple(2.0 ** (-k / 8) for k in range((1 << (bits - 1)) - 1))
    return Codebook((*(-each for each in sizes), 0.0, *reversed(sizes)))


def _judge_levels(bits: tuple[int, ...], crowded: bool, seed: int) -> Outcome:
    measured: dict[str, float] = {}
    holds = True
    for b in bits:
        post = _error(_eighth_roots(b) if crowded else PowerOfSqrtTwo(b), seed)
        pot = _error(PowerOfTwo(b), seed)
        measured |= {f"POST {b} bits": post, f"POT {b} bits": pot}
        holds = holds and post < pot
    return Outcome(
        holds=holds,
        measured=measured,
        bound="mean square error of POST below that of POT, each with its best scale",
    )


@claim(
    id="asq-post-levels",
    paper=ASQ,
    states="powers of sqrt(2) fit Gaussian weights better than powers of two at 4 and 5 bits",
    stated="card: lower mean square error at 3 and 4 bits, each with its best scale",
    cpu_minutes=0.03,
    fast=True,
    control=lambda seed: _judge_levels((4, 5), True, seed),
    control_is="powers of the eighth root of two in place of the square root",
)
def levels(seed: int) -> Outcome:
    """Errors of POST and POT at 4 and 5 bits."""
    return _judge_levels((4, 5), False, seed)


@claim(
    id="asq-post-levels-3-bits",
    paper=ASQ,
    states="powers of sqrt(2) fit Gaussian weights better than powers of two at 3 bits; they do "
    "not: {.5, .71, 1} leaves a wider gap around zero than {.25, .5, 1}",
    stated="card: lower mean square error at 3 and 4 bits; measured here at 3 bits: POST 0.069, "
    "POT 0.048",
    cpu_minutes=0.03,
    fast=True,
    expected="not_reproduced",
    control=lambda seed: _judge_levels((3,), True, seed),
    control_is="powers of the eighth root of two in place of the square root",
)
def levels_of_three_bits(seed: int) -> Outcome:
    """Errors of POST and POT at 3 bits."""
    return _judge_levels((3,), False, seed)


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


def _network(adaptive: bool, seed: int) -> nn.Module:
    """Two convolutions and a linear layer, no normalisation, 4 bits for weights and activations."""

    def rounding(channels: int) -> nn.Module:
        return AdaptiveStepQuantizer(4, channels) if adaptive else LearnedStepQuantizer(4)

    draw = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        drawn_conv(1, 16, 3, draw, gain=1.4), nn.ReLU(), rounding(16),
        drawn_conv(16, 32, 3, draw, stride=2, gain=1.4), nn.ReLU(), rounding(32),
        nn.Flatten(), drawn_linear(512, 10, draw),
    )  # fmt: skip
    return quantization_aware(net, lambda w: LearnedStepWeight(w, 4))


@lru_cache(maxsize=32)
def _trained(adaptive: bool, seed: int) -> nn.Module:
    x, y, _, _ = _digits(seed)
    model, draw = _network(adaptive, seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _UPDATES)
    for _ in range(_UPDATES):
        rows = torch.randint(len(x), (_BATCH,), generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def _points(model: nn.Module, contrast: float, seed: int) -> float:
    """Accuracy in per cent on test images times `contrast`."""
    _, _, x, y = _digits(seed)
    return 100.0 * float((model(contrast * x).argmax(1) == y).double().mean())


class _Reversed(nn.Module):
    """An adapter that answers 2 - beta: shorter steps for larger samples."""

    def __init__(self, adapter: nn.Module) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = 2.0 - self.adapter(x)
        return answer


def _reversed(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, AdaptiveStepQuantizer):
            module.adapter = _Reversed(module.adapter)
    return model


def _judge_adapter(broken: bool, seed: int) -> Outcome:
    """Means over pairs of networks that differ in the adapter alone."""
    gains: dict[float, float] = {}
    measured: dict[str, float] = {}
    for c in (1.0, *_CONTRASTS, 4.0):
        plain, ours = [], []
        for s in range(_PAIRS * seed, _PAIRS * (seed + 1)):
            adaptive = _trained(True, s)
            plain.append(_points(_trained(False, s), c, s))
            ours.append(_points(_reversed(adaptive) if broken else adaptive, c, s))
        gains[c] = (sum(ours) - sum(plain)) / _PAIRS
        measured |= {f"LSQ x{c:g}": sum(plain) / _PAIRS, f"ASQ - LSQ x{c:g}": gains[c]}
    shifted = sum(gains[c] for c in _CONTRASTS) / len(_CONTRASTS)
    return Outcome(
        holds=gains[1.0] >= -0.2 and shifted >= 0.5,
        measured={"ASQ - LSQ, contrasts .5 and 2": shifted} | measured,
        bound="in points of accuracy, ASQ - LSQ at least -0.2 on clean images and 0.5 in the "
        f"mean of contrasts 0.5 and 2 ({_PAIRS} pairs of networks)",
    )


@claim(
    id="asq-contrast",
    paper=ASQ,
    states="with 4 bits for weights and activations the adapter costs nothing on clean digits and "
    "gains half a point when images are rescaled by 0.5 or 2; it does not: the learned step "
    "itself loses only half a point there",
    stated="card: ASQ >= LSQ - 0.2 points clean, >= LSQ + 0.5 points at contrasts 0.5 and 2; "
    "measured here over 18 pairs: -0.14 clean, -0.13 at 0.5, +0.30 at 2, and +1.3 at 4, where "
    "the learned step loses 3.7 points",
    cpu_minutes=0.4,
    expected="not_reproduced",
    control=lambda seed: _judge_adapter(True, seed),
    control_is="trained adapters that answer 2 - beta in place of beta",
)
def contrast(seed: int) -> Outcome:
    """Accuracy with and without the adapter, on clean and rescaled images."""
    return _judge_adapter(False, seed)
