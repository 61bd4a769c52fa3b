"""The noise-conditional machine: exact statements, its objective and its sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.data import PlainScaling, Whitening
from driftwell.models.langevin.annealing import annealed_sample, noise_levels
from driftwell.models.langevin.denoising import DenoisingTrainer
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.restoration import denoise_images, inpaint
from driftwell.testing import check_energy

RECIPE = Recipe(
    learning="denoising", hidden=24, batch=128, learning_rate=1e-2, updates=900, levels=12,
    sample_steps=60, noise_low=0.05, noise_high=1.2, scaling="components", decay="cosine",
    averaging=0.99,
)  # fmt: skip
WRONG = (torch.ones(3, 2), torch.ones(3))


def machine(labels: int = 0, untrained: bool = False) -> NoiseConditionalMachine:
    made = NoiseConditionalMachine(torch.tensor([2.0, 0.5, 0.1]).double(), 5, labels, seed=3)
    if not untrained:
        with torch.no_grad():
            for index, parameter in enumerate(made.parameters()):
                parameter.add_(0.3 * torch.cos(torch.arange(parameter.numel()) + index)
                               .reshape(parameter.shape))  # fmt: skip
    return made


def some(count: int, seed: int = 1) -> torch.Tensor:
    return normal((count, 3), seed=seed, purpose=Purpose.USER, chains=count, step=0,
                  dtype=torch.float64)  # fmt: skip


@pytest.mark.parametrize("labels", [0, 2])
def test_force_is_minus_the_gradient(labels: int) -> None:
    made = machine(labels)
    x = made.condition(4, 0.7, torch.tensor([0, 1, 1, -1]) if labels else None)
    check_energy(made, some(4), x)
    _, force = made.energy_and_force(some(4), x)
    torch.testing.assert_close(made.gradient(some(4), x), -force)


def test_uncoupled_machine_is_the_gaussian_of_the_data_plus_noise() -> None:
    made = machine(untrained=True)
    with torch.no_grad():
        made.J_vh.zero_()
    u = some(5)
    for sigma in (0.3, 2.0):
        energy = made.energy(u, made.condition(5, sigma))
        exact = 0.5 * (u**2 / (made.variance + sigma**2)).sum(1)
        torch.testing.assert_close(energy, exact)
        mean = made.posterior_mean(u, made.condition(5, sigma))
        torch.testing.assert_close(mean, u * made.variance / (made.variance + sigma**2))


def test_silent_labels_and_levels_have_their_own_laws() -> None:
    made = machine(labels=2)
    u = some(3)
    codes = [made.condition(3, 0.5, torch.full((3,), i)) for i in (-1, 0, 1)]
    energies = [made.energy(u, x) for x in codes]
    assert not torch.allclose(energies[0], energies[1])
    assert not torch.allclose(energies[1], energies[2])
    torch.testing.assert_close(made.at(0.5).energy(u), energies[0])


def test_labels_are_drawn_with_their_frequencies() -> None:
    made = machine(labels=3)
    made.frequency.copy_(torch.tensor([1.0, 2.0, 5.0]))
    drawn = made.draw_labels(8000, seed=4)
    for index, share in enumerate((1 / 8, 2 / 8, 5 / 8)):
        found = float((drawn == index).double().mean())
        assert abs(found - share) < 4.5 * math.sqrt(share * (1 - share) / 8000)
    assert torch.equal(made.draw_labels(10, seed=4, first_chain=5), drawn[5:15])


def blobs(count: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tight blobs at +-2 on the first axis."""
    labels = torch.arange(count) % 2
    noise = normal((count, 2), seed=0, purpose=Purpose.USER, chains=count, step=0)
    centre = torch.stack([4.0 * labels - 2.0, torch.zeros(count)], dim=1)
    return centre + 0.2 * noise, labels


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["unlabelled", "labelled"])
def trained(request: pytest.FixtureRequest) -> DenoisingTrainer:
    states, labels = blobs()
    recipe = replace(RECIPE, label_scale=request.param, contrast_share=0.0)
    trainer = DenoisingTrainer(recipe, states, 0, labels)
    for index in range(RECIPE.updates):
        trainer.update(index)
    return trainer


def test_score_matching_learns_two_blobs(trained: DenoisingTrainer) -> None:
    """Exact posterior mean at sigma = 1 between blobs: 2 tanh(2 u / s2) shrunk by 0.04 / s2."""
    if trained.machine.labels:
        pytest.skip("the joint law is trained by the silenced part of the data only")
    u = torch.stack([torch.linspace(-2.5, 2.5, 11), torch.zeros(11)], dim=1)
    mean = trained.machine.posterior_mean(u, trained.machine.condition(11, 1.0))
    s2 = 0.2**2 + 1.0
    # Mixture of N(+-2, s2): E[u0 | u] = (0.04 u + 2 tanh(2 u / s2)) / s2 for centres at +-2.
    exact = (0.04 * u[:, 0] + 2.0 * torch.tanh(2.0 * u[:, 0] / s2)) / s2
    assert float((mean[:, 0] - exact).abs().max()) < 0.25
    baseline = u[:, 0] * (4.04 / 5.04)  # what the uncoupled Gaussian machine says
    assert float((baseline - exact).abs().max()) > 0.6


def test_walkers_pull_sampling_towards_the_data() -> None:
    """Start from a machine that samples too widely: the contrastive part must mend it."""
    states, _ = blobs()
    recipe = replace(RECIPE, updates=700, contrast_share=0.4, contrast_rate=5e-3, batch=16,
                     learning_rate=2e-3, sample_steps=12)  # fmt: skip
    trainer = DenoisingTrainer(recipe, states, 0)
    gaps = []
    for index in range(700):
        if index == trainer.contrast_from:
            gaps.append(_wasserstein(annealed_sample(trainer.machine, recipe, 1000, 3), states))
        trainer.update(index)
    gaps.append(_wasserstein(annealed_sample(trainer.machine, recipe, 1000, 3), states))
    assert gaps[1] < 0.7 * gaps[0]


def _wasserstein(a: torch.Tensor, b: torch.Tensor) -> float:
    """Distance between the laws of the first coordinate."""
    return float((a[:1000, 0].sort().values - b[:1000, 0].sort().values).abs().mean())


def test_annealed_samples_follow_their_labels(trained: DenoisingTrainer) -> None:
    made = trained.machine
    if not made.labels:
        pytest.skip("no label neurons")
    for label, centre in ((0, -2.0), (1, 2.0)):
        u = annealed_sample(made, RECIPE, 400, 7, labels=torch.full((400,), label))
        near = ((u[:, 0] - centre).abs() < 1.0).double().mean()
        assert float(near) > 0.97
    both = annealed_sample(made, RECIPE, 1000, 8)
    share = float((both[:, 0] > 0).double().mean())
    assert abs(share - 0.5) < 4.5 * 0.5 / math.sqrt(1000) + 0.03


def test_sample_number_i_is_the_same_whatever_the_count(trained: DenoisingTrainer) -> None:
    whole = annealed_sample(trained.machine, RECIPE, 12, 7)
    part = annealed_sample(trained.machine, RECIPE, 4, 7, first_chain=5)
    torch.testing.assert_close(part, whole[5:9], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_going_on_is_bit_for_bit_the_unbroken_run(stop: int) -> None:
    """Before, at and after the beginning of the contrastive part (update 6)."""
    states, labels = blobs(300)
    recipe = replace(RECIPE, updates=12, contrast_share=0.5, label_scale=1.0, chains=30)
    whole = DenoisingTrainer(recipe, states, 1, labels)
    broken = DenoisingTrainer(recipe, states, 1, labels)
    for index in range(12):
        whole.update(index)
        if index < stop:
            broken.update(index)
    fresh = DenoisingTrainer(recipe, states, 1, labels)
    fresh.restore(broken.tensors())
    for index in range(stop, 12):
        fresh.update(index)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, fresh.tensors()[name]), name


def test_level_law_is_sampled_to_its_virial(trained: DenoisingTrainer) -> None:
    law = trained.machine.at(1.0)
    chains = dw.sample(law, law.initial_state(300, seed=2), steps=2500, seed=2, warmup=500)
    d = chains.diagnostics
    assert abs(float(d.virial.mean()) - 1.0) < 4.5 * d.virial_error + 0.02


def test_inpainting_keeps_known_pixels_and_denoising_finds_the_level() -> None:
    images = torch.rand(400, 3, 3, generator=torch.Generator().manual_seed(0))
    images[:, 0] = images[:, 2]  # the top row repeats the bottom row
    transform = Whitening.fit(images, scaling=PlainScaling(-1, 1), unit_variance=False)
    states = transform.forward(images).detach()
    trainer = DenoisingTrainer(replace(RECIPE, updates=300), states, 0, axes=transform)
    for index in range(300):
        trainer.update(index)
    flat = images.reshape(400, 9)
    mask = torch.zeros(9, dtype=torch.bool)
    mask[3:] = True  # the top row is unknown
    done = inpaint(trainer.machine, RECIPE, transform, flat[:100], mask, 0)
    assert torch.equal(done[:, 3:], flat[:100, 3:])
    error = (done[:, :3] - flat[:100, :3]).square().mean()
    assert float(error) < 0.5 * float(flat[:, :3].var())
    noise = normal((400, 9), seed=1, purpose=Purpose.USER, chains=400, step=0)
    _, sigma = denoise_images(trainer.machine, transform, flat + 0.5 * 0.6 * noise)
    assert float(sigma.median()) == pytest.approx(0.6, rel=0.35)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NoiseConditionalMachine(torch.tensor([-1.0]), 2), "variance must be"),
        (lambda: NoiseConditionalMachine(torch.ones(2), 0), "hidden >= 1"),
        (lambda: NoiseConditionalMachine(torch.ones(2), 2, sigma_min=2.0, sigma_max=1.0),
         "0 < min < max"),
        (lambda: NoiseConditionalMachine(torch.ones(2), 2, detectors=WRONG),
         r"detectors must be \(hidden, K\) = \(2, 2\)"),
        (lambda: machine().energy(torch.zeros(1, 3)), r"needs x = \(sigma, labels\)"),
        (lambda: machine().energy(torch.zeros(1, 4), machine().condition(1, 1.0)), "shape"),
        (lambda: machine().at(0.0), "noise level must be positive"),
        (lambda: annealed_sample(machine(), RECIPE, 3, 0, steps=5), "a step at each of its 12"),
        (lambda: annealed_sample(machine(), RECIPE, 0, 0), "at least 1"),
        (lambda: noise_levels(machine(), 0), "at least one noise level"),
        (lambda: DenoisingTrainer(RECIPE, torch.ones(5, 2), 0), "all training data are equal"),
        (lambda: DenoisingTrainer(RECIPE, torch.full((5, 2), torch.nan), 0), "NaN or infinite"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(make: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make()
