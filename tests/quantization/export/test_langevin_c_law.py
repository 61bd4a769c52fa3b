"""Integer chains follow the float chains and their law."""

from __future__ import annotations

import math

import torch
from tests.quantization.export.langevin_c import (
    ANNEALED,
    RECURRENT,
    annealed_machine,
    longer,
    recurrent_machine,
)

from driftwell.models.langevin.annealing import annealed_sample
from driftwell.models.langevin.generation import generate
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.quantization.export.c.langevin_build import langevin_program


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def test_a_chain_follows_the_float_chain_of_the_same_seed() -> None:
    """Words are the same and normals equal to 4e-4, so only rounding parts the two."""
    machine, recipe = recurrent_machine(gain=0.7), longer(RECURRENT, 200)
    exact = generate(machine, recipe, 200, seed=4).double()
    coarse = langevin_program(machine, recipe)
    fine = langevin_program(machine, recipe, activation_bits=12)
    errors = [relative(p.values(p.sample(4, torch.arange(200))), exact) for p in (coarse, fine)]
    assert errors[0] < 0.02
    assert errors[1] < 0.01


def test_annealing_ends_where_the_float_machine_ends() -> None:
    """Labels are drawn as there, levels entered as there, and the last jump is there."""
    machine, recipe = annealed_machine(), longer(ANNEALED, 70)
    exact = annealed_sample(machine, recipe, 300, seed=4).double()
    program = langevin_program(machine, recipe)
    ids = torch.arange(300)
    assert program.draw_labels(4, ids).tolist() == machine.draw_labels(300, 4).tolist()  # type: ignore[attr-defined,union-attr]
    assert relative(program.values(program.sample(4, ids)), exact) < 0.03
    without = relative(program.values(program.start(4, ids).x), exact)
    assert without > 0.5  # the start is nowhere near


def test_the_force_is_the_float_force() -> None:
    machine, recipe = annealed_machine(), longer(ANNEALED, 70)
    program = langevin_program(machine, recipe, activation_bits=12)
    ids = torch.arange(100)
    chains = program.start(2, ids)
    for j, level in enumerate((2.0, None, None, None, None, None, 0.1)):
        if level is None:
            continue
        exact = machine.energy_and_force(
            program.values(chains.x).float(), machine.condition(100, level, chains.labels)
        )[1]
        force = program.force(chains.x, chains.labels, j).double() / 2**20  # type: ignore[attr-defined]
        assert relative(force, torch.as_tensor(exact).double()) < 0.01


def two_neurons() -> NeuralLangevinMachine:
    """The machine of the method card, whose moments are known by quadrature."""
    machine = NeuralLangevinMachine(2, temperature=0.5, gain=0.0, dtype=torch.float64)
    with torch.no_grad():
        machine.J.copy_(torch.tensor([[0.0, 2.2], [-1.4, 0.0]]))
        machine.b.copy_(torch.tensor([0.3, -0.2]))
    return machine


def quadrature(machine: NeuralLangevinMachine) -> tuple[float, torch.Tensor]:
    """Exact <E> and <x^2> on a grid."""
    side = torch.linspace(-9, 9, 721, dtype=torch.float64)
    x = torch.cartesian_prod(side, side)
    energy = machine.energy(x).detach()
    weight = torch.exp(-energy / machine.temperature)
    weight = weight / weight.sum()
    return float((weight * energy).sum()), (weight[:, None] * x.square()).sum(0)


def test_two_neurons_in_integers_have_the_energy_virial_and_moments_of_quadrature() -> None:
    """Bound: 2 % for eight-bit rates and residuals, beside four standard errors."""
    machine = two_neurons()
    recipe = Recipe(sampler="langevin", step_size=0.1, sample_steps=100)
    program = langevin_program(machine, recipe)
    count = 20_000
    x = program.values(program.sample(0, torch.arange(count)))
    exact_energy, exact_square = quadrature(machine)
    energy, force = machine.energy_and_force(x)
    virial = -(x * torch.as_tensor(force)).sum(1) / (2 * machine.temperature)
    for found, exact in ((energy, exact_energy), (virial, 1.0), (x[:, 0] ** 2, exact_square[0]),
                         (x[:, 1] ** 2, exact_square[1])):  # fmt: skip
        noise = float(found.std()) / math.sqrt(count)
        assert abs(float(found.mean()) - float(exact)) < 0.02 * float(exact) + 4 * noise


def test_eight_neurons_keep_equipartition() -> None:
    machine = recurrent_machine(8, gain=1.0)
    recipe = Recipe(sampler="langevin", step_size=0.05, sample_steps=100)
    for bits in (8, 4):
        program = langevin_program(machine, recipe, bits=bits)
        rounded = recurrent_machine(8, gain=1.0)
        with torch.no_grad():
            scale = program.J.multiplier.double() * torch.exp2(program.J.shift.double() - 31)  # type: ignore[attr-defined]
            unit = program.top / 2.0**program.fraction
            rounded.J.copy_(scale[:, None] * program.J.integers * unit)  # type: ignore[attr-defined]
        x = program.values(program.sample(0, torch.arange(5_000))).float()
        force = torch.as_tensor(rounded.energy_and_force(x)[1])
        virial = -(x * force).sum(1) / 8
        noise = float(virial.std()) / math.sqrt(len(x))
        assert abs(float(virial.mean()) - 1) < 0.02 + 4 * noise
