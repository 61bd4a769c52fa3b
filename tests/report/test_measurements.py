"""What is measured of a run agrees with the parts it is made of, and with analytic cases."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.models.langevin.annealing import annealed_sample
from driftwell.models.langevin.generation import generate
from driftwell.report import Measurements, measure_run
from driftwell.report.likelihood import held_out_likelihood
from driftwell.report.page import render
from driftwell.report.plates import draw
from driftwell.report.spectrum import coupling_spectrum
from driftwell.report.trajectories import followed_chain, traced_generation
from driftwell.training.run import Run, load_run, train_run


def test_looking_at_chains_on_the_way_does_not_change_them(run: Run) -> None:
    chains, _ = traced_generation(
        run.machine, run.recipe.make_sampler(), steps=160, samples=10, seed=3
    )
    assert torch.equal(chains.z, generate(run.machine, run.recipe, 10, 3))


def test_the_trace_ends_with_the_samples(run: Run) -> None:
    chains, trace = traced_generation(
        run.machine, run.recipe.make_sampler(), steps=75, samples=10, seed=1
    )
    assert trace.steps[0] == 0
    assert trace.steps[-1] == 75
    assert list(trace.steps) == sorted(set(trace.steps))
    energy = run.machine.energy(chains.z).detach().double() / run.machine.n
    assert trace.energy[-1] == pytest.approx(float(energy.mean()), rel=1e-6)
    assert trace.energy_spread[-1] == pytest.approx(float(energy.std()), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 19, 41])
def test_short_chains_can_be_traced(run: Run, steps: int) -> None:
    _, trace = traced_generation(
        run.machine, run.recipe.make_sampler(), steps=steps, samples=4, seed=1
    )
    assert trace.steps[-1] == steps


def test_virial_of_equilibrium_states_is_one() -> None:
    """Without couplings chains start in the law N(0, T) and come back to it.

    In between the scheme's first steps, whose noises are not yet shared, are too cold.
    """
    machine = dw.NeuralLangevinMachine(10, gain=0.0)
    _, trace = traced_generation(machine, dw.Langevin(0.1), steps=100, samples=2000, seed=0)
    for step, value, error in zip(trace.steps, trace.virial, trace.virial_error, strict=True):
        if 0 < step < 60:
            continue
        assert error == pytest.approx(math.sqrt(2 / 10 / 2000), rel=0.2)
        assert abs(value - 1.0) < 5 * error


def test_the_followed_chain_is_that_chain_of_the_batch(run: Run) -> None:
    sampler = run.recipe.make_sampler()
    chains, _ = traced_generation(run.machine, sampler, steps=100, samples=6, seed=2)
    walk = followed_chain(run.machine, chains.state.sampler, steps=100, seed=2, chain=4, neuron=3)
    assert torch.allclose(walk.states[-1], chains.z[4], atol=1e-5)
    assert walk.steps[-1] == 100
    assert walk.neuron_times[0] == pytest.approx(chains.state.sampler.step_size)


def test_likelihood_of_an_uncoupled_machine_is_the_gaussian_one() -> None:
    """For J = 0 the law is N(b, T I), whose mean log-density at its own samples is known."""
    machine = dw.NeuralLangevinMachine(3, temperature=0.5, gain=0.0, dtype=torch.float64)
    with torch.no_grad():
        machine.b.copy_(torch.tensor([1.0, -2.0, 0.5]))
    noise = normal((4000, 3), seed=1, purpose=Purpose.USER, chains=4000, step=0,
                   dtype=torch.float64)  # fmt: skip
    x = machine.b.detach() + math.sqrt(0.5) * noise
    got = held_out_likelihood(machine, x[:2000], x[2000:], chains=8, levels=(4,))
    exact = -1.5 * (math.log(2 * math.pi * 0.5) + 1.0)
    assert got.log_partition == pytest.approx(1.5 * math.log(math.pi), abs=1e-9)
    assert abs(got.value - exact) < 4 * got.standard_error
    assert got.standard_error == pytest.approx(math.sqrt(1.5 / 2000), rel=0.1)
    assert got.noise == pytest.approx(got.value, abs=0.01)


def test_likelihood_of_two_neurons_against_quadrature() -> None:
    """The card's machine: log Z = -0.0043 by quadrature."""
    machine = dw.NeuralLangevinMachine(2, temperature=0.5, gain=0.0, dtype=torch.float64)
    with torch.no_grad():
        machine.J.copy_(torch.tensor([[0.0, 2.2], [-1.4, 0.0]]))
        machine.b.copy_(torch.tensor([0.3, -0.2]))
    x = torch.zeros(4, 2, dtype=torch.float64)
    got = held_out_likelihood(machine, x, x, levels=(300,))
    axis = torch.linspace(-9.0, 9.0, 1201, dtype=torch.float64)
    weight = -machine.energy(torch.cartesian_prod(axis, axis)) / 0.5
    exact = float(weight.detach().logsumexp(0) + 2 * math.log(axis[1] - axis[0]))
    assert exact == pytest.approx(-0.0043, abs=1e-4)
    assert abs(got.log_partition - exact) < 4 * got.log_partition_error
    assert got.value == pytest.approx(-0.13 - got.log_partition, abs=1e-6)  # E(0) = |b|^2 / 2


def test_annealing_goes_on_until_its_weights_can_be_trusted() -> None:
    machine = dw.NeuralLangevinMachine(12, gain=1.0, seed=2)
    x = torch.zeros(3, 12)
    few = held_out_likelihood(machine, x, x, chains=64, levels=(1,))
    more = held_out_likelihood(machine, x, x, chains=64, levels=(1, 200))
    assert few.effective_chains < 30 < more.effective_chains


def test_spectrum_of_known_couplings() -> None:
    found = coupling_spectrum(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.5, -1.0], [0.0, 1.0, 0.5]]))
    assert found.eigenvalues[0] == pytest.approx((2.0, 0.0))
    assert found.eigenvalues[1] == pytest.approx((0.5, 1.0))
    assert found.unstable == 1
    assert found.radius == pytest.approx(2.0)
    assert found.symmetric**2 + found.antisymmetric**2 == pytest.approx(1.0)
    assert found.antisymmetric**2 == pytest.approx(2 / 6.5)
    assert found.stiffness == pytest.approx(1.25)  # |1 - (0.5 + i)|^2
    assert found.diagonal == pytest.approx(1.0)


def test_couplings_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(InvalidInput, match="NaN"):
        coupling_spectrum(torch.full((2, 2), math.nan))


def test_measurements_are_whole_and_plain(found: Measurements) -> None:
    numbers = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert numbers["samples"] == 60
    assert numbers["two_sample"]["size"] == 50
    assert numbers["likelihood"]["images"] == 50
    assert numbers["training_images"] == 200
    assert set(numbers["diagnostics"]) >= {"virial", "virial_error", "ess", "rhat", "acceptance",
                                           "step_size", "backend"}  # fmt: skip
    assert len(numbers["spectrum"]["eigenvalues"]) == 25
    assert numbers["chain_gap"]["update"] == 40


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    run: Run, found: Measurements
) -> None:
    assert measure_run(run, samples=60, seed=3).to_json() == found.to_json()
    assert measure_run(run, samples=60, seed=4).to_json() != found.to_json()


def test_large_machines_go_without_likelihood_unless_asked(run: Run) -> None:
    assert measure_run(run, samples=4, likelihood_limit=24).likelihood is None


def test_progress_never_falls_and_ends_at_the_end(run: Run) -> None:
    seen: list[tuple[int, int]] = []
    measure_run(run, samples=4, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (100, 100)


def test_data_that_changed_size_are_refused(run: Run) -> None:
    data = replace(run.config.data, resize=4)
    with pytest.raises(InvalidInput, match="4x4, this run was trained on 5x5"):
        measure_run(replace(run, config=replace(run.config, data=data)), samples=4)


def test_one_sample_is_too_few(run: Run) -> None:
    with pytest.raises(InvalidInput, match="at least 2 samples"):
        measure_run(run, samples=1)


@pytest.mark.parametrize(("hidden", "label_scale"), [(0, 2.0), (4, 2.0), (4, 0.0)])
def test_label_and_hidden_neurons_are_measured_for_what_they_are(
    trained_folder: Path, tmp_path: Path, hidden: int, label_scale: float
) -> None:
    config = load_run(trained_folder).config
    recipe = replace(
        config.recipe, hidden=hidden, clamped_steps=3 if hidden else 0, label_scale=label_scale
    )
    train_run(replace(config, recipe=recipe, updates=3), tmp_path / "run")
    run = load_run(tmp_path / "run")
    found = measure_run(run, samples=12)
    labels = 2 if label_scale else 0
    assert run.machine.n == 25 + labels + hidden
    assert found.generated.shape == (12, 5, 5)
    assert found.two_sample["size"] == 12
    assert (found.likelihood is None) == bool(hidden)
    assert math.isnan(found.energy_train) == bool(hidden)
    assert (found.by_class is None) == (not label_scale)
    if found.by_class is not None:
        assert found.by_class.shape == (2, 16, 5, 5)
    json.dumps(found.to_json(), allow_nan=False)
    page = render(run, found, draw(run, found))
    assert ('<figure id="classes">' in page) == bool(label_scale)


def test_a_machine_of_noise_levels_is_measured_level_by_level(denoising_folder: Path) -> None:
    run = load_run(denoising_folder)
    found = measure_run(run, samples=24, seed=2)
    assert torch.equal(found.generated, run.images(annealed_sample(run.machine, run.recipe, 24, 2)))
    assert len(found.trace.levels) == run.recipe.levels
    assert list(found.trace.levels) == sorted(found.trace.levels, reverse=True)
    assert found.trace.steps[-1] == run.recipe.sample_steps
    assert found.trace.reference[-1] == found.energy_held_out
    assert found.likelihood is None
    assert found.gap is None
    assert len(found.spectrum.eigenvalues) == run.layout.visible + run.machine.hidden
    json.dumps(found.to_json(), allow_nan=False)
    page = render(run, found, draw(run, found))
    for name in ("samples", "walk", "traces", "neuron", "spectrum", "training"):
        assert f'<figure id="{name}">' in page
    assert ('<figure id="classes">' in page) == bool(run.recipe.label_scale)
