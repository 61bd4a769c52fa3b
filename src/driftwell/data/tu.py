"""Reader of small graphs to classify, in the text form of the TU collection."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from driftwell.core.errors import InvalidInput
from driftwell.data.graphs import Graph, undirected

__all__ = ["read_tu"]


def read_tu(folder: Path | str, name: str) -> list[Graph]:
    """Small labelled graphs of the TU collection, of Morris, Kriege, Bause, Kersting, Mutzel and
    Neumann, *TUDataset: A collection of benchmark datasets for learning with graphs*, 2020,
    arXiv:2007.08663.

    The file's first line is the number of graphs. Each follows as ``n label`` and n lines
    ``tag degree neighbour ...``. Features are one-hot tags; labels and tags become 0, 1, ... in
    their order.

    Args:
        folder: holds ``<name>/<name>.txt`` or ``<name>.txt``; nothing is downloaded.
        name: such as ``"MUTAG"``.

    Returns:
        Graphs, each with `y` (1,) int64.

    Raises:
        InvalidInput: the file is missing or not of that form; the sentence names the graph.

    Example:
        >>> read_tu("nowhere", "MUTAG")
        Traceback (most recent call last):
        driftwell.core.errors.InvalidInput: nowhere/MUTAG/MUTAG.txt is not there: ...
    """
    path = Path(folder) / name / f"{name}.txt"
    flat = Path(folder) / f"{name}.txt"
    path = flat if flat.is_file() else path
    if not path.is_file():
        raise InvalidInput(f"{path} is not there: give the folder that holds the set's text file")
    try:
        found = _parsed(path.read_text(encoding="utf-8").splitlines())
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        if isinstance(error, InvalidInput):
            raise InvalidInput(f"{path}: {error}") from error
        raise InvalidInput(f"{path} is not a graph set in text form: {error}") from error
    tags = {tag: k for k, tag in enumerate(sorted({t for _, ts, _ in found for t in ts}))}
    labels = {label: k for k, label in enumerate(sorted({label for label, _, _ in found}))}
    return [
        Graph(
            edges=undirected(torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T),
            x=F.one_hot(torch.tensor([tags[t] for t in ts]), len(tags)).float(),
            y=torch.tensor([labels[label]]),
        )
        for label, ts, pairs in found
    ]


def _parsed(lines: list[str]) -> list[tuple[int, list[int], list[tuple[int, int]]]]:
    """Label, tags and neighbour pairs of each graph."""
    count, at = int(lines[0]), 1
    found = []
    for number in range(count):
        size, label = (int(word) for word in lines[at].split()[:2])
        at += 1
        tags, pairs = [], []
        for node in range(size):
            tag, degree, *neighbours = (int(word) for word in lines[at + node].split())
            if degree != len(neighbours):
                raise InvalidInput(
                    f"graph {number}, node {node} announces {degree} neighbours and lists "
                    f"{len(neighbours)}"
                )
            tags.append(tag)
            pairs += [(node, other) for other in neighbours]
        found.append((label, tags, pairs))
        at += size
    return found
