"""Plants, step models, PID and the loop that joins them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.closed_loop import track
from driftwell.quantization.edge.pid import PID, tune_pid
from driftwell.quantization.edge.plants import MassSpringDamper, excitation, sinusoid, staircase
from driftwell.quantization.edge.step_model import StepModel, learn_step_model, windows_of


def test_the_linear_step_is_the_damped_oscillation() -> None:
    """y(t) = exp(-c t / 2 m) (cos w t + c / (2 m w) sin w t) from y = 1 at rest, u = 0."""
    plant = MassSpringDamper(mass=2.0, damping=0.6, stiffness=5.0, period=0.3)
    state, rate = (1.0, 0.0), 0.6 / 4
    w = math.sqrt(5.0 / 2 - rate**2)
    for k in range(1, 20):
        state, t = plant.step(state, 0.0), 0.3 * k
        wanted = math.exp(-rate * t) * (math.cos(w * t) + rate / w * math.sin(w * t))
        assert state[0] == pytest.approx(wanted, abs=1e-12)


def test_a_held_force_ends_at_force_over_stiffness() -> None:
    plant = MassSpringDamper(damping=2.0)
    assert float(plant.record(torch.full((800,), 3.0))[-1]) == pytest.approx(0.75, abs=1e-9)


def test_a_hardening_spring_without_damper_keeps_its_energy_to_fourth_order() -> None:
    def drift(period: float) -> float:
        plant = MassSpringDamper(damping=0.0, hardening=2.0, period=period)
        state = (1.0, 0.0)
        for _ in range(round(8 / period)):
            state = plant.step(state, 0.0)
        y, v = state
        return abs(v**2 / 2 + 2 * y**2 + y**4 / 2 - 2.5)

    assert drift(0.05) < 1e-6
    assert 12 < drift(0.4) / drift(0.2) < 80


def test_a_weak_hardening_comes_near_to_the_exact_step() -> None:
    exact = MassSpringDamper().step((1.0, -0.5), 2.0)
    found = MassSpringDamper(hardening=1e-9).step((1.0, -0.5), 2.0)
    assert found == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize(
    "wrong", [{"mass": 0.0}, {"period": -1.0}, {"damping": -0.1}, {"stiffness": float("nan")}]
)
def test_plants_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        MassSpringDamper(**wrong)


def test_excitation_is_a_function_of_its_seed_within_bounds() -> None:
    first, again, other = (excitation(400, (-1.0, 3.0), seed=s) for s in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert -1 <= float(first.min()) < -0.5 < 2.5 < float(first.max()) <= 3
    with pytest.raises(InvalidInput, match="excitation needs"):
        excitation(0, (-1.0, 1.0), seed=0)


def test_windows_hold_what_was_known_when_the_next_output_was_not() -> None:
    y, u = torch.arange(6.0) ** 2, 10 * torch.arange(6.0)
    windows, after = windows_of(y, u, 1, 3)
    assert windows.tolist()[0] == [4.0, 20.0, 10.0, 0.0]
    assert after.tolist() == [5.0, 7.0, 9.0]
    windows, after = windows_of(y, u, 3, 1)
    assert windows.tolist()[0] == [4.0, 3.0, 1.0, 20.0]
    assert after.tolist() == [5.0, 7.0, 9.0]
    for wrong in (y[:3], torch.full((6,), float("nan"))):
        with pytest.raises(InvalidInput):
            windows_of(wrong, u[: len(wrong)], 1, 3)


def test_a_linear_plant_is_learned_by_a_network_and_its_slopes_are_the_plant_s() -> None:
    plant = MassSpringDamper()
    forces = excitation(800, (-4.0, 4.0), seed=0)
    model = learn_step_model(plant.record(forces), forces, widths=(8,), updates=150).double()
    fresh = excitation(300, (-3.0, 3.0), seed=7)
    windows, after = windows_of(plant.record(fresh), fresh, 2, 2)
    found, slopes = model.linearized(windows)
    assert (found - after).abs().max() < 0.02 * after.abs().max()
    reaction = plant.step((0.0, 0.0), 1.0)[0]
    assert float(slopes[:, 2].mean()) == pytest.approx(reaction, rel=0.1)


def test_slopes_are_those_of_finite_differences() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    model = StepModel(network, outputs=2, inputs=1)
    w = torch.tensor([[0.3, -0.2, 0.9]]).double()
    _, slopes = model.linearized(w)
    for c in range(3):
        step = torch.zeros(1, 3).double()
        step[0, c] = 1e-6
        difference = float((model(w + step) - model(w - step)).detach()) / 2e-6
        assert float(slopes[0, c]) == pytest.approx(difference, abs=1e-8)


def test_records_and_networks_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="stands still"):
        learn_step_model(torch.zeros(50), torch.zeros(50))
    with pytest.raises(InvalidInput, match="take windows"):
        StepModel(nn.Linear(3, 2), outputs=2, inputs=1)
    with pytest.raises(InvalidInput, match="take windows"):
        StepModel(nn.Linear(4, 1), outputs=2, inputs=1)
    with pytest.raises(InvalidInput, match="at least one"):
        StepModel(nn.Linear(1, 1), outputs=1, inputs=0)


def test_an_integral_stops_while_the_input_is_at_a_bound() -> None:
    pid = PID(0.0, 1.0, 0.0, period=0.1, bounds=(-1.0, 1.0))
    state = pid.start(0.0)
    for _ in range(200):
        u, state = pid.step(state, 0.0, [1.0])
    assert u == pytest.approx(1.0, abs=0.1)
    u, state = pid.step(state, 5.0, [1.0])
    assert u < 0.7


def test_tuning_finds_gains_that_track_better_than_the_grid_s() -> None:
    plant, reference = MassSpringDamper(), staircase((1.0, -0.5), samples=60)

    def loss(pid: PID) -> float:
        return track(pid, plant, reference).error

    start = PID(0.0, 0.0, 0.0, period=plant.period, bounds=(-8.0, 8.0))
    gains = ((4.0, 16.0), (0.0, 8.0), (0.5, 2.0))
    grid, tuned = (tune_pid(start, loss, gains=gains, sweeps=n) for n in (0, 8))
    assert loss(tuned) < 0.97 * loss(grid)


def test_a_loop_measures_its_error_from_the_first_input_on() -> None:
    pid = PID(0.0, 0.0, 0.0, period=0.05, bounds=(-1.0, 1.0))
    run = track(pid, MassSpringDamper(), sinusoid(81, amplitude=1.0, samples=80.0))
    assert run.error == pytest.approx(math.sqrt(0.5), abs=1e-9)
    with pytest.raises(InvalidInput, match="reference is r_0"):
        track(pid, MassSpringDamper(), torch.zeros(1))
