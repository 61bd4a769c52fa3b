"""Claims on BiBERT: a transformer of signs that tells what a softmax of signs cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.quantization.training_aware.binary_layers import BIBERT
from driftwell.quantization.training_aware.binary_transformer import BinaryTransformer
from driftwell.quantization.training_aware.boolean_attention import (
    Attending,
    BooleanAttention,
    SignedSoftmaxAttention,
    SoftmaxAttention,
    attention_entropy,
)
from driftwell.quantization.training_aware.direction_matching import DirectionMatching
from driftwell.quantization.training_aware.popcount import (
    PackedSigns,
    boolean_product,
    sign_product,
)

# Token 0 starts every sequence; its features are what is classified.
_LETTERS, _LENGTH, _BATCH, _HELD_OUT = 4, 8, 64, 4000
_TEACH, _LEARN, _TEACH_RATE, _LEARN_RATE = 500, 1000, 2e-3, 5e-3
# The card's bounds: half of the gap, .9 bit; its "about 0" for the baseline is read as .1 bit.
_GAP, _BIT, _NOTHING = 0.5, 0.9, 0.1
_PLAIN, _MATCHED = DirectionMatching(matching=0.0), DirectionMatching()


def _sequences(count: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Tokens (count, _LENGTH + 1), and whether the first letter is the last one too."""
    draw = uniform(
        (count, _LENGTH + 2), seed=seed, purpose=Purpose.DATA, chains=count, step=step,
        dtype=torch.float64,
    )  # fmt: skip
    letters = (draw[:, :_LENGTH] * _LETTERS).long()
    same = draw[:, _LENGTH] < 0.5
    other = letters[:, 0] + 1 + (draw[:, _LENGTH + 1] * (_LETTERS - 1)).long()
    letters[:, -1] = torch.where(same, letters[:, 0], other % _LETTERS)
    return F.pad(letters + 1, (1, 0)), same.long()


def _network(attending: Attending, binary: bool, seed: int) -> BinaryTransformer:
    return BinaryTransformer(
        _LETTERS + 1, 2, width=32, depth=2, heads=2, context=_LENGTH + 1,
        attending=attending, binary=binary, seed=seed,
    )  # fmt: skip


@dataclass(frozen=True)
class _Learned:
    """A trained network, its held-out accuracy, and the bits a weight of its attention says."""

    model: BinaryTransformer
    accuracy: float
    entropy: float


def _train(
    model: BinaryTransformer,
    objective: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    rate: float,
    seed: int,
) -> _Learned:
    """Adam at a rate that falls in a line to zero."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - step / steps)
        tokens, labels = _sequences(_BATCH, seed, step)
        optimizer.zero_grad()
        objective(tokens, labels).backward()
        optimizer.step()
    tokens, labels = _sequences(_HELD_OUT, seed, steps)
    with torch.no_grad():
        seen = model.trace(tokens)
    accuracy = float((seen.logits.argmax(dim=1) == labels).double().mean())
    entropy = torch.stack([attention_entropy(w) for w in seen.weights]).mean()
    return _Learned(model, accuracy, float(entropy))


@lru_cache(maxsize=2)
def _teacher(seed: int) -> _Learned:
    """The float network, trained."""
    model = _network(SoftmaxAttention(), False, seed)

    def objective(tokens: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens), labels)

    return _train(model, objective, _TEACH, _TEACH_RATE, seed)


@lru_cache(maxsize=6)
def _student(attending: Attending, loss: DirectionMatching, seed: int) -> _Learned:
    """A network of signs that starts as its teacher and learns from it."""
    teacher = _teacher(seed).model
    model = _network(attending, True, seed)
    model.load_state_dict(teacher.state_dict())

    def objective(tokens: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            taught = teacher.trace(tokens)
        return loss(model.trace(tokens), taught, labels)

    return _train(model, objective, _LEARN, _LEARN_RATE, seed + 1)


def _gap_closed(found: _Learned, seed: int) -> float:
    """Part of the way from the sign of a softmax to floats, NaN where there is no way to go."""
    teacher, naive = _teacher(seed).accuracy, _naive(seed).accuracy
    return (found.accuracy - naive) / (teacher - naive) if teacher > naive else math.nan


def _naive(seed: int) -> _Learned:
    return _student(SignedSoftmaxAttention(), _PLAIN, seed)


def _judge_gap(ours: Attending, seed: int) -> Outcome:
    found = _student(ours, _PLAIN, seed)
    closed = _gap_closed(found, seed)
    return Outcome(
        holds=closed >= _GAP,
        measured={
            "accuracy, float": _teacher(seed).accuracy,
            "accuracy, sign of softmax": _naive(seed).accuracy,
            "accuracy": found.accuracy,
            "gap closed": closed,
            "bits, trained": found.entropy,
            "bits, sign of softmax, trained": _naive(seed).entropy,
        },
        bound="at least half of the gap between the sign of a softmax and floats is closed",
    )


def _naive_as_boolean(seed: int) -> Outcome:
    return _judge_gap(SignedSoftmaxAttention(), seed)


_TASK = (
    f"Whether the first of {_LENGTH} letters is also the last; 2 blocks of width 32 in signs, "
    f"{_LEARN} updates from the float network's weights with its classes to learn from"
)


@claim(
    id="bibert-boolean-attention",
    paper=BIBERT,
    states="boolean attention closes half of the gap that binarising a transformer with its "
    f"softmax leaves. {_TASK}, without direction matching: the claim was set up with it and "
    "failed on seeds 0 and 1, see bibert-direction-matching. Four letters, length 8 and the rate "
    "were chosen on seed 10: at length 12 with six letters .62 of the gap was closed, and .46 with "
    "matching",
    stated="card, with direction matching: at least 50 % of the gap; GLUE about 63 against 41 for "
    "the plain binary baseline and 83 in floats",
    cpu_minutes=0.7,
    control=_naive_as_boolean,
    control_is="the sign of a softmax judged as if it were boolean attention",
)
def boolean_attention(seed: int) -> Outcome:
    """BooleanAttention, the sign of a softmax, floats."""
    return _judge_gap(BooleanAttention(), seed)


def _judge_matching(loss: DirectionMatching, seed: int) -> Outcome:
    without = _student(BooleanAttention(), _PLAIN, seed)
    found = _student(BooleanAttention(), loss, seed)
    closed = _gap_closed(found, seed)
    return Outcome(
        holds=closed >= _GAP and found.accuracy > without.accuracy,
        measured={
            "accuracy, float": _teacher(seed).accuracy,
            "accuracy, sign of softmax": _naive(seed).accuracy,
            "accuracy": found.accuracy,
            "accuracy without matching": without.accuracy,
            "gap closed": closed,
            "bits, trained": found.entropy,
        },
        bound="with direction matching half of the gap is closed, and accuracy is higher than "
        "without",
    )


def _no_matching(seed: int) -> Outcome:
    return _judge_matching(_PLAIN, seed)


@claim(
    id="bibert-direction-matching",
    paper=BIBERT,
    states="boolean attention with direction matching, at the paper's unit weights, closes half of "
    "the gap that binarising a transformer with its softmax leaves, and more than without. "
    f"{_TASK}. Measured: it ends below boolean attention alone, at .78, .99, .73 against .92, 1, "
    ".97 on seeds 0, 1, 2",
    stated="card: boolean attention with direction matching closes at least 50 % of the gap",
    cpu_minutes=1.0,
    control=_no_matching,
    control_is="no matching on both sides",
    expected="not_reproduced",
)
def direction_matching(seed: int) -> Outcome:
    """Boolean attention with and without direction matching."""
    return _judge_matching(_MATCHED, seed)


def _judge_entropy(ours: Attending, seed: int) -> Outcome:
    """At the start of the students, in which the teacher's weights are signs."""
    teacher = _teacher(seed).model
    tokens, _ = _sequences(_HELD_OUT, seed, 0)
    bits: dict[str, float] = {}
    for name, rule in (("bits", ours), ("bits, sign of softmax", SignedSoftmaxAttention())):
        model = _network(rule, True, seed)
        model.load_state_dict(teacher.state_dict())
        with torch.no_grad():
            weights = model.trace(tokens).weights
        bits[name] = float(torch.stack([attention_entropy(w) for w in weights]).mean())
    return Outcome(
        holds=bits["bits"] >= _BIT and bits["bits, sign of softmax"] <= _NOTHING,
        measured=bits,
        bound=f"boolean weights say at least {_BIT} bit each, signs of a softmax at most "
        f"{_NOTHING}",
    )


def _naive_entropy(seed: int) -> Outcome:
    return _judge_entropy(SignedSoftmaxAttention(), seed)


@claim(
    id="bibert-entropy",
    paper=BIBERT,
    states="compared with zero, the scores of a trained transformer whose weights were just made "
    "signs say nearly a bit each; the sign of their softmax minus one half says nothing. Trained "
    "on (bibert-boolean-attention) they say .99, .92, .77 against .11, .12, .14 on seeds 0, 1, 2",
    stated="card: about .9 to 1 bit against about 0",
    cpu_minutes=0.15,
    control=_naive_entropy,
    control_is="the sign of a softmax judged as if it were boolean attention",
)
def entropy(seed: int) -> Outcome:
    """Bits of a weight when the float network's weights become signs, before learning on."""
    return _judge_entropy(BooleanAttention(), seed)


def _plus_at_zero(x: Tensor) -> Tensor:
    return 2 * (x >= 0).to(x.dtype) - 1


def _judge_bits(sign: Callable[[Tensor], Tensor], seed: int) -> Outcome:
    wrong, count = 0, 0
    for columns in (13, 64, 100, 768):
        a, b = (
            normal((48, columns), seed=seed, purpose=Purpose.PROBE, chains=48, step=columns, leaf=i)
            for i in (0, 1)
        )
        # centred and rounded activations do land on zero
        a = torch.where(a.abs() < 0.05, torch.zeros_like(a), a)
        signs, chosen = sign(b), (a > 0).to(a.dtype)
        scores = sign_product(PackedSigns.of(a), PackedSigns.of(b))
        context = boolean_product(PackedSigns.of(chosen - 0.5), PackedSigns.of(b))
        wrong += int((scores != sign(a) @ signs.T).sum()) + int((context != chosen @ signs.T).sum())
        count += 2 * scores.numel()
    return Outcome(
        holds=wrong == 0,
        measured={"entries that differ": float(wrong), "entries": float(count)},
        bound="every entry of sign and boolean products on bits equals the float product",
    )


def _zero_at_zero(seed: int) -> Outcome:
    return _judge_bits(torch.sign, seed)


@claim(
    id="bibert-popcount",
    paper=BIBERT,
    states="products of packed signs by exclusive or and a count of ones, and of booleans with "
    "signs by and, equal the float products exactly, for widths that fill words and that do not",
    stated="card: equals the float product exactly",
    cpu_minutes=0.02,
    control=_zero_at_zero,
    control_is="sign(0) = 0, as torch.sign has it, in the float product",
    fast=True,
)
def bits(seed: int) -> Outcome:
    """Products of 48 rows of 13 to 768 columns."""
    return _judge_bits(_plus_at_zero, seed)
