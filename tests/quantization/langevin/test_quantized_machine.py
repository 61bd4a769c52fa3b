"""The quantized Neural Langevin Machine as a law."""

import copy
from pathlib import Path

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import Diverged, InvalidInput
from driftwell.models.langevin.generation import generate
from driftwell.models.langevin.presets import preset
from driftwell.quantization.formats import Uniform, load_packed, save_packed
from driftwell.quantization.langevin import QuantizedLangevinMachine
from driftwell.quantization.langevin.machine import Activations


def quantized(
    machine: dw.NeuralLangevinMachine, bits: int = 4, activations: Activations = "int8"
) -> QuantizedLangevinMachine:
    packed = Uniform(bits, symmetric=True).encode(machine.J).pack()
    return QuantizedLangevinMachine(
        packed, machine.b, machine.temperature, machine.zero_diagonal, activations
    )


def two_neurons(bits: int, activations: Activations = "int8") -> QuantizedLangevinMachine:
    """The card's machine, T = 0.5."""
    machine = dw.NeuralLangevinMachine(2, temperature=0.5, gain=0.0)
    with torch.no_grad():
        machine.J.copy_(torch.tensor([[0.0, 2.2], [-1.4, 0.0]]))
        machine.b.copy_(torch.tensor([0.3, -0.2]))
    return quantized(machine, bits, activations)


def test_the_law_is_that_of_the_decoded_couplings() -> None:
    machine = dw.NeuralLangevinMachine(12, seed=1, dtype=torch.float64)
    small, x = quantized(machine), machine.initial_state(7, seed=2)
    v = machine.initial_state(7, seed=3)
    with torch.no_grad():
        machine.J.copy_(small.J)
    assert torch.equal(small.energy(x), machine.energy(x))
    for ours, exact in zip(small.energy_and_force(x), machine.energy_and_force(x), strict=True):
        assert torch.equal(ours, exact)
    assert torch.equal(small.hessian_vector(x, v), machine.hessian_vector(x, v))
    assert small.curvature_bound(x) == machine.curvature_bound(x)
    assert torch.equal(small.initial_state(7, seed=2), x)


def test_with_float_activations_chains_are_those_of_the_decoded_machine() -> None:
    machine = dw.NeuralLangevinMachine(12, seed=1)
    small, x = quantized(machine, activations="float"), machine.initial_state(7, seed=2)
    with torch.no_grad():
        machine.J.copy_(small.J)
    runs = [
        dw.sample(law, x, steps=30, sampler=dw.Langevin(0.05), seed=4) for law in (small, machine)
    ]
    assert torch.equal(runs[0].z, runs[1].z)


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("bits", [3, 8])
def test_two_neurons_against_quadrature(bits: int, activations: Activations) -> None:
    small = two_neurons(bits, activations)
    axis = torch.linspace(-9.0, 9.0, 901, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).float()
    weight = torch.softmax(-small.energy(grid).double() / small.temperature, dim=0)
    chains = dw.sample(
        small, small.initial_state(2048, seed=5), steps=1500, sampler=dw.Langevin(0.05), seed=5,
        warmup=300, keep=10,
    )  # fmt: skip
    observed = {
        "x": lambda x: x[:, 0], "y": lambda x: x[:, 1], "xy": lambda x: x.prod(1),
        "xx": lambda x: x[:, 0].square(), "E": small.energy,
    }  # fmt: skip
    for name, measure in observed.items():
        exact = float((weight * measure(grid).double()).sum())
        means = torch.stack([measure(kept).double() for kept in chains.kept]).mean(0)
        error = float(means.std()) / 2048**0.5
        assert abs(float(means.mean()) - exact) < 4.5 * error + 0.003, name
    assert abs(float(chains.diagnostics.virial.double().mean()) - 1) < 0.01
    assert ("8-bit" in chains.diagnostics.backend) == (activations == "int8")


def test_noise_is_that_of_the_float_machine() -> None:
    machine = dw.NeuralLangevinMachine(30, gain=0.5, seed=1)
    small, x = quantized(machine, 8), machine.initial_state(9, seed=2)
    far = {}
    for seed in (7, 8):
        runs = [
            dw.sample(law, x, steps=20, sampler=dw.Langevin(0.05), seed=s).z
            for law, s in ((small, 7), (machine, seed))
        ]
        far[seed] = float((runs[0] - runs[1]).abs().max())
    assert far[7] < 0.05
    assert far[8] > 1


def test_chains_go_on_where_they_stopped_and_start_anywhere() -> None:
    small = quantized(dw.NeuralLangevinMachine(30, seed=1))
    x, sampler = small.initial_state(9, seed=2), dw.Langevin(0.05)
    whole = dw.sample(small, x, steps=40, sampler=sampler, seed=3)
    first = dw.sample(small, x, steps=15, sampler=sampler, seed=3)
    assert torch.equal(dw.sample(small, first, steps=25).z, whole.z)
    part = dw.sample(small, x[4:], steps=40, sampler=sampler, seed=3, first_chain=4)
    torch.testing.assert_close(part.z, whole.z[4:], rtol=0, atol=0.02)


def test_any_sampler_runs_it() -> None:
    small = quantized(dw.NeuralLangevinMachine(10, seed=1))
    x = small.initial_state(5, seed=2)
    for sampler in (dw.MALA(0.05), dw.UnadjustedLangevin(0.02), dw.Descent(0.05), dw.Langevin()):
        chains = dw.sample(small, x, steps=10, sampler=sampler, seed=0)
        assert chains.z.isfinite().all()


def test_clamped_pixels_stay_and_images_are_generated_as_by_the_float_machine() -> None:
    small = quantized(dw.NeuralLangevinMachine(16, seed=1))
    known, mask = torch.linspace(-1, 1, 16), torch.arange(16) < 5
    found = generate(small, preset("yu2025-pcd"), 3, 1, steps=20, known=known, mask=mask)
    assert torch.equal(found[:, :5], known[:5].expand(3, 5))


def test_divergence_is_said() -> None:
    small = quantized(dw.NeuralLangevinMachine(10, seed=1))
    with pytest.raises(Diverged, match="stability bound"):
        dw.sample(small, small.initial_state(4, 0), steps=500, sampler=dw.Langevin(50.0), seed=0)


def test_state_dict_and_file_hold_packed_codes_and_give_the_same_machine(tmp_path: Path) -> None:
    machine = dw.NeuralLangevinMachine(24, seed=1)
    small, other = quantized(machine, 3), quantized(dw.NeuralLangevinMachine(24, seed=2), 3)
    x = small.initial_state(3, 0)
    assert sorted(small.state_dict()) == [
        "b",
        "couplings.codes",
        "couplings.scale",
        "couplings.zero",
    ]
    assert small.state_dict()["couplings.codes"].shape == (24, 9)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other.energy(x), small.energy(x))
    assert torch.equal(copy.deepcopy(small).energy(x), small.energy(x))
    save_packed(tmp_path / "m.safetensors", {"J": small.couplings.packed}, {"b": small.b})
    held = load_packed(tmp_path / "m.safetensors")
    again = QuantizedLangevinMachine(held.weights["J"], held.extra["b"])
    assert torch.equal(again.energy(x), small.energy(x))


def test_other_dtypes_and_a_wrong_state() -> None:
    small = quantized(dw.NeuralLangevinMachine(6, seed=1)).double()
    x = small.initial_state(4, 0)
    assert x.dtype == torch.float64
    chains = dw.sample(small, x, steps=5, sampler=dw.Langevin(0.05), seed=0)
    assert chains.z.dtype == torch.float64
    assert "eager" in chains.diagnostics.backend
    with pytest.raises(InvalidInput, match=r"shape \(B, 6\)"):
        dw.sample(small, x[:, :3], steps=5, sampler=dw.Langevin(0.05), seed=0)


def test_what_does_not_fit_is_refused() -> None:
    packed = Uniform(4, symmetric=True).encode(torch.randn(4, 4)).pack()
    with pytest.raises(InvalidInput, match="square"):
        QuantizedLangevinMachine(packed, torch.zeros(5))
    with pytest.raises(InvalidInput, match="activations"):
        QuantizedLangevinMachine(packed, torch.zeros(4), activations="int4")
