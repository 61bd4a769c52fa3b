"""A small character model learned on one dialect and adapted to another, for claims on adapters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from driftwell.data.texts import Characters, generated_text, windows
from driftwell.models.sequence.transformer import CharacterTransformer, next_character_loss
from driftwell.quantization.adapters import AdapterDescription, adapt, merge, parameter_count

# The layers that DiaBlo's code adapts: query, key, value, up, down.
TARGETS = ("query", "key", "value", "up", "down")
# Every adapter is tuned on the same grid, on a text of its own.
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
_CONTEXT, _BATCH, _CHARACTERS, _HELD_OUT = 32, 32, 120_000, 8_000
_LEARN, _ADAPT, _EVERY, _WARM_UP = 500, 200, 10, 20


@dataclass(frozen=True)
class Dialect:
    """One dialect as numbers: a text to learn from, one to choose by, one to judge by."""

    learn: Tensor
    choose: Tensor
    judge: Tensor
    vocabulary: int


@lru_cache(maxsize=4)
def dialect(seed: int, number: int) -> Dialect:
    """Dialect `number` of the language `seed`."""
    letters = Characters.of(generated_text(seed, 20_000))
    text = letters.encode(generated_text(seed, _CHARACTERS + 2 * _HELD_OUT, number))
    learn, choose, judge = text.split([_CHARACTERS, _HELD_OUT, _HELD_OUT])
    return Dialect(learn, choose, judge, len(letters.alphabet))


@lru_cache(maxsize=2)
def learned(seed: int) -> CharacterTransformer:
    """A model of dialect 0, trained."""
    own = dialect(seed, 0)
    model = CharacterTransformer(
        own.vocabulary, width=64, depth=2, heads=4, context=_CONTEXT, seed=seed
    )
    train(model, own, steps=_LEARN, rate=3e-3, seed=seed)
    return model.eval()


@dataclass(frozen=True)
class Adapted:
    """An adapted model: its best learning rate, held-out losses on the way, its size, and how far
    the logits of the merged model are from its own, relative to the largest.
    """

    rate: float
    steps: list[float]
    losses: list[float]
    parameters: int
    merge_error: float

    def reached(self, loss: float) -> float:
        """First step at which the held-out loss was at most `loss`; infinite if never."""
        return next(
            (s for s, l in zip(self.steps, self.losses, strict=True) if l <= loss), float("inf")
        )


@lru_cache(maxsize=16)
def adapted(description: AdapterDescription, seed: int, to_zero: bool) -> Adapted:
    """The model of dialect 0 adapted to dialect 1, at the rate that is best on the second text.

    The rate stays, or falls in a line to zero.
    """
    other = dialect(seed, 1)
    found: list[tuple[float, Adapted]] = []
    for rate in RATES:
        tuned = adapt(learned(seed), description, TARGETS)
        steps, losses = train(
            tuned, other, steps=_ADAPT, rate=rate, seed=seed + 1, every=_EVERY, to_zero=to_zero
        )
        made = Adapted(rate, steps, losses, parameter_count(tuned), _merge_error(tuned, other))
        found.append((loss_on(tuned, other.choose), made))
    return min(found, key=lambda pair: pair[0])[1]


def _merge_error(tuned: nn.Module, text: Dialect) -> float:
    """Largest difference of the merged model's logits, relative to the largest logit."""
    x = windows(text.judge, _CONTEXT, 64, seed=0, step=0)[0]
    with torch.no_grad():
        logits = tuned(x)
        return float((merge(tuned)(x) - logits).abs().max() / logits.abs().max())


def train(
    model: nn.Module,
    text: Dialect,
    *,
    steps: int,
    rate: float,
    seed: int,
    every: int = 0,
    to_zero: bool = False,
) -> tuple[list[float], list[float]]:
    """Adam with a short warm-up, then at one rate or falling in a line to zero.

    Returned are held-out losses after every `every` steps.
    """
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0
    )
    seen: list[float] = []
    losses: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            falling = (steps - step) / (steps - _WARM_UP) if to_zero else 1.0
            group["lr"] = rate * min(1.0, (step + 1) / _WARM_UP, falling)
        x, y = windows(text.learn, _CONTEXT, _BATCH, seed=seed, step=step)
        optimizer.zero_grad()
        next_character_loss(model(x), y).backward()
        optimizer.step()
        if every and (step + 1) % every == 0:
            seen.append(float(step + 1))
            losses.append(loss_on(model, text.judge))
    return seen, losses


def loss_on(model: nn.Module, text: Tensor) -> float:
    """Held-out loss in nats a character, on windows that tile the text."""
    count = (len(text) - 1) // _CONTEXT
    x = text[: count * _CONTEXT].reshape(count, _CONTEXT)
    y = text[1 : count * _CONTEXT + 1].reshape(count, _CONTEXT)
    with torch.no_grad():
        return float(next_character_loss(model(x), y))
