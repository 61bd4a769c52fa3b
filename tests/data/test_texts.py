"""Texts: a grammar that does not change, dialects, windows, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.data import Characters, generated_text, read_text, windows


def test_the_grammar_is_a_function_of_its_arguments() -> None:
    text = generated_text(3, 5000)
    assert text == generated_text(3, 5000)
    assert text[:1000] == generated_text(3, 1000)
    assert text != generated_text(4, 5000)


def test_a_dialect_keeps_the_words_and_changes_their_order() -> None:
    def words(text: str) -> list[str]:
        return text.replace(".\n", " ").split(" ")[:-1]

    one, two = words(generated_text(0, 60_000)), words(generated_text(0, 60_000, 1))
    assert len(set(one) & set(two)) > 0.6 * min(len(set(one)), len(set(two)))
    pairs = [set(itertools.pairwise(text)) for text in (one, two)]
    assert len(pairs[0] & pairs[1]) < 0.2 * len(pairs[0])


def test_a_word_has_few_followers() -> None:
    text = generated_text(1, 60_000).replace(".\n", " ").split(" ")[:-1]
    followers: dict[str, set[str]] = {}
    for word, following in itertools.pairwise(text):
        followers.setdefault(word, set()).add(following)
    assert max(map(len, followers.values())) <= 6


def test_characters_there_and_back() -> None:
    letters = Characters.of("to be or not")
    assert letters.decode(letters.encode("not to be")) == "not to be"
    with pytest.raises(InvalidInput, match="'xz'"):
        letters.encode("zx")
    with pytest.raises(InvalidInput, match="empty"):
        Characters.of("")


def test_windows_lie_in_the_text_and_targets_are_one_on() -> None:
    numbers = torch.arange(40)
    x, y = windows(numbers, 39, 6, seed=0, step=3)
    assert torch.equal(x, torch.arange(39).expand(6, 39))
    x, y = windows(numbers, 8, 500, seed=0, step=4)
    assert torch.equal(y, x + 1)
    assert int(x.min()) == 0
    assert int(y.max()) == 39
    with pytest.raises(InvalidInput, match="not longer"):
        windows(numbers, 40, 1, seed=0, step=0)


def test_files_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("drift\n", encoding="utf-8")
    assert read_text(tmp_path / "a.txt") == "drift\n"
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_text(tmp_path / "b.txt")
    with pytest.raises(InvalidInput, match="tinyshakespeare"):
        read_text("no-such-text")
    monkeypatch.delenv("DRIFTWELL_DATA", raising=False)
    with pytest.raises(InvalidInput, match="DRIFTWELL_DATA"):
        read_text("tinyshakespeare")


def test_tiny_shakespeare(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTWELL_DATA", str(data_folder))
    text = read_text("tinyshakespeare")
    assert len(text) == 1_115_394
    assert len(Characters.of(text).alphabet) == 65
