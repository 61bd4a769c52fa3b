"""Every sampler passes its family's suite, and a broken one does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import driftwell as dw
from driftwell.core.state import State, tree_map
from driftwell.sampling import Problem, Sampler
from driftwell.testing import ConformanceError, check_energy, check_sampler

MEMBERS = [
    dw.Langevin(0.3),
    dw.AnnealedLangevin(start=2.0, over=50, step_size=0.3),
    dw.MALA(0.5),
    dw.BAOAB(0.7),
    dw.HMC(0.5, leapfrog=4),
    dw.ReplicaExchange((1.0, 2.0), step_size=0.5),
]


@pytest.mark.parametrize("sampler", MEMBERS, ids=lambda s: type(s).__name__)
def test_members_conform(sampler: Sampler) -> None:
    check_sampler(sampler)


def test_the_papers_sampler_conforms_up_to_its_known_bias() -> None:
    check_sampler(dw.UnadjustedLangevin(0.1), bias=0.06)
    with pytest.raises(ConformanceError, match="variance in a harmonic well"):
        check_sampler(dw.UnadjustedLangevin(0.5))


@dataclass(frozen=True)
class Broken(Sampler):
    """Langevin with one thing wrong."""

    fault: str
    step_size: float = 0.3
    temperature: float | None = None

    def resolve(self, problem: Problem, z: State) -> Broken:
        return self

    def init(self, problem: Problem, z: State, step: int, stored: State | None) -> Any:
        return 0  # how many steps this call has made: forgotten at every continuation

    def step(self, problem: Problem, z: State, carry: Any, step: int) -> tuple[State, Any]:
        _, force = problem.energy_and_force(z)
        index = carry if self.fault == "continuation" else step
        xi = problem.normal(z, index)
        if self.fault == "batch":
            xi = tree_map(lambda n: n + n.mean(dim=0), xi)
        if self.fault == "clamp":
            xi = tree_map(lambda n: n + 0.1, xi)
        amplitude = (2 * problem.temperature * self.step_size) ** 0.5
        if self.fault == "temperature":
            amplitude *= 1.3
        move = tree_map(lambda f, n: self.step_size * f + amplitude * n, force, xi)
        return tree_map(torch.add, z, move), carry + 1

    def store(self, carry: Any) -> State | None:
        return None


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("continuation", "9 steps and 11 more"),
        ("batch", "batch it sits in"),
        ("clamp", "clamped coordinates"),
        ("temperature", "variance in a harmonic well"),
    ],
)
def test_a_broken_sampler_is_found(fault: str, sentence: str) -> None:
    with pytest.raises(ConformanceError, match=sentence):
        check_sampler(Broken(fault), bias=0.2)


class WrongForce(dw.Energy):
    """The paper's pitfall: J where J^T belongs."""

    def energy(self, z: State, x: Any = None) -> torch.Tensor:
        return 0.5 * (z @ torch.tensor([[1.0, 2.0], [0.0, 1.0]]).double()).square().sum(1)

    def energy_and_force(self, z: State, x: Any = None) -> tuple[torch.Tensor, State]:
        J = torch.tensor([[1.0, 2.0], [0.0, 1.0]]).double()
        return self.energy(z), -(z @ J) @ J


def test_an_energy_with_a_wrong_force_is_found() -> None:
    z = torch.tensor([[1.0, 0.5], [0.2, -0.3]]).double()
    with pytest.raises(ConformanceError, match="minus the gradient"):
        check_energy(WrongForce(), z)
    check_energy(WrongForce().energy, z)
