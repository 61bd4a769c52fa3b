"""A small graph in the form of the citation graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def save_ring(path: Path, nodes: int = 20) -> Path:
    """Write a ring of nodes: two halves are two classes, and each node's word is its class."""
    y = (np.arange(nodes) >= nodes // 2).astype(np.int64)
    half = nodes // 2
    np.savez(
        path, y=y, x_shape=np.array([nodes, 2]), x_indptr=np.arange(nodes + 1), x_indices=y,
        x_data=np.ones(nodes), train_idx=np.array([2, 5, half + 2, half + 5]),
        val_idx=np.array([3, half + 3]), test_idx=np.array([4, 6, half + 4, half + 6]),
        edges_undirected=np.stack([np.arange(nodes), (np.arange(nodes) + 1) % nodes]),
    )  # fmt: skip
    return path
