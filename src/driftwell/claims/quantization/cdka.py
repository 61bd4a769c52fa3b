"""Claims on CDKA: Kronecker components fit what low rank cannot, and finetune as well."""

from __future__ import annotations

import torch
from torch import Tensor

from driftwell.claims.quantization.adapted_characters import RATES, adapted
from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal
from driftwell.quantization.adapters import CDKA, AdapterDescription, LoRA, closest_kronecker
from driftwell.quantization.adapters.kronecker import CDKA_PAPER

_ROWS, _COLUMNS, _TERMS = 96, 128, 8
# "Equal order" for targets without structure, in numbers: within a fifth of each other.
_SAME = 1.2


def _misfit(target: Tensor, r1: int, r2: int) -> float:
    """|target - best sum of r products|_F / |target|_F, at _TERMS (rows + columns) parameters."""
    b, a = closest_kronecker(target, r1, r2, _TERMS)
    fit = torch.einsum("bip,iaq->bapq", b, a).reshape(target.shape)
    return float((target - fit).norm() / target.norm())


def _drawn(rows: int, columns: int, seed: int, leaf: int) -> Tensor:
    return normal(
        (rows, columns), seed=seed, purpose=Purpose.PROBE, chains=rows, step=0, leaf=leaf,
        dtype=torch.float64,
    )  # fmt: skip


def _judge_fits(ours: int, theirs: int, seed: int) -> Outcome:
    """Components of sides `ours` against sides `theirs`, on two full-rank targets."""
    products = sum(
        torch.kron(_drawn(_ROWS // 2, 2, seed, 2 * i), _drawn(2, _COLUMNS // 2, seed, 2 * i + 1))
        for i in range(_TERMS)
    )
    noise = _drawn(_ROWS, _COLUMNS, seed, 90)
    # A structured target is full rank too: a tenth of it is noise.
    structured = torch.as_tensor(products)
    structured = structured + 0.1 * structured.norm() / noise.norm() * noise
    unstructured = _drawn(_ROWS, _COLUMNS, seed, 91)
    measured = {
        "structured": _misfit(structured, ours, ours),
        "structured, the other": _misfit(structured, theirs, theirs),
        "unstructured": _misfit(unstructured, ours, ours),
        "unstructured, the other": _misfit(unstructured, theirs, theirs),
    }
    return Outcome(
        holds=measured["structured"] < measured["structured, the other"]
        and measured["unstructured"] <= _SAME * measured["unstructured, the other"],
        measured=measured,
        bound="relative misfit of 2 x 2 components below that of the SVD of the same size on a "
        "Kronecker target, at most 1.2 times it on noise",
    )


def _fits_exchanged(seed: int) -> Outcome:
    return _judge_fits(1, 2, seed)


@claim(
    id="cdka-kronecker-fits",
    paper=CDKA_PAPER,
    states="at equal size the best sum of Kronecker products fits a Kronecker-structured full-rank "
    "update better than the best low-rank matrix, and one without structure as well",
    stated="card (iii): lower error on a structured target, error of equal order on noise",
    cpu_minutes=0.02,
    control=_fits_exchanged,
    control_is="the low-rank fit judged as if it were the Kronecker fit",
    fast=True,
)
def kronecker_fits(seed: int) -> Outcome:
    """Closed-form fits of 96 x 128 targets with 8 terms."""
    return _judge_fits(2, 1, seed)


# Both updates have the factor 16 / sqrt(8).
_KRON, _LOW = CDKA(2, 2, 8, alpha=16.0), LoRA(8, alpha=16.0, rank_stabilized=True)


def _judge_finetuning(ours: AdapterDescription, theirs: AdapterDescription, seed: int) -> Outcome:
    first, second = adapted(ours, seed, True), adapted(theirs, seed, True)
    return Outcome(
        holds=first.losses[-1] <= second.losses[-1] and first.parameters == second.parameters,
        measured={
            "final loss": first.losses[-1],
            "final loss of the other": second.losses[-1],
            "parameters": float(first.parameters),
            "rate": first.rate,
            "rate of the other": second.rate,
            "merge error": first.merge_error,
        },
        bound="held-out loss after 200 steps <= LoRA's at the same number of parameters",
        series={
            type(ours).__name__: (first.steps, first.losses),
            type(theirs).__name__: (second.steps, second.losses),
        },
    )


def _finetuning_exchanged(seed: int) -> Outcome:
    return _judge_finetuning(_LOW, _KRON, seed)


@claim(
    id="cdka-beats-lora",
    paper=CDKA_PAPER,
    states="a character model adapted to another dialect by CDKA(2, 2, 8) is no worse than by LoRA "
    f"of rank 8, the same size, each at its best of the rates {RATES}, falling to zero. At "
    "constant rates, tried first, both end higher, seeds 0 and 1 hold and seed 2 misses by 0.004",
    stated="card (iv): CDKA(2, 2, r) loss <= LoRA(r) loss at equal parameters",
    cpu_minutes=1.0,
    control=_finetuning_exchanged,
    control_is="LoRA judged as if it were CDKA, and CDKA as LoRA",
)
def finetuning(seed: int) -> Outcome:
    """CDKA(2, 2, 8) against LoRA(8)."""
    return _judge_finetuning(_KRON, _LOW, seed)
