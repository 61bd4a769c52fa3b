"""A small detector on the iterative refiner, its loss, and its average precision."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.data.detection_scenes import DetectionScenes
from driftwell.models.vision.boxes import assign, pairwise_giou, pairwise_iou
from driftwell.models.vision.stage_interactor import IterativeRefiner, RefinerCell, Stage
from driftwell.models.vision.stage_labels import STAGE_INTERACTOR, cross_stage_assign
from driftwell.nn.drawn_layers import drawn_conv

# Weights of a match's parts, as detectors of this kind weigh them.
_OF_CLASS, _OF_CORNERS, _OF_OVERLAP = 2.0, 5.0, 2.0


@final
class StageDetector(nn.Module):
    """Three convolutions, then an `IterativeRefiner`: a detector of grey images, after Teng et
    al., *StageInteractor*, 2023, arXiv:2304.04978, small enough for a processor.

    Args:
        classes: K.
        side: of the square images, in pixels.
        stages: number of refiner cells.
        queries: number of boxes.
        channels: of the features, at half the image's resolution.
        width: of a query's content.
        reuse_filters: whether stages use the filters of earlier ones.
        seed: of the start weights.

    Example:
        >>> stages = StageDetector(3, side=16, queries=4)(torch.zeros(2, 16, 16))
        >>> len(stages), stages[-1].logits.shape
        (3, torch.Size([2, 4, 3]))
    """

    papers = (STAGE_INTERACTOR,)

    def __init__(
        self,
        classes: int,
        *,
        side: int = 64,
        stages: int = 3,
        queries: int = 16,
        channels: int = 16,
        width: int = 48,
        reuse_filters: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.backbone = nn.Sequential(
            drawn_conv(1, channels, 3, draw, gain=2**0.5, stride=2),
            nn.ReLU(),
            drawn_conv(channels, channels, 3, draw, gain=2**0.5),
            nn.ReLU(),
            drawn_conv(channels, channels, 3, draw),
            nn.GroupNorm(4, channels),
        )

        def cell(stage: int, handed_on: int) -> RefinerCell:
            return RefinerCell(channels, width, classes, draw, handed_on=handed_on)

        self.refiner = IterativeRefiner(
            cell, stages, queries=queries, width=width, side=side, reuse_filters=reuse_filters,
            seed=seed,
        )  # fmt: skip

    def forward(self, images: Tensor) -> list[Stage]:
        """Every stage's answer for images (B, side, side)."""
        stages: list[Stage] = self.refiner(self.backbone(images[:, None]), stride=2)
        return stages


def refinement_loss(
    stages: list[Stage], scenes: DetectionScenes, *, side: int, cross_stage: bool = False
) -> Tensor:
    """Supervision of every stage: a match of queries and things, then classes and boxes.

        cost = -2 p + 5 |box - thing|_1 / side - 2 GIoU,    one to one, for each stage by itself
        loss = sum over stages of (focal loss of classes + 5 L1 / side + 2 (1 - GIoU)) per thing

    Args:
        stages: of a refiner.
        scenes: what is there.
        side: of the images, in pixels.
        cross_stage: gather class targets across stages by `cross_stage_assign`.

    Raises:
        InvalidInput: no stage.

    Example:
        >>> from driftwell.data.detection_scenes import detection_scenes
        >>> scenes = detection_scenes(2, seed=0, side=16)
        >>> stages = StageDetector(3, side=16, queries=4)(scenes.images)
        >>> bool(refinement_loss(stages, scenes, side=16) > 0)
        True
    """
    if not stages:
        raise InvalidInput("refinement_loss needs at least one stage")
    things = max(int((scenes.labels >= 0).sum()), 1)
    total = stages[0].logits.new_zeros(())
    targets = [torch.zeros_like(stage.logits) for stage in stages]
    for i in range(len(scenes)):
        real = scenes.labels[i] >= 0
        boxes, labels = scenes.boxes[i][real], scenes.labels[i][real]
        with torch.no_grad():
            score = torch.stack([stage.logits[i].sigmoid()[:, labels] for stage in stages])
            guess = torch.stack([stage.boxes[i] for stage in stages])
            cost = (
                -_OF_CLASS * score
                + _OF_CORNERS * torch.cdist(guess, boxes.expand(len(stages), -1, -1), p=1) / side
                - _OF_OVERLAP * pairwise_giou(guess, boxes)
            )
            matches = [assign(each) for each in cost]
            shown = _shown(matches, pairwise_iou(guess, boxes), score, cross_stage)
        for s, stage in enumerate(stages):
            q, g = torch.tensor(matches[s]).T
            gap = (stage.boxes[i][q] - boxes[g]).abs().sum() / side
            giou = pairwise_giou(stage.boxes[i][q], boxes[g]).diagonal()
            total = total + _OF_CORNERS * gap + _OF_OVERLAP * (1.0 - giou).sum()
            some = (shown[s] >= 0).nonzero()[:, 0]
            targets[s][i, some, labels[shown[s][some]]] = 1.0
    for stage, target in zip(stages, targets, strict=True):
        total = total + _OF_CLASS * _focal(stage.logits, target)
    return total / things


def average_precision(stage: Stage, scenes: DetectionScenes, threshold: float = 0.5) -> float:
    """Average precision at an IoU threshold, the mean over classes, of one stage's answers.

    Every query is a detection of every class, ranked by its probability; a thing is found once,
    by the most probable box that overlaps it enough. The area under precision, made falling,
    against recall.

    Example:
        >>> from driftwell.data.detection_scenes import detection_scenes
        >>> scenes = detection_scenes(2, seed=0, side=16)
        >>> stages = StageDetector(3, side=16, queries=4)(scenes.images)
        >>> 0.0 <= average_precision(stages[-1], scenes) <= 1.0
        True
    """
    score = stage.logits.detach().sigmoid()
    iou = pairwise_iou(stage.boxes.detach(), scenes.boxes)
    areas = []
    for k in range(score.shape[2]):
        of_class = scenes.labels == k
        if bool(of_class.any()):
            own = torch.where(of_class[:, None], iou, 0.0)
            areas.append(_area(_hits(score[..., k], own, threshold), int(of_class.sum())))
    return sum(areas) / len(areas)


def _hits(score: Tensor, iou: Tensor, threshold: float) -> Tensor:
    """Which detections of one class, most probable first, find a thing not found before."""
    taken: set[tuple[int, int]] = set()
    best, thing = iou.max(dim=2)
    hits = []
    for place in score.flatten().argsort(descending=True).tolist():
        i, q = divmod(place, score.shape[1])
        found = (i, int(thing[i, q]))
        hits.append(float(best[i, q]) >= threshold and found not in taken)
        if hits[-1]:
            taken.add(found)
    return torch.tensor(hits, dtype=torch.float64)


def _area(hits: Tensor, things: int) -> float:
    """Area under precision against recall, precision made falling from the right."""
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    falling = precision.flip(0).cummax(0).values.flip(0)
    return float((falling * hits).sum()) / things


def _shown(
    matches: list[list[tuple[int, int]]], iou: Tensor, score: Tensor, cross_stage: bool
) -> Tensor:
    """The thing that each query is to show at each stage, (S, Q), -1 for none."""
    if cross_stage:
        # The image's own mean stands for the running mean over training of the stage before.
        means = [
            sum(float(iou[s, q, g]) for q, g in pairs) / len(pairs)
            for s, pairs in enumerate(matches)
        ]
        return cross_stage_assign(matches, iou, score, floors=[0.0, *means[:-1]])
    shown = torch.full(iou.shape[:2], -1, dtype=torch.int64)
    for s, pairs in enumerate(matches):
        for q, g in pairs:
            shown[s, q] = g
    return shown


def _focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss, summed: what is already right weighs little."""
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    missed = torch.where(target > 0, 1.0 - p, p)
    weight = torch.where(target > 0, alpha, 1.0 - alpha)
    return (weight * missed**gamma * each).sum()
