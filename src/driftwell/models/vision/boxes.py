"""Boxes: their overlap, their coordinates as a state, and their assignment to things."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., Q, 4) and (..., G, 4), as (..., Q, G).

    Example:
        >>> pairwise_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        tensor([[0.3333]])
    """
    return _overlaps(a, b)[0]


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised intersection over union, IoU - (hull - union) / hull, as (..., Q, G).

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[3.0, 0.0, 4.0, 1.0]])
        >>> pairwise_giou(a, b)
        tensor([[-0.5000]])
    """
    iou, union = _overlaps(a, b)
    a, b = a[..., :, None, :], b[..., None, :, :]
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).prod(dim=-1).clamp_min(1e-9)
    return iou - (hull - union) / hull


def corners(state: Tensor) -> Tensor:
    """Left, top, right, bottom of box states (x, y, z, r), (..., 4).

    x and y are the centre, z = log2 sqrt(w h) the scale and r = log2(h / w) the ratio:
    w = 2^(z - r/2), h = 2^(z + r/2).

    Example:
        >>> corners(torch.tensor([4.0, 4.0, 2.0, 2.0]))
        tensor([3., 0., 5., 8.])
    """
    x, y, z, r = state.unbind(-1)
    w, h = torch.exp2(z - 0.5 * r), torch.exp2(z + 0.5 * r)
    return torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], dim=-1)


def assign(cost: Tensor) -> list[tuple[int, int]]:
    """One-to-one pairs (row, column) of least total cost, min(Q, G) of them: the Hungarian method
    by shortest augmenting paths.

    Args:
        cost: (Q, G), finite.

    Example:
        >>> assign(torch.tensor([[1.0, 2.0], [2.0, 9.0], [5.0, 5.0]]))
        [(0, 1), (1, 0)]
    """
    if cost.shape[0] < cost.shape[1]:
        return sorted((row, column) for column, row in assign(cost.T))
    table = cost.T.tolist()  # few things, each looking for one of many queries
    things, queries = len(table), cost.shape[0]
    price_thing, price_query = [0.0] * (things + 1), [0.0] * (queries + 1)
    owner = [0] * (queries + 1)  # thing that holds each query, from 1; 0: nobody
    for thing in range(1, things + 1):
        _augment(table, thing, owner, price_thing, price_query)
    return sorted((query - 1, owner[query] - 1) for query in range(1, queries + 1) if owner[query])


def _augment(
    table: list[list[float]], thing: int, owner: list[int], u: list[float], v: list[float]
) -> None:
    """Give `thing` a query, moving others along the shortest path; u and v are the prices."""
    queries = len(v) - 1
    owner[0], here = thing, 0
    least, came, seen = [float("inf")] * (queries + 1), [0] * (queries + 1), [False] * (queries + 1)
    while owner[here]:
        seen[here], holder = True, owner[here]
        for q in range(1, queries + 1):
            if not seen[q]:
                reduced = table[holder - 1][q - 1] - u[holder] - v[q]
                if reduced < least[q]:
                    least[q], came[q] = reduced, here
        nearest = min((q for q in range(1, queries + 1) if not seen[q]), key=least.__getitem__)
        delta = least[nearest]
        for q in range(queries + 1):
            if seen[q]:
                u[owner[q]] += delta
                v[q] -= delta
            else:
                least[q] -= delta
        here = nearest
    while here:
        owner[here] = owner[came[here]]
        here = came[here]


def _overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union of all pairs."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp_min(0.0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp_min(0.0).prod(dim=-1) for box in (a, b)]
    union = areas[0] + areas[1] - common
    return common / union.clamp_min(1e-9), union
