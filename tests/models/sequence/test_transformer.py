"""The character transformer: causal, seeded, equal to the written-out formula."""

from __future__ import annotations

import math

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.data import Characters, generated_text, windows
from driftwell.models.sequence import CharacterTransformer, SelfAttention, next_character_loss


def test_attention_is_the_formula() -> None:
    layer = SelfAttention(6, 2, draw=torch.Generator().manual_seed(0)).double()
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q, k, v = (part(x).reshape(2, 4, 2, 3) for part in (layer.query, layer.key, layer.value))
    score = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(3)
    score = score.masked_fill(~torch.ones(4, 4, dtype=torch.bool).tril(), -math.inf)
    mixed = torch.einsum("bhts,bshd->bthd", score.softmax(-1), v).reshape(2, 4, 6)
    torch.testing.assert_close(layer(x), layer.output(mixed))


def test_a_character_does_not_see_the_next_ones() -> None:
    model = CharacterTransformer(10, width=16, depth=2, heads=2, context=8)
    tokens = torch.randint(0, 10, (3, 8), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 10
    torch.testing.assert_close(model(tokens)[:, :5], model(changed)[:, :5])
    assert not torch.allclose(model(tokens)[:, 5:], model(changed)[:, 5:])


def test_the_start_is_a_function_of_the_seed() -> None:
    one, two, other = (CharacterTransformer(10, width=16, depth=1, seed=s) for s in (0, 0, 1))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_it_learns_more_than_the_frequencies_of_characters() -> None:
    text = generated_text(0, 20_000)
    letters = Characters.of(text)
    numbers = letters.encode(text)
    share = numbers.bincount() / len(numbers)
    entropy = float(-(share * share.log()).sum())
    model = CharacterTransformer(len(letters.alphabet), width=32, depth=1, heads=2, context=16)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(60):
        x, y = windows(numbers, 16, 16, seed=0, step=step)
        optimizer.zero_grad()
        loss = next_character_loss(model(x), y)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.85 * entropy


def test_mistakes_are_told() -> None:
    with pytest.raises(InvalidInput, match="3 heads do not divide"):
        CharacterTransformer(10, width=16, heads=3)
    with pytest.raises(InvalidInput, match="'learned' or 'none'"):
        CharacterTransformer(10, positions="sine")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="longer than 4"):
        CharacterTransformer(10, width=8, heads=1, context=4)(torch.zeros(1, 5, dtype=torch.int64))
