"""Boxes refined in stages: geometry, assignment, labels across stages, filters handed on."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.data.detection_scenes import detection_scenes
from driftwell.models.vision.boxes import assign, corners, pairwise_giou, pairwise_iou
from driftwell.models.vision.detector import StageDetector, average_precision, refinement_loss
from driftwell.models.vision.stage_interactor import Filters, Stage
from driftwell.models.vision.stage_labels import cross_stage_assign


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 3), (6, 2), (2, 5), (5, 4), (4, 1)])
def test_assignment_is_the_best_of_all(shape: tuple[int, int]) -> None:
    for seed in range(8):
        cost = draws(*shape, seed=seed) - 0.5
        pairs = assign(cost)
        wide = cost if shape[0] >= shape[1] else cost.T
        best = min(
            sum(float(wide[row, column]) for column, row in enumerate(rows))
            for rows in itertools.permutations(range(wide.shape[0]), wide.shape[1])
        )
        assert sum(float(cost[q, g]) for q, g in pairs) == pytest.approx(best, abs=1e-6)
        assert len({q for q, _ in pairs}) == len({g for _, g in pairs}) == min(shape)


def test_overlaps_of_boxes_by_counting_pixels() -> None:
    low = (draws(7, 2) * 10).round()
    boxes = torch.cat([low, low + 1 + (draws(7, 2, seed=1) * 8).round()], dim=1)
    place = torch.arange(24) + 0.5
    inside = [
        ((place > b[0]) & (place < b[2]))[:, None] & ((place > b[1]) & (place < b[3]))
        for b in boxes
    ]
    iou, giou = pairwise_iou(boxes, boxes), pairwise_giou(boxes, boxes)
    for i, j in itertools.product(range(7), repeat=2):
        union = int((inside[i] | inside[j]).sum())
        assert float(iou[i, j]) == pytest.approx(int((inside[i] & inside[j]).sum()) / union)
        both = torch.stack([boxes[i], boxes[j]])
        hull = float((both[:, 2:].amax(0) - both[:, :2].amin(0)).prod())
        assert float(giou[i, j]) == pytest.approx(
            float(iou[i, j]) - (hull - union) / hull, abs=1e-6
        )


def test_the_state_of_a_box_is_its_centre_scale_and_ratio() -> None:
    left, top, right, bottom = corners(torch.tensor([10.0, 20.0, 3.0, 1.0]))
    w, h = right - left, bottom - top
    torch.testing.assert_close(w * h, torch.tensor(64.0))
    torch.testing.assert_close(h / w, torch.tensor(2.0))
    torch.testing.assert_close((left + right) / 2, torch.tensor(10.0))


MATCHES = [[(0, 0)], [(1, 0)]]


def assigned(iou: list, score: list | None = None, **settings: object) -> list:
    table = torch.tensor(iou)[..., None]
    sure = torch.full_like(table, 0.5) if score is None else torch.tensor(score)[..., None]
    return cross_stage_assign(MATCHES, table, sure, **settings).tolist()


def test_a_pair_is_imported_only_where_its_box_fits_at_that_stage() -> None:
    # Query 1, matched in stage 1, already fits in stage 0; query 0 no longer fits in stage 1.
    assert assigned([[0.6, 0.55], [0.4, 0.9]]) == [[0, 0], [-1, 0]]
    assert assigned([[0.6, 0.45], [0.4, 0.9]]) == [[0, -1], [-1, 0]]
    assert assigned([[0.6, 0.45], [0.4, 0.9]], eta=0.3) == [[0, 0], [0, 0]]


def test_a_pair_less_sure_than_the_stages_own_is_not_imported() -> None:
    iou = [[0.6, 0.55], [0.4, 0.9]]
    assert assigned(iou, [[0.5, 0.4], [0.5, 0.5]]) == [[0, -1], [-1, 0]]


def test_an_own_pair_below_the_floor_loses_its_class() -> None:
    assert assigned([[0.6, 0.1], [0.1, 0.5]], floors=[0.0, 0.6]) == [[0, -1], [-1, -1]]


def test_a_query_changes_its_thing_only_for_a_better_overlap() -> None:
    matches = [[(0, 0)], [(0, 1)]]
    for other, wanted in ((0.7, 1), (0.55, 0)):
        iou = torch.tensor([[[0.6, other]], [[0.6, other]]])
        targets = cross_stage_assign(matches, iou, torch.full_like(iou, 0.5))
        assert int(targets[0, 0]) == wanted


def test_no_neighbours_means_own_labels() -> None:
    assert assigned([[0.9, 0.9], [0.9, 0.9]], offsets=()) == [[0, -1], [-1, 0]]


def detector(**settings: object) -> StageDetector:
    return StageDetector(3, side=32, stages=3, queries=6, seed=1, **settings)


def test_before_training_boxes_stay_where_they_start() -> None:
    stages = detector()(draws(2, 32, 32))
    for stage in stages:
        torch.testing.assert_close(stage.state, stages[0].state)


def test_filters_of_earlier_stages_are_used_if_they_are_to_be() -> None:
    for reuse in (True, False):
        model = detector(reuse_filters=reuse)
        last = model(draws(2, 32, 32))[-1].logits.sum()
        own = torch.autograd.grad(last, model.refiner.cells[0].W_c.weight)[0]
        assert [len(cell.adapters) for cell in model.refiner.cells] == (
            [0, 1, 2] if reuse else [0] * 3
        )
        assert float(own.abs().max()) > 0


def test_the_box_of_the_stage_before_is_given_and_not_learned_through() -> None:
    model = detector()
    with torch.no_grad():
        for cell in model.refiner.cells:
            cell.delta.weight.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
    last = model(draws(2, 32, 32))[-1]
    grads = torch.autograd.grad(
        last.state.sum(), model.refiner.cells[0].delta.weight, allow_unused=True
    )
    assert grads[0] is None


def test_it_learns_a_scene() -> None:
    scenes, model = detection_scenes(4, 3, side=32, most=2), detector()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(16):
        loss = refinement_loss(model(scenes.images), scenes, side=32, cross_stage=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def perfect(scenes, wrong: int = 0) -> Stage:
    n, most = scenes.labels.shape
    size = (scenes.boxes[..., 2:] - scenes.boxes[..., :2]).clamp_min(1.0)
    centre = scenes.boxes[..., :2] + 0.5 * size
    w, h = size.log2().unbind(-1)
    state = torch.stack([*centre.unbind(-1), 0.5 * (w + h), h - w], dim=-1)
    logits = torch.full((n, most, 3), -9.0)
    real = scenes.labels >= 0
    logits[real] = logits[real].scatter(1, scenes.labels[real][:, None], 3.0)
    state[:wrong, :, 0] += 100.0
    return Stage(state, state, logits, Filters(state, state))


def test_average_precision_of_perfect_and_of_missed_boxes() -> None:
    scenes = detection_scenes(30, 0, side=32)
    assert average_precision(perfect(scenes), scenes) == pytest.approx(1.0)
    assert average_precision(perfect(scenes, wrong=30), scenes) == 0.0
    half = average_precision(perfect(scenes, wrong=15), scenes)
    assert 0.15 < half < 0.6


def test_a_thing_is_found_once() -> None:
    """A second, less probable box on every thing is a miss, and ranks behind all hits."""
    scenes = detection_scenes(10, 0, side=32)
    once = perfect(scenes)
    state, logits = torch.cat([once.state] * 2, 1), torch.cat([once.logits, once.logits - 5.0], 1)
    twice = Stage(state, state, logits, once.filters)
    assert average_precision(twice, scenes) == pytest.approx(1.0)


def test_bad_settings_get_one_sentence() -> None:
    with pytest.raises(InvalidInput, match="n_stages, queries"):
        detector().refiner.__class__(lambda s, k: None, 0)
    with pytest.raises(InvalidInput, match=r"both be \(2, Q, G\)"):
        cross_stage_assign(MATCHES, torch.zeros(2, 2, 1), torch.zeros(2, 1, 1))
    with pytest.raises(InvalidInput, match="eta must lie"):
        assigned([[0.6, 0.5], [0.4, 0.9]], eta=1.5)
    with pytest.raises(InvalidInput, match="at least one stage"):
        refinement_loss([], detection_scenes(1, 0, side=32), side=32)


def test_it_cites_its_paper() -> None:
    assert "2304.04978" in dw.cite(detector())
