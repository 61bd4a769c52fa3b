"""The quantized noise-conditional machine."""

import copy

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.annealing import annealed_sample
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import preset
from driftwell.quantization.formats import Uniform
from driftwell.quantization.langevin import QuantizedNoiseConditionalMachine, quantize_langevin
from driftwell.quantization.langevin.noise_conditional import COUPLINGS


def machine(dtype: torch.dtype = torch.float32) -> NoiseConditionalMachine:
    made = NoiseConditionalMachine(
        torch.linspace(2, 0, 9, dtype=dtype), hidden=14, labels=3, seed=1
    )
    with torch.no_grad():
        made.J_vh.mul_(20.0)
    return made.requires_grad_(False)


def quantized(like: NoiseConditionalMachine, bits: int) -> QuantizedNoiseConditionalMachine:
    made = {n: Uniform(bits).encode(getattr(like, n)).pack() for n in COUPLINGS}
    return QuantizedNoiseConditionalMachine(like, made)


def test_the_law_is_that_of_the_decoded_couplings() -> None:
    made = machine(torch.float64)
    small = quantized(made, 4)
    for name in COUPLINGS:
        getattr(made, name).copy_(small.integers(name).values)
    u, x = made.initial_state(6, 0), made.condition(6, 0.7, torch.tensor([0, 1, 2, -1, 0, 1]))
    assert torch.equal(small.energy(u, x), made.energy(u, x))
    assert torch.equal(small.energy_and_force(u, x)[1], made.energy_and_force(u, x)[1])
    assert torch.equal(small.posterior_mean(u, x), made.posterior_mean(u, x))
    assert torch.equal(small.at(0.5).energy(u), made.at(0.5).energy(u))


def test_it_is_sampled_as_the_float_machine_is() -> None:
    made, recipe = machine(), preset("default")
    small = quantize_langevin(made, 8, recipe=recipe).machine
    ours, exact = (annealed_sample(m, recipe, 5, seed=3) for m in (small, made))
    assert ours.shape == (5, 9)
    assert (ours - exact).abs().max() < 0.1
    assert (annealed_sample(small, recipe, 5, seed=4) - exact).abs().max() > 0.5


def test_reports_and_widths() -> None:
    found = quantize_langevin(machine(), 3)
    assert [(r.name, r.bits) for r in found.couplings] == [
        ("J_hv", 3), ("J_vh", 3), ("J_hk", 8), ("J_vk", 8),
    ]  # fmt: skip
    assert found.force_error < 1
    assert found.states == 256 * 100
    errors = [quantize_langevin(machine(), bits).force_error for bits in (8, 6, 4, 2)]
    assert errors == sorted(errors)
    assert errors[0] < 0.03


def test_state_dict_gives_the_same_machine() -> None:
    small, other = quantized(machine(), 3), quantized(machine().double().float(), 3)
    u, x = small.initial_state(4, 0), small.condition(4, 1.0)
    other.couplings["J_hv"].scale.mul_(2.0)
    assert not torch.equal(other.energy(u, x), small.energy(u, x))
    other.load_state_dict(small.state_dict())
    assert torch.equal(other.energy(u, x), small.energy(u, x))
    assert torch.equal(copy.deepcopy(small).energy(u, x), small.energy(u, x))


def test_couplings_of_another_shape_are_refused() -> None:
    packed = Uniform(4).encode(torch.randn(3, 3)).pack()
    with pytest.raises(InvalidInput, match="J_hv have shape"):
        QuantizedNoiseConditionalMachine(machine(), dict.fromkeys(COUPLINGS, packed))
    with pytest.raises(InvalidInput, match="nothing"):
        QuantizedNoiseConditionalMachine(machine(), {})
