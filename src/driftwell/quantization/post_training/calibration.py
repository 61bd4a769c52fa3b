"""What a model is run on while its layers are watched: inputs, or the states its dynamics visits.

A calibration is a value. `prepared(model)` may first collect states with the float model; `run`
then runs a model on them, and every product of every weight is seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, tree_map
from driftwell.dynamics import Energy
from driftwell.fixed_points import Anderson, Solver, fixed_point
from driftwell.sampling import Sampler, sample


class Calibration(ABC):
    """A way to run a model on the states that its layers are to be right on."""

    def prepared(self, model: nn.Module) -> Calibration:
        """The calibration with all states that only the float model can give."""
        return self

    @property
    def calls(self) -> int:
        """How often the model is called in a run; what is used more often is iterated."""
        return 1

    @abstractmethod
    def run(self, model: nn.Module) -> None:
        """Run the model, or a partly quantized copy of it, on all the states."""


Call = Callable[[nn.Module, Any], Any]


@final
@dataclass(frozen=True, eq=False)
class Inputs(Calibration):
    """Batches of inputs: model(batch), or model(*batch) for a tuple.

    A model whose forward pass solves for an equilibrium, or repeats itself in another way, is seen
    in all its iterations.

    Args:
        batches: a list of batches; it is run through several times.
        call: how to run the model on a batch, in place of calling it; for example
            ``lambda model, batch: model.energy_and_force(batch)``.

    Raises:
        InvalidInput: no batch, or something that can be run through only once.

    Example:
        >>> Inputs([torch.ones(4, 3)]).run(nn.Linear(3, 2))
    """

    batches: Sequence[Any]
    call: Call | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batches, Tensor) or not hasattr(self.batches, "__len__"):
            raise InvalidInput(
                "Inputs(batches) needs a list of batches, which can be run through several times, "
                f"got {type(self.batches).__name__}; one batch x is Inputs([x])"
            )
        if not len(self.batches):
            raise InvalidInput("Inputs(batches) holds no batch, so that no layer would see a state")

    @property
    def calls(self) -> int:
        """One for each batch."""
        return len(self.batches)

    def run(self, model: nn.Module) -> None:
        """Call the model on every batch."""
        for batch in self.batches:
            if self.call is not None:
                self.call(model, batch)
            elif isinstance(batch, tuple):
                model(*batch)
            else:
                model(batch)


@final
@dataclass(frozen=True, eq=False)
class FixedPointIterates(Calibration):
    """All states a solver visits on its way to z* = f(z*, x), or only where it ends.

    Layers that are brought to rest see few of the states that a batch of starts would show them;
    these are the ones that they are used on.

    Args:
        z0: start (B, ...).
        x: input of the map, or None.
        law: the map of a model, ``lambda model: model.layer()``; None where the model is the map.
        solver: of the fixed point.
        tol: relative tolerance.
        max_steps: evaluations allowed; a sample that does not come to rest is no error here.
        only_ends: show z* alone, that of the float model.

    Example:
        >>> from driftwell.nn import MonotoneLayer
        >>> layer = MonotoneLayer(2, 3)
        >>> FixedPointIterates(torch.zeros(4, 3), torch.ones(4, 2)).run(layer)
    """

    z0: State
    x: Any = None
    law: Callable[[nn.Module], Callable[..., Any]] | None = None
    solver: Solver = Anderson()
    tol: float = 1e-4
    max_steps: int = 100
    only_ends: bool = False

    def prepared(self, model: nn.Module) -> Calibration:
        """With `only_ends`, the fixed points of the float model as inputs."""
        if not self.only_ends:
            return self
        with torch.no_grad():
            ends = self._solve(model)
        law, x = self.law, self.x

        def call(model: nn.Module, z: State) -> Any:
            f = model if law is None else law(model)
            return f(z) if x is None else f(z, x)

        return Inputs([ends], call)

    def run(self, model: nn.Module) -> None:
        """Solve with the model's map."""
        self._solve(model)

    def _solve(self, model: nn.Module) -> State:
        f: Callable[..., Any] = model if self.law is None else self.law(model)
        return fixed_point(
            f, self.z0, self.x, solver=self.solver, tol=self.tol, max_steps=self.max_steps,
            throw=False,
        ).z  # fmt: skip


@final
@dataclass(frozen=True, eq=False)
class LangevinStates(Calibration):
    """States of Markov chains of the float model, shown to its energy and force.

    Args:
        z0: starts (B, ...).
        steps: of the chains.
        every: keep every so many steps.
        warmup: steps left out at the start.
        x: input of the law, or None.
        sampler: of the chains; None is `Langevin()`.
        seed: of the noise.

    Raises:
        InvalidInput: counts that keep no state.

    Example:
        >>> from driftwell.models.langevin import NeuralLangevinMachine
        >>> machine = NeuralLangevinMachine(3)
        >>> states = LangevinStates(machine.initial_state(8, seed=1), steps=20, every=10)
        >>> len(states.prepared(machine).batches)
        2
    """

    z0: State
    steps: int
    every: int = 1
    warmup: int = 0
    x: Any = None
    sampler: Sampler | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.every < 1 or (self.steps - self.warmup) // self.every < 1:
            raise InvalidInput(
                f"LangevinStates keeps no state: steps={self.steps}, warmup={self.warmup}, "
                f"every={self.every}"
            )

    def prepared(self, model: nn.Module) -> Inputs:
        """The states the float model's chains visit."""
        chains = sample(
            _energy(model), self.z0, self.x, steps=self.steps, sampler=self.sampler,
            seed=self.seed, warmup=self.warmup, keep=self.every, diagnostics=False,
        )  # fmt: skip
        kept, x = chains.kept, self.x
        count = (self.steps - self.warmup) // self.every
        if kept is None:
            raise InvalidInput("the chains kept no state")
        states = [tree_map(lambda leaf, at=i: leaf[at], kept) for i in range(count)]
        return Inputs(states, lambda model, z: _energy(model).energy_and_force(z, x))

    def run(self, model: nn.Module) -> None:
        """Run on the states of this model's own chains."""
        self.prepared(model).run(model)


def _energy(model: nn.Module) -> Energy:
    if not isinstance(model, Energy):
        raise InvalidInput(
            f"LangevinStates needs an Energy, got {type(model).__name__}: collect states of other "
            "models yourself and hand them over as Inputs"
        )
    return model
