"""`ImageSet`: what it accepts, and what selecting, splitting and resizing keep."""

from __future__ import annotations

import math

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.data import ImageSet


def noise(n: int, height: int = 4, width: int = 6) -> torch.Tensor:
    return uniform((n, height, width), seed=1, purpose=Purpose.USER, chains=n, step=0)


def labelled(n: int = 10) -> ImageSet:
    return ImageSet(noise(n), torch.arange(n) % 3, "noise", "made here")


def test_selection_keeps_file_order_and_says_what_it_did() -> None:
    chosen = labelled().select([2, 0, 2])
    assert chosen.labels is not None
    assert chosen.labels.tolist() == [0, 2, 0, 2, 0, 2, 0]
    assert torch.equal(chosen.images[1], labelled().images[2])
    assert chosen.source == "made here; classes 0, 2"
    assert chosen.classes == (0, 2)


def test_take_gives_the_first_in_file_order() -> None:
    first = labelled().take(4)
    assert torch.equal(first.images, labelled().images[:4])
    assert first.source == "made here; first 4"


def test_flat_is_row_after_row() -> None:
    images = labelled()
    assert images.flat().shape == (10, 24)
    assert torch.equal(images.flat()[3, 6:12], images.images[3, 1])


@pytest.mark.parametrize(("fraction", "size"), [(0.8, 8), (0.01, 1), (0.999, 9)])
def test_a_split_is_disjoint_complete_and_in_file_order(fraction: float, size: int) -> None:
    whole = labelled()
    numbered = ImageSet((torch.arange(10.0) / 10)[:, None, None], whole.labels)
    train, held_out = numbered.split(fraction, seed=5)
    assert len(train) == size
    both = torch.cat([train.images, held_out.images]).flatten()
    assert torch.equal(both.sort().values, numbered.images.flatten())
    assert torch.equal(train.images.flatten().sort().values, train.images.flatten())


def test_a_split_depends_on_its_seed_only() -> None:
    images = ImageSet(noise(100))
    assert images.split(0.5, 1)[0].fingerprint == images.split(0.5, 1)[0].fingerprint
    assert images.split(0.5, 1)[0].fingerprint != images.split(0.5, 2)[0].fingerprint


def test_the_fingerprint_is_of_the_content_alone() -> None:
    images = noise(5)
    marked = ImageSet(images, None, "one", "here").fingerprint
    assert len(marked) == 64
    assert ImageSet(images.clone(), None, "two", "there").fingerprint == marked
    assert ImageSet(images.reshape(5, 6, 4)).fingerprint != marked
    assert ImageSet(images, torch.zeros(5, dtype=torch.int64)).fingerprint != marked
    touched = images.clone()
    touched[4, 3, 5] = math.nextafter(float(touched[4, 3, 5]), 0.0) * 0.999
    assert ImageSet(touched).fingerprint != marked


def test_shrinking_by_whole_factors_takes_block_means() -> None:
    images = noise(3, 8, 12)
    small = ImageSet(images).resize(4, 4)
    assert torch.allclose(small.images, images.reshape(3, 4, 2, 4, 3).mean((2, 4)), atol=1e-6)
    assert small.source == "4x4"


def test_resizing_keeps_a_constant_and_stays_in_range() -> None:
    grey = ImageSet(torch.full((1, 10, 10), 0.25))
    assert torch.allclose(grey.resize(7, 13).images, torch.full((1, 7, 13), 0.25))
    hard = ImageSet((noise(4, 10, 10) > 0.5).float()).resize(7, 17)
    assert 0.0 <= float(hard.images.min()) <= float(hard.images.max()) <= 1.0


def test_shrinking_skips_no_pixel() -> None:
    """A single white pixel anywhere is seen at the smaller size (antialias)."""
    spots = torch.eye(100).reshape(100, 10, 10)
    assert float(ImageSet(spots).resize(3, 3).images.sum((1, 2)).min()) > 0.0


def test_the_same_size_changes_nothing() -> None:
    images = labelled()
    assert images.resize(4, 6) is images


def test_the_repr_names_size_and_classes() -> None:
    assert repr(labelled()) == "ImageSet('noise': 10 of 4x6, classes 0, 1, 2)"
    assert repr(ImageSet(noise(1))) == "ImageSet('images': 1 of 4x6, unlabelled)"


def with_entry(value: float) -> torch.Tensor:
    images = noise(3)
    images[1, 2, 5] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (torch.rand(4, 4), None, r"x: images have the shape \(n, height, width\), not \(4, 4\)"),
        (torch.zeros(0, 4, 4), None, r"x is empty: no pixel in the shape \(0, 4, 4\)"),
        (noise(2).double(), None, "x: images must be float32, not torch.float64"),
        (with_entry(math.nan), None, "x has 1 NaN or infinite values, the first at image 1, row 2"),
        (with_entry(math.inf), None, "NaN or infinite values, the first at image 1, row 2, column"),
        (with_entry(255.0), None, "to 255, but floats must lie in .0, 1.: divide them by 255"),
        (with_entry(-1.0), None, r"values from -1 to .*: store \(x \+ 1\) / 2 instead"),
        (with_entry(-300.0), None, r"values from -300 .*: rescale them"),
        (noise(3), torch.zeros(2, dtype=torch.int64), r"x: 3 images but labels of shape \(2,\)"),
        (noise(3), torch.zeros(3), "x: labels must be int64, not torch.float32"),
    ],
)
def test_what_cannot_be_a_set_is_refused(
    images: torch.Tensor, labels: torch.Tensor | None, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        ImageSet(images, labels, "x")


def test_bad_requests_get_one_sentence() -> None:
    images = labelled()
    with pytest.raises(InvalidInput, match=r"class 7 not present in noise: it has 0, 1, 2"):
        images.select([1, 7])
    with pytest.raises(InvalidInput, match=r"classes 5, 7 not present in noise"):
        images.select([7, 5])
    with pytest.raises(InvalidInput, match="no class was asked for"):
        images.select([])
    with pytest.raises(InvalidInput, match=r"has no labels, so classes 1, 2 cannot be selected"):
        ImageSet(noise(2)).select([1, 2])
    with pytest.raises(InvalidInput, match=r"11 images of noise were asked for: it has 10"):
        images.take(11)
    with pytest.raises(InvalidInput, match=r"0 images of noise"):
        images.take(0)
    with pytest.raises(InvalidInput, match=r"fraction between 0 and 1, not 1"):
        images.split(1.0, 0)
    with pytest.raises(InvalidInput, match="one image only"):
        images.take(1).split(0.5, 0)
    with pytest.raises(InvalidInput, match="cannot be resized to 0x4"):
        images.resize(0, 4)
