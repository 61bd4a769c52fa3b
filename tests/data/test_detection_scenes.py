"""Generated scenes: what the labels say is what is painted, whatever else is asked for."""

from __future__ import annotations

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.data.detection_scenes import detection_scenes


def test_a_scene_does_not_depend_on_how_many_are_made() -> None:
    few, many = detection_scenes(3, 7, side=32), detection_scenes(9, 7, side=32)
    assert torch.equal(few.images, many.images[:3])
    assert torch.equal(few.boxes, many.boxes[:3])
    assert not torch.equal(few.images, detection_scenes(3, 8, side=32).images)


def test_boxes_lie_in_the_image_and_have_the_sizes_promised() -> None:
    scenes = detection_scenes(200, 0, side=40)
    real = scenes.labels >= 0
    boxes, size = scenes.boxes[real], (scenes.boxes[..., 2:] - scenes.boxes[..., :2])[real]
    assert float(boxes.min()) >= 0.0
    assert float(boxes.max()) <= 40.0
    assert 8.0 <= float(size.min()) <= float(size.max()) <= 20.0
    assert bool((scenes.boxes[~real] == 0).all())
    assert sorted(scenes.labels.unique().tolist()) == [-1, 0, 1, 2]
    counts = real.sum(1)
    assert counts.min() == 1
    assert counts.max() == 4


def test_each_kind_is_painted_as_its_name_says() -> None:
    scenes = detection_scenes(300, 1, side=48, most=1, noise=0.0)
    shares = {0: (1.0, 1.0), 1: (0.3, 0.7), 2: (0.4, 0.65)}
    for image, box, label in zip(
        scenes.images, scenes.boxes[:, 0], scenes.labels[:, 0], strict=True
    ):
        left, top, right, bottom = (int(v) for v in box)
        painted = image > 0.5
        inside = painted[top:bottom, left:right]
        low, high = shares[int(label)]
        assert low <= float(inside.double().mean()) <= high
        assert int(painted.sum()) == int(inside.sum())


def test_the_ground_has_the_noise_asked_for() -> None:
    scenes = detection_scenes(50, 2, side=32, most=1, noise=0.05)
    ground = scenes.images[scenes.images < 0.5]
    assert float(ground.std()) == pytest.approx(0.05, rel=0.03)
    assert float(ground.mean()) == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("settings", [{"n": 0}, {"side": 8}, {"most": 0}, {"noise": -1.0}])
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(InvalidInput, match="scenes need n >= 1"):
        detection_scenes(**({"n": 2, "seed": 0} | settings))
