"""Claims on routed tokens: the budget is met, what it costs in accuracy, and tokens that rest."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

import driftwell as dw
from driftwell.claims.registry import Outcome, claim
from driftwell.core.noise import Purpose, normal, permutation
from driftwell.core.state import leaves
from driftwell.data import load
from driftwell.models.equilibrium.transformer import DEQTransformerBlock
from driftwell.models.vision.routed_classifier import RoutedClassifier
from driftwell.models.vision.token_routing import ROUTING, budget_loss
from driftwell.models.vision.token_settling import settle_tokens

_STEPS, _BATCH, _WEIGHT = 300, 64, 5.0


@lru_cache(maxsize=16)
def _trained(budget: float, weight: float, seed: int) -> tuple[float, Tensor]:
    """Share spent on the test digits, and which of them are told right."""
    train, test = load("digits", "train"), load("digits", "test")
    model = RoutedClassifier(8, 2, 10, width=32, depth=4, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    labels = train.labels if train.labels is not None else torch.empty(0)
    per_epoch = len(train) // _BATCH
    for step in range(_STEPS):
        epoch, place = divmod(step, per_epoch)
        order = permutation(len(train), seed=seed, purpose=Purpose.DATA, step=epoch)
        rows = order[place * _BATCH : (place + 1) * _BATCH]
        logits, routed = model(train.images[rows])
        loss = functional.cross_entropy(logits, labels[rows])
        loss = loss + weight * budget_loss(routed, budget)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        logits, routed = model(test.images, sparse=True)
    return model.spent(routed), logits.argmax(1) == test.labels


def _routing(seed: int, weight: float) -> Outcome:
    spent, right = {}, {}
    for budget in (0.4, 0.6, 1.0):
        # Without a weight the budget changes nothing: one training stands for all.
        spent[budget], right[budget] = _trained(budget if weight else 1.0, weight, seed)
    off = max(abs(share - budget) for budget, share in spent.items())
    change = right[1.0].double() - right[0.6].double()
    loss, error = float(change.mean()), float(change.std()) / math.sqrt(len(change))
    return Outcome(
        holds=off <= 0.03 and loss <= 0.01 + 2.0 * error,
        measured={
            **{f"spent at budget {budget}": share for budget, share in spent.items()},
            **{f"accuracy at budget {b}": float(r.double().mean()) for b, r in right.items()},
            "accuracy lost at 0.6": loss,
            "standard error of it": error,
        },
        bound="share of the blocks' cost per token on the test digits within 0.03 of the budgets "
        "0.4, 0.6, 1; accuracy at 0.6 at most 1 point (and 2 standard errors) below that at 1",
    )


def _no_budget(seed: int) -> Outcome:
    return _routing(seed, 0.0)


@claim(
    id="dit-budget",
    paper=ROUTING,
    states="a budget loss makes routed tokens spend the computation asked for, and 60 % of it is "
    "nearly as good as all",
    stated="paper: DiT-B5 84.8 % at 10.3 GFLOPs; card: FLOPs within 3 % of the budget, accuracy at "
    "0.6 within a point of that at 1. Reduced: digits of 8x8, width 32, 4 blocks, 300 "
    "steps, three budgets. Holds with seeds 0 and 1; with seed 2 "
    "4.7 points are lost at 0.6, more than the 3.5 that two standard errors allow",
    cpu_minutes=0.8,
    control=_no_budget,
    control_is="the same gates without the budget loss",
)
def budget(seed: int) -> Outcome:
    """Four classifiers of digits, each with its own budget."""
    return _routing(seed, _WEIGHT)


def _anderson(block: DEQTransformerBlock, x: Tensor, tol: float) -> float:
    """Token updates by Anderson acceleration until every single token rests to `tol`."""
    whole = tol
    while True:
        found = dw.fixed_point(
            block.layer, torch.zeros_like(x), {"tokens": x}, tol=whole, max_steps=300
        )
        z = leaves(found.z)[0]
        value = block.layer.at(z, {"tokens": x})
        gap = (value - z).norm(dim=2) / value.norm(dim=2)
        if float(gap.max()) <= tol:
            return float(found.steps.double().mean()) * x.shape[1]
        whole *= 0.7


def _settling(seed: int, stop: bool) -> Outcome:
    """Updates of single tokens by stopping, by plain iteration, and by Anderson acceleration."""
    block = DEQTransformerBlock(32, 4, seed=seed)
    noise = normal((16, 32, 32), seed=seed, purpose=Purpose.DATA, chains=16, step=0)
    # Tokens of unequal strength settle at unequal speed.
    x, start = torch.linspace(0.5, 4.0, 32)[None, :, None] * noise, torch.zeros(16, 32, 32)
    given = {"tokens": x}
    with torch.no_grad():
        exact = leaves(dw.fixed_point(block.layer, start, given, tol=1e-7, max_steps=300).z)[0]
        plain = dw.fixed_point(block.layer, start, given, tol=1e-4, solver=dw.Picard())
        fast = _anderson(block, x, 1e-4)
    settled = settle_tokens(block, x, tol=1e-4)
    z = leaves((settled.found if stop else plain).z)[0]
    updates = settled.updates if stop else plain.steps * x.shape[1]
    gap = (z - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    share = float(updates.double().mean()) / fast
    return Outcome(
        holds=float(gap.max()) <= 1e-3 and share <= 0.8,
        measured={
            "largest relative error": float(gap.max()),
            "token updates, stopping": float(settled.updates.double().mean()),
            "token updates, plain": float((plain.steps * x.shape[1]).double().mean()),
            "token updates, Anderson": fast,
            "share of Anderson": share,
        },
        bound="every token at rest to 1e-4, states within 1e-3 of the equilibrium, with at most "
        "0.8 of the token updates that Anderson acceleration of the whole takes for the same (0.9 "
        "at first, which one seed of three met: lowered so that nothing hangs on the seed)",
    )


def _never_stops(seed: int) -> Outcome:
    return _settling(seed, False)


@claim(
    id="dit-converged-tokens",
    paper=ROUTING,
    states="around an equilibrium block, tokens that stop once they rest cost less than bringing "
    "all of them to rest together",
    stated="card: equal outputs at tolerance with fewer token updates. Measured here: 0.51 to "
    "0.66 of plain iteration's, but 0.85 to 0.97 of Anderson acceleration's, which stops no token",
    cpu_minutes=0.1,
    control=_never_stops,
    control_is="plain iteration, in which no token stops before all do",
    expected="not_reproduced",
)
def converged_tokens(seed: int) -> Outcome:
    """A transformer block at equilibrium, token by token."""
    return _settling(seed, True)
