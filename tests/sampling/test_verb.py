"""The verb `sample`: keyed noise, exact continuation, clamps, records, sentences."""

from __future__ import annotations

import pytest
import torch

import driftwell as dw
from driftwell.core.errors import Diverged, InvalidInput
from driftwell.sampling.recorder import RECORDS, record_spacing

ALL = [
    dw.Langevin(0.05),
    dw.UnadjustedLangevin(0.05),
    dw.AnnealedLangevin(start=2.0, over=30, step_size=0.05),
    dw.Descent(0.05),
    dw.MALA(0.05),
    dw.BAOAB(0.2),
    dw.HMC(0.2, leapfrog=3),
    dw.ReplicaExchange(step_size=0.05, swap_every=4),
]


def energy(z: torch.Tensor) -> torch.Tensor:
    return (0.25 * z**4 - 0.5 * z**2).sum(dim=1) + 0.1 * (z[:, 0] * z[:, 1])


def start(count: int = 6) -> torch.Tensor:
    return torch.linspace(-1, 1, count * 3).reshape(count, 3)


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: type(s).__name__)
def test_a_chain_does_not_depend_on_the_batch_it_sits_in(sampler: dw.sampling.Sampler) -> None:
    whole = dw.sample(energy, start(), steps=37, sampler=sampler, seed=9)
    part = dw.sample(energy, start()[2:5], steps=37, sampler=sampler, seed=9, first_chain=2)
    torch.testing.assert_close(part.z, whole.z[2:5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: type(s).__name__)
def test_stopping_and_going_on_changes_nothing(sampler: dw.sampling.Sampler) -> None:
    whole = dw.sample(energy, start(), steps=50, sampler=sampler, seed=9)
    first = dw.sample(energy, start(), steps=17, sampler=sampler, seed=9)
    second = dw.sample(energy, first, steps=33)
    assert torch.equal(second.z, whole.z)
    assert second.state.next_step == whole.state.next_step == 50


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: type(s).__name__)
def test_clamped_coordinates_keep_their_value(sampler: dw.sampling.Sampler) -> None:
    mask = torch.tensor([True, False, False])
    chains = dw.sample(energy, start(), steps=20, sampler=sampler, seed=1, clamp=mask)
    assert torch.equal(chains.z[:, 0], start()[:, 0])
    assert not torch.equal(chains.z[:, 1:], start()[:, 1:])


@pytest.mark.parametrize("sampler", ALL, ids=lambda s: type(s).__name__)
def test_inputs_are_not_modified_and_outputs_are_detached(sampler: dw.sampling.Sampler) -> None:
    z0 = start().requires_grad_(True)
    before = z0.detach().clone()
    chains = dw.sample(energy, z0, steps=5, sampler=sampler, seed=1)
    assert torch.equal(z0, before)
    assert not chains.z.requires_grad


def test_machine_continues_through_its_fused_kernel() -> None:
    machine = dw.NeuralLangevinMachine(20, seed=1)
    z0 = machine.initial_state(5, seed=2)
    whole = dw.sample(machine, z0, steps=64, sampler=dw.Langevin(0.01), seed=3)
    first = dw.sample(machine, z0, steps=24, sampler=dw.Langevin(0.01), seed=3)
    assert torch.equal(dw.sample(machine, first, steps=40).z, whole.z)


def test_fused_steps_are_the_steps_of_the_plain_loop() -> None:
    machine = dw.NeuralLangevinMachine(12, seed=1, dtype=torch.float64)
    z0 = machine.initial_state(4, seed=2)
    for sampler in (dw.Langevin(0.02), dw.UnadjustedLangevin(0.02), dw.Descent(0.02)):
        fused = dw.sample(machine, z0, steps=30, sampler=sampler, seed=3)
        plain = dw.sample(machine.energy, z0, steps=30, sampler=sampler, seed=3)
        torch.testing.assert_close(fused.z, plain.z, rtol=1e-9, atol=1e-9)


def test_memory_of_diagnostics_does_not_grow() -> None:
    assert record_spacing(50, 0) == 10
    chains = dw.sample(energy, start(), steps=20_000, sampler=dw.Langevin(0.02), seed=1)
    assert len(chains.diagnostics.steps) <= RECORDS
    assert int(chains.diagnostics.steps[-1]) == 20_000


def test_keep_and_warmup_select_states() -> None:
    chains = dw.sample(
        energy, start(), steps=30, sampler=dw.Langevin(0.05), seed=1, warmup=10, keep=5
    )
    assert chains.kept.shape == (4, 6, 3)
    assert torch.equal(chains.kept[-1], chains.z)
    assert int(chains.diagnostics.steps[0]) == 20


def test_states_may_be_trees() -> None:
    def tree_energy(z: dict[str, torch.Tensor]) -> torch.Tensor:
        return 0.5 * (z["a"] ** 2).sum(1) + 0.5 * (z["b"] ** 2).sum((1, 2))

    z0 = {"a": torch.zeros(3, 2), "b": torch.zeros(3, 2, 2)}
    chains = dw.sample(tree_energy, z0, steps=40, seed=0)
    assert chains.z["b"].shape == (3, 2, 2)
    assert not torch.equal(chains.z["a"].reshape(3, 2), chains.z["b"][:, 0])


def test_input_x_conditions_each_chain() -> None:
    x = torch.tensor([[0.0], [5.0]])
    chains = dw.sample(
        lambda z, x: 50 * ((z - x) ** 2).sum(1), torch.zeros(2, 1), x, steps=200, seed=0
    )
    assert abs(float(chains.z[1]) - 5.0) < 1.0 > abs(float(chains.z[0]))


def test_temperature_of_the_sampler_overrides_the_laws() -> None:
    law = dw.dynamics.FunctionEnergy(lambda z: 0.5 * (z**2).sum(1), temperature=3.0)
    z0 = torch.zeros(4000, 1)
    own = dw.sample(law, z0, steps=100, sampler=dw.Langevin(0.5), seed=1).z.var()
    cold = dw.sample(law, z0, steps=100, sampler=dw.Langevin(0.5, temperature=0.5), seed=1).z.var()
    assert abs(float(own) - 3.0) < 4.5 * 3.0 * (2 / 4000) ** 0.5
    assert abs(float(cold) - 0.5) < 4.5 * 0.5 * (2 / 4000) ** 0.5


def test_half_precision_states_run() -> None:
    chains = dw.sample(energy, start().bfloat16(), steps=20, sampler=dw.Langevin(0.05), seed=1)
    assert chains.z.dtype == torch.bfloat16


def test_progress_is_called_and_ends_at_the_end() -> None:
    seen: list[tuple[int, int]] = []
    dw.sample(energy, start(), steps=2500, sampler=dw.Langevin(0.01), seed=1, diagnostics=False,
              progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_no_global_random_state_is_touched() -> None:
    before = torch.random.get_rng_state()
    dw.sample(energy, start(), steps=5, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_divergence_names_the_bound() -> None:
    well = lambda z: 50.0 * (z**2).sum(1)  # noqa: E731
    with pytest.raises(Diverged, match=r"step_size 0\.1 against the stability bound .* 0\.02"):
        dw.sample(well, torch.ones(3, 2), steps=5000, sampler=dw.Langevin(0.1), seed=0)
    chains = dw.sample(
        well, torch.ones(3, 2), steps=5000, sampler=dw.Langevin(0.1), seed=0, throw=False
    )
    assert chains.status.tolist() == [3, 3, 3]
    assert "too large" in chains.explain(1)


def test_diagnostics_leave_diverged_chains_out() -> None:
    cliff = lambda z: torch.where(z[:, 0] > 50, -(z[:, 0] ** 6), 0.5 * z[:, 0] ** 2)  # noqa: E731
    z0 = torch.tensor([[0.0], [0.1], [60.0]])
    chains = dw.sample(cliff, z0, steps=300, sampler=dw.Langevin(0.1), seed=0, throw=False)
    assert chains.status.tolist() == [1, 1, 3]
    assert chains.diagnostics.rhat == pytest.approx(1.0, abs=0.3)


def test_automatic_step_is_stable_on_a_stiff_well() -> None:
    stiff = torch.tensor([1.0, 400.0])
    chains = dw.sample(lambda z: 0.5 * (stiff * z**2).sum(1), torch.zeros(50, 2), steps=500, seed=0)
    assert chains.diagnostics.step_size == pytest.approx(0.5 / 400, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": -1}, "steps must not be negative"),
        ({"steps": 5, "warmup": 6}, "warmup must lie between 0 and steps=5"),
        ({"steps": 5, "keep": 0}, "keep must be at least 1"),
        ({"steps": 5, "seed": None}, "needs a seed"),
        ({"steps": 5, "seed": -3}, "seed must be an integer"),
        ({"steps": 5, "seed": 1.5}, "seed must be an integer"),
        ({"steps": 5, "first_chain": -1}, "first_chain and first_step must not be negative"),
        ({"steps": 5, "sampler": "langevin"}, "sampler must be a sampler such as Langevin"),
        ({"steps": 5, "clamp": torch.ones(3, dtype=torch.bool)}, "nothing is left to sample"),
        ({"steps": 5, "clamp": torch.ones(3)}, "clamp must be bool"),
        ({"steps": 5, "clamp": torch.ones(7, dtype=torch.bool)}, "does not fit the state"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        dw.sample(energy, start(), **{"seed": 0, **arguments})


@pytest.mark.parametrize(
    ("z0", "sentence"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), "floating-point"),
        (torch.zeros(0, 3), "empty batch"),
        (torch.tensor(1.0), "no batch dimension"),
        (torch.full((2, 3), torch.nan), "6 NaN or infinite entries, first in sample 0"),
        ("noise", "a state is a tensor"),
        ((torch.zeros(2, 3), torch.zeros(3, 3)), "share the batch size"),
    ],
)
def test_bad_states_get_one_sentence(z0: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        dw.sample(energy, z0, steps=1, seed=0)


def test_an_energy_that_is_not_per_sample_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"one number per sample, shape \(6,\), got \(\)"):
        dw.sample(lambda z: (z**2).sum(), start(), steps=1, seed=0)


def test_going_on_takes_no_new_settings() -> None:
    chains = dw.sample(energy, start(), steps=3, seed=0)
    with pytest.raises(InvalidInput, match="their own sampler, seed, ids and step"):
        dw.sample(energy, chains, steps=3, seed=1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: dw.Langevin(-0.1), "step_size must be positive"),
        (lambda: dw.Langevin(0.1, temperature=-1.0), "temperature must be positive"),
        (lambda: dw.Langevin(0.1, matmul="int3"), "matmul must be"),
        (lambda: dw.HMC(0.1, leapfrog=0), "leapfrog >= 1"),
        (lambda: dw.BAOAB(0.1, friction=0.0), "positive, finite friction"),
        (lambda: dw.ReplicaExchange((1.0,)), "at least two temperatures"),
        (lambda: dw.ReplicaExchange((1.0, 0.5)), "rises from 1.0"),
        (lambda: dw.AnnealedLangevin(start=-1.0), "temperature must be positive"),
        (lambda: dw.AnnealedLangevin(over=0), "over >= 1"),
        (lambda: dw.Descent(temperature=1.0), "takes no temperature"),
    ],
)
def test_samplers_refuse_bad_settings(make: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make()
