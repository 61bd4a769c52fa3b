"""Figures show what they are given; edge cases draw without a warning."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch

from driftwell.report import Measurements
from driftwell.report.claims_page import claim_curves
from driftwell.report.figures import (
    against_floors,
    coupling_plane,
    energy_and_virial,
    training_curves,
)
from driftwell.report.pictures import (
    nearest_pairs,
    principal_axes,
    sample_grid,
    tiled,
    wandering_chain,
)
from driftwell.report.rounding import measured
from driftwell.report.spectrum import coupling_spectrum
from driftwell.report.style import inline_svg, to_svg
from driftwell.report.trajectories import Trace
from driftwell.training.run import Run


def test_tiles_are_where_they_belong_and_gaps_are_clear() -> None:
    images = torch.stack([torch.full((20, 20), value) for value in (0.0, 0.5, 1.0)])
    picture = tiled(images, side=2)
    assert picture.shape == (83, 83, 4)  # zoom 2, gap 3
    assert picture[0, 0].tolist() == [0, 0, 0, 255]
    assert picture[0, 43].tolist() == [128, 128, 128, 255]
    assert picture[43, 0].tolist() == [255, 255, 255, 255]
    assert picture[41, 0, 3] == 0  # the gap
    assert picture[60, 60, 3] == 0  # no fourth image


def test_principal_axes_of_a_rotated_cloud() -> None:
    angle = 0.3
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    line = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    centre, axes, shares = principal_axes((line @ turn.T + 5.0).double(), 2)
    assert centre.tolist() == pytest.approx([5.0, 5.0])
    assert axes[:, 0].tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-6)
    assert shares == pytest.approx([0.9, 0.1])


def test_a_space_of_one_dimension_is_filled_up() -> None:
    _, axes, shares = principal_axes(torch.tensor([[0.0], [1.0]]).double(), 3)
    assert axes.shape == (1, 3)
    assert shares == [1.0, 0.0, 0.0]


def test_an_svg_is_the_same_twice() -> None:
    spectrum = coupling_spectrum(torch.tensor([[0.0, 2.0], [-1.0, 0.0]]))
    first, second = (to_svg(coupling_plane(spectrum, 0.01)) for _ in range(2))
    assert first == second


def test_inlined_drawings_share_no_id_and_keep_their_references() -> None:
    svg = to_svg(coupling_plane(coupling_spectrum(torch.eye(3)), 0.01))
    inline = inline_svg(svg, "one", 'a "quoted" <name>')
    ids = set(re.findall(r'\bid="([^"]+)"', inline))
    assert ids
    assert all(name.startswith("one-") for name in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([\w-]+)', inline)) <= ids
    assert 'aria-label="a &quot;quoted&quot; &lt;name>"' in inline
    assert "http" not in inline


def test_dots_stand_at_their_numbers(found: Measurements) -> None:
    figure = against_floors(found.two_sample)
    drawn = figure.axes[0].containers[0].lines[0].get_xdata()[0]
    assert drawn == found.two_sample["generated"]["aai"]
    e2 = figure.axes[3].containers[2].lines[0].get_xdata()[0]
    assert e2 == found.two_sample["gaussian"]["e2"]


def test_missing_errors_and_equal_values_can_be_drawn(found: Measurements) -> None:
    row = {key: 0.0 for key in found.two_sample["generated"]} | {"e2_error": math.nan}
    to_svg(against_floors({"generated": row, "gaussian": row, "real": row}))


def test_a_chain_at_no_temperature_has_no_virial_and_still_a_figure() -> None:
    nan = (math.nan,) * 3
    to_svg(energy_and_virial(Trace((0, 1, 5), (1.0, 0.5, 0.0), (0.0,) * 3, nan, nan), 0.1, 0.2, 4))


@pytest.mark.parametrize("J", [torch.zeros(1, 1), torch.eye(4), -50.0 * torch.eye(2)])
def test_couplings_of_any_size_can_be_drawn(J: torch.Tensor) -> None:
    svg = to_svg(coupling_plane(coupling_spectrum(J), 0.01))
    assert "Re λ = 1" in svg


def test_training_curves_of_short_and_long_runs() -> None:
    lines = [
        {
            "update": k + 1,
            "gradient": 1.0 / (k + 1),
            "energy_data": 1.0,
            "energy_model": 2.0 / (k + 1),
        }
        for k in range(5000)
    ]
    long = to_svg(training_curves(lines))
    assert len(long) < 300_000  # points of a long run are thinned
    to_svg(training_curves(lines[:2]))
    to_svg(training_curves([{"update": k, "gradient": 0.0} for k in (1, 2)]))


def test_unlabelled_images_many_classes_and_few_samples(run: Run, found: Measurements) -> None:
    few = replace(
        found,
        train=replace(found.train, labels=None),
        generated=found.generated[:3],
        nearest=replace(found.nearest, distance=found.nearest.distance[:3]),
    )
    to_svg(wandering_chain(few, run.transform))
    to_svg(nearest_pairs(few))
    to_svg(sample_grid(few.generated, few.held_out.images[:2]))
    many = replace(found.train, labels=torch.arange(len(found.train)) % 30)
    to_svg(wandering_chain(replace(found, train=many), run.transform))


def test_the_closest_pairs_come_first(found: Measurements) -> None:
    figure = nearest_pairs(found)
    shown = [float(axes.get_title()) for axes in figure.axes if axes.get_title(loc="center")]
    assert shown == sorted(shown)
    assert shown[0] == pytest.approx(float(found.nearest.distance.min()), abs=0.005)


def test_curves_that_share_a_name_share_a_panel() -> None:
    figure = claim_curves({
        "ratio, gamma=-0.5": ([0.1, 10.0], [1.0, 2.0]),
        "ratio, gamma=0.5": ([0.1, 10.0], [2.0, 1.0]),
        "V/T against g": ([1.0], [2.0]), "theory, simulation": ([], []),
    })  # fmt: skip
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "ratio", "V/T", "theory, simulation",
    ]  # fmt: skip
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[1].get_xlabel() == "g"
    to_svg(figure)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(0.0, 0.000999, "0.0000 ± 0.0010"), (1.0, 0.0, "1"), (1234.5, 25.0, "1234 ± 25"),
     (None, None, "–"), (-0.5, math.nan, "−0.5"), (math.inf, 1.0, "–")],
)  # fmt: skip
def test_numbers_are_rounded_by_their_error(
    value: float | None, error: float | None, text: str
) -> None:
    assert measured(value, error) == text
