"""Reader of citation graphs with the Planetoid split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data.graphs import Graph, undirected

__all__ = ["read_planetoid"]

_NEEDED = (
    "x_indptr", "x_indices", "x_data", "x_shape", "y", "edges_undirected",
    "train_idx", "val_idx", "test_idx",
)  # fmt: skip


def read_planetoid(folder: Path | str, name: str) -> Graph:
    """A citation graph with the public split of Yang, Cohen and Salakhutdinov, *Revisiting
    Semi-Supervised Learning with Graph Embeddings*, 2016, arXiv:1603.08861.

    Features are words, each row divided by its sum (a row of zeros stays zero). Nodes without a
    label have y = -1 and are in no mask.

    Args:
        folder: holds ``<name>.npz`` with compressed rows ``x_*``, ``y``, ``edges_undirected`` and
            ``train_idx``, ``val_idx``, ``test_idx``; nothing is downloaded.
        name: ``"cora"`` or ``"citeseer"``, or the stem of another such file.

    Returns:
        Graph with `train_mask` (20 nodes a class), `val_mask` (500), `test_mask` (1000).

    Raises:
        InvalidInput: the file is missing, not of that form, or inconsistent.

    Example:
        >>> read_planetoid("nowhere", "cora")
        Traceback (most recent call last):
        driftwell.core.errors.InvalidInput: nowhere/cora.npz is not there: ...
    """
    path = Path(folder) / f"{name}.npz"
    if not path.is_file():
        raise InvalidInput(
            f"{path} is not there: give the folder that holds the .npz files of the citation graphs"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in _NEEDED if key not in file.files]
            if missing:
                raise InvalidInput(f"{path} lacks the arrays {', '.join(missing)}")
            arrays = {key: file[key] for key in _NEEDED}
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} is not a readable .npz file: {error}") from error
    nodes, labels = len(arrays["y"]), torch.from_numpy(arrays["y"].astype(np.int64))
    return Graph(
        edges=undirected(torch.from_numpy(arrays["edges_undirected"].astype(np.int64))),
        x=_words(arrays, path),
        y=labels,
        train_mask=_mask(arrays["train_idx"], nodes, labels, path),
        val_mask=_mask(arrays["val_idx"], nodes, labels, path),
        test_mask=_mask(arrays["test_idx"], nodes, labels, path),
    )


def _words(arrays: dict[str, npt.NDArray[np.generic]], path: Path) -> Tensor:
    """Dense features with rows that sum to 1."""
    starts, columns = (arrays[k].astype(np.int64) for k in ("x_indptr", "x_indices"))
    rows, width = (int(n) for n in arrays["x_shape"])
    fits = len(starts) == rows + 1 and starts[-1] == len(columns) == len(arrays["x_data"])
    if not fits or (len(columns) and not 0 <= columns.min() <= columns.max() < width):
        raise InvalidInput(f"{path}: x_indptr, x_indices and x_data do not make a matrix")
    x = torch.zeros(rows, width)
    row_of = torch.from_numpy(np.repeat(np.arange(rows), np.diff(starts)))
    x[row_of, torch.from_numpy(columns)] = torch.from_numpy(arrays["x_data"].astype(np.float32))
    total = x.sum(dim=1, keepdim=True)
    return x / torch.where(total == 0, 1.0, total)


def _mask(index: npt.NDArray[np.generic], nodes: int, labels: Tensor, path: Path) -> Tensor:
    chosen = torch.from_numpy(index.astype(np.int64))
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < nodes:
        raise InvalidInput(f"{path}: a split names a node outside 0..{nodes - 1}")
    mask = torch.zeros(nodes, dtype=torch.bool)
    mask[chosen] = True
    return mask & (labels >= 0)
