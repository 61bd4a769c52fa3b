"""ESS, split R-hat and virial: known autocorrelation, shifted chains, exact equilibria."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.measures import effective_sample_size, split_rhat, virial


def autoregressive(rho: float, steps: int, chains: int, quantities: int) -> Tensor:
    """Stationary AR(1) of unit variance, whose ESS is n (1 - rho) / (1 + rho)."""
    noise = normal(
        (steps, chains, quantities), seed=10, purpose=Purpose.USER, chains=steps, step=0,
        dtype=torch.float64,
    )  # fmt: skip
    x = [noise[0]]
    for step in range(1, steps):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * noise[step])
    return torch.stack(x)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.6, 0.9])
def test_ess_of_an_autoregression_is_known(rho: float) -> None:
    trace = autoregressive(rho, 2000, 4, 40)
    share = effective_sample_size(trace) / 8000
    expected = (1 - rho) / (1 + rho)
    # The mean of 40 estimates; each scatters by about 10 %, and is slightly low by splitting.
    assert float(share.mean()) == pytest.approx(expected, rel=0.08)
    assert float(share.std()) < 0.25 * expected


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_ess_predicts_the_variance_of_the_mean(rho: float) -> None:
    trace = autoregressive(rho, 500, 2, 400)
    predicted = (trace.var((0, 1)) / effective_sample_size(trace)).mean()
    assert float(trace.mean((0, 1)).var() / predicted) == pytest.approx(1.0, abs=0.35)


def reference_ess(trace: Tensor) -> float:
    """Geyer's sums written as the loop that Stan's manual describes, for one quantity."""
    half = trace.shape[0] // 2
    chains = torch.cat([trace[:half], trace[-half:]], dim=1).T.double()
    count, n = chains.shape
    centred = chains - chains.mean(1, keepdim=True)
    acov = torch.stack([(centred[:, : n - t] * centred[:, t:]).sum(1) / n for t in range(n)])
    within = float(acov[0].mean()) * n / (n - 1)
    pooled = within * (n - 1) / n + float(chains.mean(1).var())
    rho = [1.0] + [1 - (within - float(acov[t].mean())) / pooled for t in range(1, n)]
    tau, cap, t = -1.0, math.inf, 0
    while t + 3 < n and rho[t] + rho[t + 1] > 0:
        cap = min(cap, rho[t] + rho[t + 1])
        tau += 2 * cap
        t += 2
    tau += max(rho[t], 0.0)
    return count * n / max(tau, 1 / math.log10(count * n))


@pytest.mark.parametrize("rho", [-0.7, 0.0, 0.5, 0.97])
def test_ess_agrees_with_the_plain_loop(rho: float) -> None:
    trace = (
        autoregressive(rho, 203, 3, 3)
        + torch.tensor([[[0.0]], [[0.3]], [[0.0]]])[:, 0].T[..., None]
    )
    for quantity in range(3):
        expected = reference_ess(trace[..., quantity])
        assert float(effective_sample_size(trace)[quantity]) == pytest.approx(expected, rel=1e-9)
        assert float(effective_sample_size(trace[..., quantity])) == pytest.approx(expected)


def test_split_rhat_of_mixed_chains_is_one() -> None:
    rhat = split_rhat(autoregressive(0.3, 2000, 4, 40))
    assert rhat.shape == (40,)
    assert float(rhat.max()) < 1.01
    assert float(rhat.min()) > 0.999


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_split_rhat_of_a_shifted_chain_is_known(shift: float) -> None:
    """One of 4 chains off by s: B/n tends to 8/7 (3/16) s^2 over the 8 halves, W to 1."""
    trace = autoregressive(0.0, 4000, 4, 40)
    trace[:, 0] += shift
    expected = math.sqrt(1 + 8 / 7 * 3 / 16 * shift**2)
    assert float(split_rhat(trace).mean()) == pytest.approx(expected, rel=0.01)
    assert float(effective_sample_size(trace).max()) < 16_000 / 20


def test_split_rhat_sees_a_single_chain_that_drifts() -> None:
    trace = autoregressive(0.0, 1000, 1, 1)[..., 0]
    assert float(split_rhat(trace)) < 1.02
    drifting = trace + torch.linspace(0, 3, 1000).double()[:, None]
    assert float(split_rhat(drifting)) > 1.3


def test_what_does_not_move_has_no_ess() -> None:
    still = torch.full((100, 3), 0.1)
    assert math.isnan(float(effective_sample_size(still)))
    assert math.isnan(float(split_rhat(still)))
    stuck = still + torch.tensor([0.0, 1.0, 2.0])
    assert float(split_rhat(stuck)) == math.inf


@pytest.mark.parametrize("measure", [effective_sample_size, split_rhat])
def test_bad_traces_get_one_sentence(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(InvalidInput, match=r"not \(9,\): give a single chain as trace\[:, None\]"):
        measure(torch.zeros(9))
    with pytest.raises(InvalidInput, match="a trace of 7 steps and 2 chains is too short"):
        measure(torch.zeros(7, 2))
    with pytest.raises(InvalidInput, match="9 steps and 0 chains"):
        measure(torch.zeros(9, 0))
    with pytest.raises(InvalidInput, match="1 of 18 trace entries are NaN or infinite"):
        measure(
            torch.zeros(9, 2).index_put((torch.tensor(3), torch.tensor(1)), torch.tensor(math.inf))
        )
    with pytest.raises(InvalidInput, match=r"holds real numbers, not torch.complex64"):
        measure(torch.zeros(9, 2, dtype=torch.complex64))


# ------------------------------------------------------------------ virial
def quartic(n: int, temperature: float) -> Tensor:
    """Exact draws of exp(-z^4 / 4T): z^4 is T times a Gamma(1/4) variable scaled by 4."""
    u = torch.linspace(-6, 6, 200_001, dtype=torch.float64) * temperature**0.25
    cdf = torch.softmax(-(u**4) / (4 * temperature), 0).cumsum(0)
    return u[torch.searchsorted(cdf, (torch.arange(n).double() + 0.5) / n)]


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_the_virial_of_an_exact_equilibrium_is_one(temperature: float) -> None:
    z = quartic(20_000, temperature).reshape(-1, 4)
    ratio = virial(z, z**3, temperature)
    assert ratio.shape == (5000,)
    assert float(ratio.mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(virial(z, z**3, 2 * temperature).mean()) == pytest.approx(0.5, abs=1e-3)


def test_clamped_coordinates_do_not_count() -> None:
    z = torch.tensor([[1.0, 5.0, 2.0], [3.0, 7.0, 0.0]])
    gradient = torch.tensor([[2.0, math.inf, 1.0], [1.0, 9.0, 4.0]])
    free = torch.tensor([True, False, True])
    assert virial(z, gradient, 0.5, free).tolist() == [4.0, 3.0]
    each = torch.tensor([[True, False, True], [True, True, True]])
    assert virial(z, gradient, 1.0, each).tolist() == [2.0, 22.0]


def test_the_virial_takes_trees_and_a_temperature_for_each_sample() -> None:
    tree = (torch.ones(2, 3), {"b": torch.full((2, 1), 2.0)})
    ratio = virial(tree, tree, torch.tensor([1.0, 2.0]))
    assert ratio.tolist() == [7 / 4, 7 / 8]
    free = (torch.tensor([True, False, False]), {"b": torch.tensor([[False], [True]])})
    assert virial(tree, tree, 1.0, free).tolist() == [1.0, 2.5]


def test_the_virial_keeps_the_dtype() -> None:
    z = torch.ones(2, 3)
    assert virial(z, z, 1.0).dtype == torch.float32
    assert virial(z.double(), z.double(), 1.0).dtype == torch.float64
    assert virial(z.bfloat16(), z.bfloat16(), 1.0).dtype == torch.float32


def test_bad_states_get_one_sentence() -> None:
    z = torch.ones(2, 3)
    with pytest.raises(InvalidInput, match="a gradient of the same shapes"):
        virial(z, torch.ones(2, 2), 1.0)
    with pytest.raises(InvalidInput, match="a gradient of the same shapes"):
        virial(torch.tensor(1.0), torch.tensor(1.0), 1.0)
    with pytest.raises(InvalidInput, match="a temperature above 0, not 0: at T = 0"):
        virial(z, z, 0.0)
    with pytest.raises(
        InvalidInput, match=r"one for each of the 2 samples, not of the shape \(3,\)"
    ):
        virial(z, z, torch.ones(3))
    with pytest.raises(InvalidInput, match="no free coordinate"):
        virial(z, z, 1.0, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(InvalidInput, match=r"free has the shape \(2,\), which does not broadcast"):
        virial(z, z, 1.0, torch.ones(2, dtype=torch.bool))
    with pytest.raises(InvalidInput, match="free has 1 tensors, the state has 2"):
        virial((z, z), (z, z), 1.0, torch.ones(3, dtype=torch.bool))
