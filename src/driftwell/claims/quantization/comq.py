"""Claims on coordinate descent: COMQ alone, after GPTQ, and in the library's default."""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch
from torch import Tensor

from driftwell.claims.quantization.calibrated_layers import mean_error, transformer_layers
from driftwell.claims.registry import Outcome, claim
from driftwell.quantization.formats import Uniform
from driftwell.quantization.post_training import (
    COMQ,
    GPTQ,
    GPTQThenCOMQ,
    Method,
    RoundToNearest,
    row_errors,
)
from driftwell.quantization.post_training.comq import ZHANG

_BITS = (2, 3, 4)


@lru_cache(maxsize=32)
def _mean(method: Method, bits: int, seed: int) -> float:
    return mean_error(transformer_layers(seed), method, Uniform(bits))


def _judge_cold(method: COMQ | RoundToNearest, seed: int) -> Outcome:
    measured: dict[str, float] = {}
    shares = []
    for bits in _BITS:
        rounded, found = _mean(RoundToNearest(), bits, seed), _mean(method, bits, seed)
        measured |= {f"W{bits} rounding": rounded, f"W{bits} COMQ": found}
        shares.append(found / rounded)
    measured["mean share"] = sum(shares) / len(shares)
    return Outcome(
        holds=measured["mean share"] <= 0.6,
        measured=measured,
        bound="COMQ's relative output error (mean over layers) <= 0.6 of rounding's, mean over "
        "2, 3, 4 bits",
    )


def _clipped_rounding(seed: int) -> Outcome:
    return _judge_cold(RoundToNearest("weight"), seed)


@claim(
    id="comq-error",
    paper=ZHANG,
    states="coordinate descent from a cold start makes much smaller output errors than rounding, "
    "without any inverse",
    stated="card: at most 0.6 of rounding's error at 2 to 4 bits (3 greedy sweeps, fitted scales)",
    cpu_minutes=0.3,
    control=_clipped_rounding,
    control_is="rounding on the range with the smallest weight error in place of COMQ",
)
def cold_error(seed: int) -> Outcome:
    """COMQ against rounding on a trained character model."""
    return _judge_cold(COMQ(), seed)


def _judge_refinement(broken: bool, seed: int) -> Outcome:
    """Errors of all rows of all layers as sweeps are added to GPTQ's codes."""
    worst, gains, rows = 0.0, [], 0
    for layer in transformer_layers(seed):
        seen = torch.eye(len(layer.gram), dtype=layer.gram.dtype) if broken else layer.gram
        for bits in _BITS:
            start = GPTQ().quantize(layer.weight, layer.gram, Uniform(bits))
            errors = [row_errors(layer.weight, start.decode(), layer.gram)]
            for sweeps in (1, 2, 3, 5):
                found = COMQ(sweeps=sweeps).refine(layer.weight, seen, start).decode()
                errors.append(row_errors(layer.weight, found, layer.gram))
            worst = max(worst, *(_rise(a, b) for a, b in itertools.pairwise(errors)))
            gains.append(float((errors[-1].sum() / errors[0].sum()).sqrt()))
            rows += len(errors[0])
    return Outcome(
        holds=worst <= 1e-5,
        measured={
            "largest relative rise of a row": worst,
            "error, share of GPTQ's": sum(gains) / len(gains),
            "rows": float(rows),
        },
        bound="no row's error rises by more than 1e-5 of itself (float32) from GPTQ to 1, 2, 3, 5 "
        "sweeps",
    )


def _rise(before: Tensor, after: Tensor) -> float:
    return float((after / before.clamp(min=1e-300) - 1).max())


def _towards_the_weight(seed: int) -> Outcome:
    return _judge_refinement(True, seed)


@claim(
    id="comq-refinement",
    paper=ZHANG,
    states="started from GPTQ's codes, no sweep ever makes any row worse, and layers gain",
    stated="card: E is non-increasing once codes are feasible; after GPTQ at most GPTQ's on every "
    "layer, by construction",
    cpu_minutes=0.3,
    control=_towards_the_weight,
    control_is="descent on the error of the weights (G = I) in place of the outputs'",
)
def refinement(seed: int) -> Outcome:
    """Sweeps after GPTQ, every row of every layer."""
    return _judge_refinement(False, seed)


def _judge_against_gptq(method: Method, seed: int) -> Outcome:
    measured = {}
    for bits in (2, 3):
        measured[f"W{bits} GPTQ"] = _mean(GPTQ(), bits, seed)
        measured[f"W{bits} ours"] = _mean(method, bits, seed)
    return Outcome(
        holds=all(measured[f"W{bits} ours"] < measured[f"W{bits} GPTQ"] for bits in (2, 3)),
        measured=measured,
        bound="relative output error below that of GPTQ (act-order) at 2 and at 3 bits, mean over "
        "layers, both on the min-max range",
    )


def _rounding_against_gptq(seed: int) -> Outcome:
    return _judge_against_gptq(RoundToNearest(), seed)


@claim(
    id="comq-cold-start",
    paper=ZHANG,
    states="from a cold start COMQ is more accurate than GPTQ",
    stated="the paper reports COMQ ahead of other methods on vision transformers; the card "
    "measured it behind GPTQ with act-order on a small transformer, and it is so here",
    cpu_minutes=0.3,
    control=_rounding_against_gptq,
    control_is="rounding to nearest in place of COMQ",
    expected="not_reproduced",
)
def cold_start(seed: int) -> Outcome:
    """COMQ alone against GPTQ, as it is."""
    return _judge_against_gptq(COMQ(), seed)


def _judge_default(method: Method, seed: int) -> Outcome:
    measured = {}
    for bits in (2, 3):
        measured[f"W{bits} GPTQ"] = _mean(GPTQ(), bits, seed)
        measured[f"W{bits} share"] = _mean(method, bits, seed) / measured[f"W{bits} GPTQ"]
    return Outcome(
        holds=measured["W2 share"] <= 0.70 and measured["W3 share"] <= 0.85,
        measured=measured,
        bound="relative output error (mean over layers) at most 0.70 of GPTQ's at 2 bits and 0.85 "
        "at 3 bits; GPTQ: act-order, min-max range, damping 0.01",
    )


def _shrunk_gptq(seed: int) -> Outcome:
    return _judge_default(GPTQ(shrink=0.9), seed)


@claim(
    id="comq-default",
    paper=ZHANG,
    states="a range for each row, GPTQ, then coordinate descent: much less error than GPTQ alone",
    stated="card: 0.71 of GPTQ's error at 2 bits, 0.82 at 3 bits on a small transformer. The "
    "method's ranges, further passes and pairs were tuned on networks like this one, seeds 0 to 2 "
    "among them: five ranges and one further pass gave .702 to .712 at 2 bits",
    cpu_minutes=0.3,
    control=_shrunk_gptq,
    control_is="GPTQ alone on 0.9 of the range",
)
def default(seed: int) -> Outcome:
    """The library's default method against GPTQ."""
    return _judge_default(GPTQThenCOMQ(), seed)
