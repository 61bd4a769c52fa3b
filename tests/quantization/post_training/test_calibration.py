"""Calibrations show a model the states it visits, no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Anderson, Picard
from driftwell.models.equilibrium import DEQClassifier, record_trajectory
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.quantization.formats import Uniform
from driftwell.quantization.post_training.activation_ranges import activation_ranges
from driftwell.quantization.post_training.calibration import (
    Calibration,
    FixedPointIterates,
    Inputs,
    LangevinStates,
)
from driftwell.quantization.post_training.calibration_times import DiffusionTimes, ForwardDiffused
from driftwell.quantization.post_training.sites import Root, sites
from driftwell.quantization.post_training.verb import quantize
from driftwell.quantization.post_training.watching import input_grams


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gram(model: nn.Module, calibration: Calibration, name: str) -> tuple[Tensor, int]:
    """The Gram matrix that quantize would see, and the number of inputs."""
    (site,) = (site for site in sites(Root(model)) if site.name == name)
    with torch.no_grad():
        grams, counts = input_grams(model, calibration.prepared(model), {name: site})
    return grams[name][0], counts[name]


class Layer(nn.Module):
    """f(z, x) = tanh(W z + x)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.W = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.W.weight.copy_(0.5 * drawn(width, width, seed=1) / width**0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.W(z) + x)


@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=repr)
def test_the_iterates_are_those_the_solver_visits(solver: Any) -> None:
    layer, z0, x = Layer(), drawn(8, 12), drawn(8, 12, seed=2)
    calibration = FixedPointIterates(z0, x, solver=solver, tol=0.0, max_steps=7)
    seen, count = gram(layer, calibration, "W")
    visited = record_trajectory(layer, z0, x, steps=7, solver=solver).z[:-1].flatten(0, 1)
    assert count == 7 * 8
    torch.testing.assert_close(seen, (visited.T @ visited).double(), rtol=1e-4, atol=1e-4)


def test_only_the_ends_are_the_fixed_points() -> None:
    layer, z0, x = Layer(), drawn(8, 12), drawn(8, 12, seed=2)
    seen, count = gram(layer, FixedPointIterates(z0, x, tol=1e-6, only_ends=True), "W")
    star = dw.fixed_point(layer, z0, x, tol=1e-6).z
    assert count == 8
    torch.testing.assert_close(seen, (star.T @ star).double().detach(), rtol=1e-4, atol=1e-4)


def test_a_model_that_solves_inside_shows_its_iterates_to_plain_inputs() -> None:
    model, x = DEQClassifier(10, 12, 3), drawn(16, 10)
    _, inside = gram(model, Inputs([x]), "W_0")
    law = FixedPointIterates(
        torch.zeros(16, 12), model.inject(x).detach(), law=lambda model: model.layer()
    )
    assert inside == gram(model, law, "W_0")[1]
    assert inside > 16 * 3


def test_chains_show_the_states_they_keep() -> None:
    machine = NeuralLangevinMachine(6)
    start = machine.initial_state(32, seed=1)
    seen, count = gram(machine, LangevinStates(start, steps=60, every=20, seed=3), "J")
    kept = dw.sample(machine, start, steps=60, keep=20, seed=3).kept
    phi = torch.tanh(kept.flatten(0, 1)).double()
    assert count == 3 * 32
    torch.testing.assert_close(seen, phi.T @ phi, rtol=1e-5, atol=1e-5)


def test_calibration_on_the_states_visited_brings_an_equilibrium_nearer() -> None:
    """Mean over nets: W rounded for the iterates moves z* less than W rounded for the starts.

    States on the way to rest lie near a few directions, starts are isotropic.
    """
    visited, started = [], []
    for seed in range(4):
        layer = Layer(32)
        with torch.no_grad():
            layer.W.weight.copy_(0.8 * drawn(32, 32, seed=10 + seed) / 32**0.5)
        basis = drawn(4, 32, seed=20 + seed)
        x, z0 = drawn(512, 4, seed=30 + seed) @ basis, drawn(512, 32, seed=40 + seed)
        star = dw.fixed_point(layer, z0, x, tol=1e-6).z

        def moved(calibration: Calibration) -> float:
            small = quantize(layer, calibration, format=Uniform(3), exact=True).model  # noqa: B023
            there = dw.fixed_point(small, z0, x, tol=1e-6).z  # noqa: B023
            return float(((there - star).norm() / star.norm()).detach())  # noqa: B023

        visited.append(moved(FixedPointIterates(z0, x)))
        started.append(moved(Inputs([(z0, x)])))
    assert sum(visited) < 0.6 * sum(started)  # .36 measured
    assert max(visited) < 0.1


# ------------------------------------------------------------ times of a reverse process
STEPS = 20


class Network(nn.Module):
    """A network of (x, t) that knows t."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.layer(torch.cat([x, t[:, None]], dim=1))
        return result


def reverse(model: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for k in range(STEPS):
        t = torch.full((len(x),), 1 - k / STEPS)
        yield x, t
        x = x - model(x, t) / STEPS


def test_each_sample_is_kept_at_its_own_step_of_one_pass() -> None:
    net, noise = Network(), drawn(300, 2)
    times = DiffusionTimes(reverse, noise, steps=STEPS, seed=4)
    shown = times.prepared(net).batches
    x, t = (torch.cat(column) for column in zip(*shown, strict=True))
    k = times.times()
    torch.testing.assert_close(t, 1 - k / STEPS)
    with torch.no_grad():
        path = torch.stack([state for state, _ in reverse(net, noise)])
    assert torch.equal(x, path[k, torch.arange(300)])


def test_times_are_a_clamped_normal_in_the_order_of_sampling() -> None:
    times = DiffusionTimes(reverse, torch.zeros(40000, 1), steps=1000, seed=1).times() / 1000
    assert float(times.median()) == pytest.approx(0.4, abs=0.01)
    assert float((times < 0.8).double().mean()) == pytest.approx(0.8413, abs=0.01)
    assert float((times == 0).double().mean()) == pytest.approx(0.1587, abs=0.01)


def test_the_worse_choices_show_what_they_say() -> None:
    net, noise = Network(), drawn(64, 2)
    ((x, t),) = DiffusionTimes.noise_only(reverse, noise, STEPS).prepared(net).batches
    assert torch.equal(x, noise)
    assert (t == 1).all()
    ((x, t),) = DiffusionTimes.single_time(reverse, noise, STEPS, at=0.5).prepared(net).batches
    torch.testing.assert_close(t, torch.full((64,), 0.5))
    forward = ForwardDiffused(lambda x, e, u: (x + 0 * e, u), torch.ones(64, 2))
    ((x, t),) = forward.prepared(net).batches
    assert (x == 1).all()
    assert 0 <= t.min() < t.max() < 1


# ------------------------------------------------------------ ranges
def test_ranges_of_inputs_by_three_rules() -> None:
    model = nn.Sequential(nn.Tanh(), nn.Linear(8, 4))
    x = drawn(4096, 8)
    low, high = activation_ranges(model, Inputs([x[:10], x[10:]]), ["1"], rule="minmax")["1"]
    assert (low, high) == tuple(float(end) for end in torch.tanh(x).aminmax())

    heavy = drawn(20000, 1)
    heavy[0] = 100.0
    identity = nn.Sequential(nn.Identity())
    full, mse, tail = (
        activation_ranges(identity, Inputs([heavy]), ["0"], rule=rule, bits=4)["0"]
        for rule in ("minmax", "mse", "percentile")
    )
    assert full[1] == 100.0
    assert tail[1] < 6.0
    assert mse[1] < 20.0


def test_the_mse_range_is_the_best_of_its_family() -> None:
    from driftwell.quantization.modules import RoundedInput

    x = drawn(5000, 1).abs() ** 2
    model = nn.Sequential(nn.Identity())
    low, high = activation_ranges(model, Inputs([x]), ["0"], rule="mse", bits=4)["0"]

    def error(end: float) -> float:
        return float((RoundedInput(4, 0.0, end)(x) - x).square().mean())

    best = min(error(float(x.max()) * a / 80) for a in range(1, 81))
    assert low == pytest.approx(0.0, abs=1e-6)
    assert error(high) < 1.02 * best


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Inputs([]), "holds no batch"),
        (lambda: Inputs(drawn(3, 2)), "one batch x is"),
        (lambda: Inputs(iter([1])), "run through several times"),
        (lambda: LangevinStates(drawn(2, 3), steps=5, every=10), "keeps no state"),
        (lambda: LangevinStates(drawn(2, 3), steps=5).prepared(nn.Linear(3, 3)), "needs an Energy"),
        (lambda: DiffusionTimes(reverse, drawn(4, 2), steps=0), "at least one step"),
        (lambda: DiffusionTimes(reverse, drawn(4, 2), steps=5, std=-1.0), "std >= 0"),
        (
            lambda: DiffusionTimes(reverse, drawn(64, 2), steps=100).prepared(Network()),
            "yielded 20 steps and not the 100",
        ),
        (lambda: activation_ranges(nn.Linear(2, 2), Inputs([1]), ["0"]), "no module '0'"),
        (lambda: activation_ranges(nn.Linear(2, 2), Inputs([1]), [], rule="max"), "rule must be"),
        (
            lambda: activation_ranges(
                nn.Sequential(nn.Linear(2, 2)), Inputs([drawn(2, 2) / 0]), ["0"]
            ),
            "NaN or infinite",
        ),
    ],
)
def test_wrong_inputs_are_one_sentence(wrong: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        wrong()
