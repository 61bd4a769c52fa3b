"""Scalings and whitening: inverses, ranges, and round trips through config and file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.data import AtanhScaling, PlainScaling, Scaling, Whitening, scaling_from_config

IMAGES = uniform((50, 4, 5), seed=0, purpose=Purpose.USER, chains=50, step=0, dtype=torch.float64)


def whitening(**settings: Any) -> Whitening:
    mixing = normal((20, 20), seed=2, purpose=Purpose.USER, chains=20, step=0, dtype=torch.float64)
    sources = normal((400, 20), seed=3, purpose=Purpose.USER, chains=400, step=0).double()
    return Whitening.fit((0.5 + 0.05 * sources @ mixing).clamp(0.02, 0.98), **settings)


@pytest.mark.parametrize("scaling", [AtanhScaling(), PlainScaling(), PlainScaling(-0.5, 3.0)])
def test_scalings_are_inverted(scaling: Scaling) -> None:
    inner = IMAGES.clamp(0.02, 0.98)  # what the clip of the atanh leaves alone
    state = scaling.forward(inner)
    assert state.shape == (50, 20)
    assert torch.allclose(scaling.inverse(state), inner.flatten(1), atol=1e-14)
    assert torch.allclose(scaling.to_symmetric(state), 2 * inner.flatten(1) - 1, atol=1e-14)


def test_the_atanh_scaling_is_the_papers() -> None:
    scaling = AtanhScaling()
    ends = scaling.forward(torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.float64))
    assert ends[0].tolist() == pytest.approx([-math.atanh(0.97), math.atanh(0.97), 0.0])
    assert scaling.forward(IMAGES).abs().max() <= 2.093
    assert scaling.to_symmetric(torch.tensor([[0.3]])).item() == pytest.approx(math.tanh(0.3))


@pytest.mark.parametrize("scaling", [AtanhScaling(), PlainScaling(), whitening()])
def test_any_state_becomes_an_image(scaling: Any) -> None:
    state = 50 * normal((7, 20), seed=1, purpose=Purpose.USER, chains=7, step=1).double()
    image, symmetric = scaling.inverse(state), scaling.to_symmetric(state)
    assert 0.0 <= float(image.min()) <= float(image.max()) <= 1.0
    assert torch.allclose(symmetric, 2 * image - 1, atol=1e-12)


@pytest.mark.parametrize("scaling", [AtanhScaling(0.9), PlainScaling(0.0, 2.0)])
def test_a_config_rebuilds_the_scaling(scaling: Scaling) -> None:
    assert scaling_from_config(scaling.to_config()) == scaling
    assert type(scaling).from_config(scaling.to_config()) == scaling


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"kind": "log"}, "the kind of a scaling is atanh or plain, not 'log'"),
        ({}, "not None"),
        ({"kind": "atanh", "clipp": 0.9}, "the atanh scaling has clip, but no 'clipp'"),
        ({"kind": "plain", "low": "0"}, "low of the plain scaling is a number, not '0'"),
        ({"kind": "atanh", "clip": True}, "clip of the atanh scaling is a number, not True"),
        ({"kind": "atanh", "clip": 1.0}, r"the clip of the atanh scaling is in \(0, 1\), not 1"),
        ({"kind": "plain", "low": 2}, "needs low below high, not 2 and 1"),
    ],
)
def test_a_wrong_config_gets_one_sentence(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        scaling_from_config(config)


def test_a_config_of_the_other_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the config of a 'plain' scaling, not of 'atanh'"):
        AtanhScaling.from_config(PlainScaling().to_config())


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"not \(2, 3, 4, 5\)"):
        AtanhScaling().forward(torch.zeros(2, 3, 4, 5))


def test_whitening_whitens_and_is_inverted() -> None:
    white = whitening(floor=1e-9)
    assert white.components.shape == (20, 20)
    fitted = white.inverse(white(IMAGES.clamp(0.02, 0.98)))
    assert torch.allclose(fitted, IMAGES.clamp(0.02, 0.98).flatten(1), atol=1e-10)
    z = white(white.inverse(white.mean.new_zeros(1, 20)))
    assert z.abs().max() < 1e-10


def test_whitened_data_have_unit_covariance() -> None:
    images = IMAGES.repeat(1, 1, 1)
    white = Whitening.fit(images, floor=1e-12)
    z = white(images)
    assert torch.allclose(z.mean(0), torch.zeros(20).double(), atol=1e-10)
    assert torch.allclose(torch.cov(z.T), torch.eye(20).double(), atol=1e-9)


def test_fewer_dimensions_project_on_the_leading_components() -> None:
    white = whitening(dimensions=5, floor=1e-9)
    x = white.scaling.forward(IMAGES.clamp(0.02, 0.98))
    kept = (x - white.mean) @ white.components.T @ white.components + white.mean
    assert torch.allclose(white.to_symmetric(white(IMAGES.clamp(0.02, 0.98))), kept.tanh())
    assert torch.allclose(white.scales.sort(descending=True).values, white.scales)


def test_constant_pixels_do_not_blow_up() -> None:
    images = IMAGES.clone()
    images[:, 0] = 0.0
    white = Whitening.fit(images, floor=1e-3)
    assert float(white.scales.min()) == pytest.approx(math.sqrt(1e-3))
    assert white(images).abs().max() < 100


def test_whitening_goes_through_a_file(tmp_path: Path) -> None:
    white = whitening(dimensions=7, scaling=PlainScaling(0.0, 1.0))
    white.save(tmp_path / "white.safetensors")
    again = Whitening.load(tmp_path / "white.safetensors")
    assert again.scaling == PlainScaling(0.0, 1.0)
    assert torch.equal(again(IMAGES), white(IMAGES))
    assert [p.name for p in tmp_path.iterdir()] == ["white.safetensors"]
    empty = Whitening.from_config(white.to_config()).double()
    empty.load_state_dict(white.state_dict())
    assert torch.equal(empty(IMAGES), white(IMAGES))


def test_bad_whitenings_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="at least two images"):
        Whitening.fit(IMAGES[:1])
    with pytest.raises(InvalidInput, match="keeps 1 to 20 dimensions, not 21"):
        Whitening.fit(IMAGES, dimensions=21)
    with pytest.raises(InvalidInput, match="floor of whitening must be above 0, not 0"):
        Whitening.fit(IMAGES, floor=0.0)
    with pytest.raises(InvalidInput, match=r"not \(3,\), \(2, 2\) and \(2,\)"):
        Whitening(torch.zeros(3), torch.eye(2), torch.ones(2))
    with pytest.raises(InvalidInput, match="needs scales above 0, the least is 0"):
        Whitening(torch.zeros(2), torch.eye(2), torch.zeros(2))
    with pytest.raises(InvalidInput, match="does not exist: no whitening to load"):
        Whitening.load(tmp_path / "none.safetensors")
    path = tmp_path / "white.safetensors"
    whitening().save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InvalidInput, match="is truncated, corrupt or no whitening"):
        Whitening.load(path)
    with pytest.raises(InvalidInput, match="cannot be written"):
        whitening().save(tmp_path / "nowhere" / "white.safetensors")
    with pytest.raises(InvalidInput, match="a whitening's config has the keys"):
        Whitening.from_config({"kind": "whitening"})
