"""The moments that couplings are quantized by, and what quantizing does with them."""

import pytest
import torch
from torch import nn

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import preset
from driftwell.quantization.formats import Uniform
from driftwell.quantization.langevin import (
    Centred,
    QuantizedLangevinMachine,
    quantize_langevin,
)
from driftwell.quantization.langevin.annealed_moments import AnnealedMoments, annealed_states
from driftwell.quantization.langevin.visited_moments import visited_moments, visited_states
from driftwell.quantization.post_training.cascade import GPTQThenCOMQ
from driftwell.quantization.post_training.round_to_nearest import RoundToNearest


def machine(n: int = 24) -> dw.NeuralLangevinMachine:
    made = dw.NeuralLangevinMachine(n, seed=1, gain=1.5, dtype=torch.float64)
    with torch.no_grad():
        made.b.copy_(torch.linspace(-1, 1, n))
    return made


def conditional() -> NoiseConditionalMachine:
    variance = torch.linspace(2.0, 0.1, 12, dtype=torch.float64)
    made = NoiseConditionalMachine(variance, hidden=20, labels=3, seed=2)
    with torch.no_grad():
        made.J_vh.mul_(20.0)
    return made.requires_grad_(False)


def equilibrium(made: dw.NeuralLangevinMachine) -> torch.Tensor:
    chains = dw.sample(
        made, made.initial_state(64, 0), steps=600, warmup=200, keep=20, seed=0,
        sampler=dw.Langevin(0.05), diagnostics=False,
    )  # fmt: skip
    return chains.kept.flatten(0, 1)


def test_the_joint_gram_predicts_the_force_error_of_small_changes() -> None:
    """Independent changes of all couplings: E |dF|^2 = sum of cost over rows, to its assumptions.

    Averaged over the changes, rows do not mix, so only <e_i^2 phi'_j^2> = <e_i^2> <phi'_j^2> and
    one weight for all rows are assumed.
    """
    made = machine()
    x = equilibrium(made)
    moments, J = visited_moments(made, x), made.J.detach()
    force = made.force(x)
    ratios = []
    for seed in range(20):
        D = 1e-3 * torch.randn(24, 24, generator=torch.Generator().manual_seed(seed)).double()
        other = dw.NeuralLangevinMachine(24, gain=0.0, zero_diagonal=False, dtype=torch.float64)
        other.J, other.b = nn.Parameter(J + D), made.b
        G = moments.gram(J, bias=False)
        weight = 1 + J.square() @ moments.slopes
        predicted = weight.mean() * (D @ G * D).sum()
        ratios.append(float((other.force(x) - force).square().sum(1).mean() / predicted))
    assert 0.85 < torch.tensor(ratios).mean() < 1.15


def test_the_second_product_counts() -> None:
    """A row's cost with both products chooses codes of smaller force error than with one."""
    made = machine(48)
    x = equilibrium(made)
    moments, J = visited_moments(made, x), made.J.detach()
    errors = []
    for both in (True, False):
        coded = GPTQThenCOMQ().quantize(J, moments.gram(J, bias=True, both=both), Centred(2))
        small = QuantizedLangevinMachine(coded.pack(), made.b)
        small.b.add_((J - small.J) @ moments.rates)
        errors.append(float((small.force(x) - made.force(x)).square().mean()))
    assert errors[0] < 0.95 * errors[1]


def test_a_bias_takes_back_the_mean_of_the_rounding() -> None:
    made = machine()
    x = equilibrium(made)
    found = quantize_langevin(made, 3, states=x).machine
    shift = (found.residual(x) - made.residual(x)).mean(0)
    assert shift.abs().max() < 1e-6
    free = dw.NeuralLangevinMachine(24, bias=False, seed=1, dtype=torch.float64)
    assert torch.equal(quantize_langevin(free, 3).machine.b, free.b)


@pytest.mark.parametrize("method", ["rtn", "rtn-clip", "gptq", "comq", "gptq+comq"])
def test_every_method_and_width_of_a_machine(method: str) -> None:
    made, errors = machine().float(), []
    x = visited_states(made, chains=64, steps=100)
    for bits in range(8, 0, -1):
        found = quantize_langevin(made, bits, method=method, states=x)
        (report,) = found.couplings
        assert (report.name, report.shape, report.bits) == ("J", (24, 24), bits)
        assert found.states == len(x)
        assert report.nbytes < 24 * (3 * bits + 9)
        assert found.machine.J.diagonal().eq(0).all()
        errors.append(found.force_error)
    assert errors[0] < 0.03
    assert errors[:7] == sorted(errors[:7])


def test_calibrated_beats_plain_rounding_at_two_bits() -> None:
    made = machine().float()
    x = visited_states(made, chains=64, steps=300)
    plain, ours = (quantize_langevin(made, 2, method=m, states=x) for m in ("rtn", "gptq+comq"))
    assert ours.force_error < 0.8 * plain.force_error


def test_a_format_and_a_method_of_ones_own() -> None:
    format = Uniform(5, symmetric=True, per="tensor")
    made = quantize_langevin(machine().float(), format=format, method=RoundToNearest("weight"))
    assert made.machine.couplings.scale.shape == (1, 1)
    assert made.machine.couplings.bits == 5


def test_what_cannot_calibrate_is_refused() -> None:
    made = machine()
    with pytest.raises(InvalidInput, match=r"shape \(S, 24\)"):
        quantize_langevin(made, states=torch.zeros(3, 5))
    with pytest.raises(InvalidInput, match="NaN"):
        quantize_langevin(made, states=torch.full((3, 24), torch.nan))
    with pytest.raises(InvalidInput, match="no method 'gtpq'"):
        quantize_langevin(made, method="gtpq")
    with pytest.raises(InvalidInput, match="bits"):
        quantize_langevin(made, 9)


@pytest.mark.parametrize("name", ["J_hv", "J_vh"])
def test_the_annealed_grams_predict_the_score_error_of_small_changes(name: str) -> None:
    made = conditional()
    visited = annealed_states(made, preset("default"), chains=64)
    moments = AnnealedMoments(made)
    for u, x in visited:
        moments.add(u, x)
    G, J = moments.grams()[name], getattr(made, name)
    centre = moments.rates if name == "J_vh" else torch.zeros(12).double()
    found, predicted = [], []
    for seed in range(10):
        D = 1e-4 * torch.randn(J.shape, generator=torch.Generator().manual_seed(seed)).double()
        other = conditional()
        getattr(other, name).add_(D)
        if name == "J_vh":
            other.b.sub_(D @ centre)
        error = [x[0][:, None] * (other.gradient(u, x) - made.gradient(u, x)) for u, x in visited]
        found.append(float(torch.cat(error).square().sum(1).mean()))
        predicted.append(float((D @ G * D).sum()))
    ratio = torch.tensor(found).mean() / torch.tensor(predicted).mean()
    assert 0.6 < ratio < 1.6
