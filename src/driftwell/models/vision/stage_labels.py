"""Class labels gathered across the stages of a refiner."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper

STAGE_INTERACTOR = Paper(
    key="teng2023stageinteractor",
    title="StageInteractor: Query-based Object Detector with Cross-stage Interaction",
    authors="Teng, Yao and Liu, Haisong and Guo, Sheng and Wang, Limin",
    year=2023,
    arxiv="2304.04978",
    venue="ICCV 2023",
)


def cross_stage_assign(
    matches: Sequence[Sequence[tuple[int, int]]],
    iou: Tensor,
    score: Tensor,
    *,
    eta: float = 0.5,
    offsets: Sequence[int] = (-1, 1),
    floors: Sequence[float] | None = None,
) -> Tensor:
    """Class targets of one image gathered across stages, from Teng, Liu, Guo and Wang,
    *StageInteractor*, 2023, arXiv:2304.04978.

    Every stage has matched its queries to things one to one. A pair (q, g) of a neighbouring stage
    s + offset becomes a class target of stage s as well if there

        IoU_s(q, g) >= eta,    score_s(q, g) >= min score of the stage's own pairs,

    and IoU_s(q, g) exceeds that of the thing q already stands for. An own pair of stage s whose
    IoU is below `floors[s]`, the running mean of the matched IoU one stage earlier, loses its
    class. Targets of boxes are not touched: they stay one to one.

    Args:
        matches: pairs (query, thing) of each of S stages.
        iou: of each query's box with each thing's, (S, Q, G).
        score: probability of each thing's class at each query, (S, Q, G).
        eta: least IoU of an imported pair, in [0, 1].
        offsets: which stages lend their pairs.
        floors: least IoU of an own pair, S numbers; None: 0.

    Returns:
        int64 (S, Q): the thing whose class query q is to show at stage s, -1 for none.

    Raises:
        InvalidInput: shapes that do not fit, or eta outside [0, 1].

    Example:
        >>> iou = torch.tensor([[[0.2], [0.6]], [[0.3], [0.9]]])
        >>> cross_stage_assign([[(0, 0)], [(1, 0)]], iou, torch.full((2, 2, 1), 0.5))
        tensor([[ 0,  0],
                [-1,  0]])
    """
    stages = len(matches)
    if iou.ndim != 3 or iou.shape != score.shape or iou.shape[0] != stages:
        raise InvalidInput(
            f"iou and score must both be ({stages}, Q, G), got {tuple(iou.shape)} and "
            f"{tuple(score.shape)}"
        )
    if not 0.0 <= eta <= 1.0:
        raise InvalidInput(f"eta must lie in [0, 1], got {eta}")
    overlap, sure = iou.tolist(), score.tolist()
    least = [0.0] * stages if floors is None else list(floors)
    targets = torch.full(iou.shape[:2], -1, dtype=torch.int64)
    for s, own in enumerate(matches):
        kept = {q: g for q, g in own if overlap[s][q][g] >= least[s]}
        lowest = min((sure[s][q][g] for q, g in own), default=0.0)
        for offset in offsets:
            if 0 <= s + offset < stages:
                for q, g in matches[s + offset]:
                    known = kept.get(q)
                    better = known is None or overlap[s][q][g] > overlap[s][q][known]
                    if overlap[s][q][g] >= eta and sure[s][q][g] >= lowest and better:
                        kept[q] = g
        for q, g in kept.items():
            targets[s, q] = g
    return targets
