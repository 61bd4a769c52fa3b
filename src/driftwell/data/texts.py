"""Texts as sequences of characters: a reader, a seeded grammar, and batches of windows."""

from __future__ import annotations

import os
from bisect import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform

__all__ = ["Characters", "generated_text", "read_text", "windows"]

_NAMES = {
    "tinyshakespeare": ("tinyshakespeare", "input.txt"),
    "wikitext2-valid": ("wikitext2-valid", "valid.txt"),
}
_SYLLABLES = ("ba", "cor", "den", "fi", "gal", "ho", "jin", "lu", "mer", "no", "pas", "ra", "sol")
_WORDS, _FOLLOWERS, _SENTENCE = 160, 6, 9


def read_text(name_or_path: str | os.PathLike[str]) -> str:
    """A text by its name, ``tinyshakespeare`` or ``wikitext2-valid``, or by its path.

    Named texts are looked for under ``$DRIFTWELL_DATA``; nothing is downloaded.

    Raises:
        InvalidInput: an unknown name, a missing file, or one that is not UTF-8 text.

    Example:
        >>> read_text("tinyshakespeare")[:14]  # doctest: +SKIP
        'First Citizen:'
    """
    name = os.fspath(name_or_path)
    if name in _NAMES:
        folder = os.environ.get("DRIFTWELL_DATA", "")
        if not folder:
            raise InvalidInput(f"{name} needs DRIFTWELL_DATA to name the folder of data sets")
        path = Path(folder).expanduser().joinpath(*_NAMES[name])
    else:
        path = Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidInput(
            f"there is no text at {path}; names are {', '.join(sorted(_NAMES))}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as text: {error}") from error


def generated_text(seed: int, length: int, dialect: int = 0) -> str:
    """Sentences of invented words, in which each word is followed by one of six others.

    Words and their followers are functions of the seed; a dialect keeps the words and changes
    who follows whom and how likely. So a model of one dialect knows the spelling of another and
    not its order.

    Args:
        seed: of words, followers and sentences.
        length: characters.
        dialect: which order of words, 0, 1, ...

    Raises:
        InvalidInput: a negative length.

    Example:
        >>> text = generated_text(0, 1000)
        >>> len(text), generated_text(0, 1000) == text, generated_text(0, 1000, 1) == text
        (1000, True, False)
    """
    if length < 0:
        raise InvalidInput(f"a text has a length of 0 or more, not {length}")
    words = _words(seed)
    followers, weights = _followers(seed, dialect)
    draws = _draws(length // 2 + 8, seed, step=1000 + dialect)
    pieces, count, word, size = [], 0, 0, 0
    for draw in draws:
        if size >= length:
            break
        last = count % _SENTENCE == _SENTENCE - 1
        piece = words[word] + (".\n" if last else " ")
        pieces.append(piece)
        size += len(piece)
        count += 1
        word = followers[word][bisect(weights[word], draw)]
    return "".join(pieces)[:length]


@final
@dataclass(frozen=True)
class Characters:
    """The alphabet of a text, and the text as numbers.

    Attributes:
        alphabet: its characters in order; a number is an index into it.

    Example:
        >>> letters = Characters.of("abba")
        >>> letters.encode("bab").tolist(), letters.decode(torch.tensor([1, 0]))
        ([1, 0, 1], 'ba')
    """

    alphabet: str

    @staticmethod
    def of(text: str) -> Characters:
        """The alphabet of `text`."""
        if not text:
            raise InvalidInput("an empty text has no alphabet")
        return Characters("".join(sorted(set(text))))

    def encode(self, text: str) -> Tensor:
        """Numbers (T,) int64 of the characters of `text`.

        Raises:
            InvalidInput: a character that is not in the alphabet.
        """
        number = {character: index for index, character in enumerate(self.alphabet)}
        unknown = sorted(set(text) - set(number))
        if unknown:
            raise InvalidInput(f"the alphabet lacks {''.join(unknown)!r}")
        return torch.tensor([number[character] for character in text], dtype=torch.int64)

    def decode(self, numbers: Tensor) -> str:
        """The text of the numbers (T,)."""
        return "".join(self.alphabet[index] for index in numbers.tolist())


def windows(
    numbers: Tensor, context: int, batch: int, *, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Random windows of a text and the same one character on: inputs and targets.

    Args:
        numbers: the text, (T,) int64.
        context: characters of a window.
        batch: windows.
        seed: with `step`, what places the windows.
        step: number of the batch.

    Returns:
        Inputs and targets, (batch, context) int64 each.

    Raises:
        InvalidInput: the text is not longer than a window.

    Example:
        >>> x, y = windows(torch.arange(100), 8, 4, seed=0, step=0)
        >>> x.shape, bool((y == x + 1).all())
        (torch.Size([4, 8]), True)
    """
    places = len(numbers) - context
    if places < 1:
        raise InvalidInput(f"a text of {len(numbers)} is not longer than a window of {context}")
    draw = uniform(
        (1, batch), seed=seed, purpose=Purpose.DATA, chains=1, step=step, dtype=torch.float64
    )
    start = (draw[0] * places).long()
    index = start[:, None] + torch.arange(context)
    return numbers[index], numbers[index + 1]


def _words(seed: int) -> list[str]:
    """Words of one to three syllables, all different."""
    words: list[str] = []
    step = 0
    while len(words) < _WORDS:
        draw = _draws(4, seed, step=step)
        step += 1
        count = 1 + int(draw[0] * 3)
        word = "".join(_SYLLABLES[int(d * len(_SYLLABLES))] for d in draw[1 : 1 + count])
        if word not in words:
            words.append(word)
    return words


def _followers(seed: int, dialect: int) -> tuple[list[list[int]], list[list[float]]]:
    """For each word the words that may follow, and the inner bounds of their shares of [0, 1)."""
    draw = torch.tensor(_draws(2 * _WORDS * _FOLLOWERS, seed, step=10_000 + dialect))
    draw = draw.reshape(2, _WORDS, _FOLLOWERS)
    followers = (draw[0] * _WORDS).long().tolist()
    shares = draw[1] ** 3
    bounds = (shares.cumsum(dim=1) / shares.sum(dim=1, keepdim=True))[:, :-1]
    return followers, bounds.tolist()


def _draws(count: int, seed: int, *, step: int) -> list[float]:
    draw = uniform(
        (1, count), seed=seed, purpose=Purpose.DATA, chains=1, step=step, dtype=torch.float64
    )
    found: list[float] = draw[0].tolist()
    return found
