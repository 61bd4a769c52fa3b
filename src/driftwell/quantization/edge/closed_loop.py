"""A controller and a simulated plant in a loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.plants import MassSpringDamper

State = TypeVar("State")


class Controller(Protocol[State]):
    """What `track` runs: it starts with a state and turns measurements into inputs."""

    def start(self, y: float, u: float = 0.0) -> State:
        """The state at rest."""

    def step(
        self, state: State, y: float, reference: Tensor | Sequence[float]
    ) -> tuple[float, State]:
        """The input now, and the next state."""


@final
@dataclass(frozen=True, eq=False)
class ControlRun:
    """What happened in a closed loop.

    Attributes:
        outputs: y_0 .. y_T, float64 (T + 1,).
        inputs: u_0 .. u_{T-1}, (T,).
        reference: r_0 .. r_T, (T + 1,).

    Example:
        >>> ControlRun(torch.zeros(3), torch.zeros(2), torch.ones(3)).error
        1.0
    """

    outputs: Tensor
    inputs: Tensor
    reference: Tensor

    @property
    def error(self) -> float:
        """Root mean square of r_k - y_k, k = 1 .. T, in units of y."""
        return float((self.reference - self.outputs)[1:].square().mean().sqrt())


def track(
    controller: Controller[State],
    plant: MassSpringDamper,
    reference: Tensor,
    *,
    horizon: int = 1,
    preview: bool = True,
) -> ControlRun:
    """Run a controller on a plant that starts at rest.

    Args:
        controller: `NewtonPredictiveControl`, `PID`, or what speaks like them.
        plant: moves one period a sample.
        reference: r_0 .. r_T, (T + 1,); it keeps its last value after the end.
        horizon: values of the reference that the controller is given, r_{k+1} .. r_{k+N}.
        preview: False gives r_{k+1} N times, for references that are not known in advance.

    Raises:
        InvalidInput: a reference too short, or a plant that left the numbers.

    Example:
        >>> from driftwell.quantization.edge.pid import PID
        >>> from driftwell.quantization.edge.plants import MassSpringDamper
        >>> pid = PID(20.0, 20.0, 5.0, period=0.05, bounds=(-10.0, 10.0))
        >>> run = track(pid, MassSpringDamper(), torch.ones(200))
        >>> round(float(run.outputs[-1]), 1), run.inputs.shape
        (1.0, torch.Size([199]))
    """
    if reference.ndim != 1 or len(reference) < 2 or horizon < 1:
        raise InvalidInput(
            f"a reference is r_0 .. r_T with T >= 1 and a horizon at least 1, got "
            f"{tuple(reference.shape)} and {horizon}"
        )
    r = reference.double()
    ahead = torch.cat([r, r[-1].expand(horizon)])
    place, state = (0.0, 0.0), controller.start(0.0)
    outputs, inputs = [0.0], []
    for k in range(len(r) - 1):
        wanted = ahead[k + 1 : k + 1 + horizon] if preview else ahead[k + 1].expand(horizon)
        u, state = controller.step(state, place[0], wanted)
        place = plant.step(place, u)
        if not math.isfinite(place[0]):
            raise InvalidInput(f"the plant left all bounds at sample {k} under input {u}")
        outputs.append(place[0])
        inputs.append(u)
    return ControlRun(
        torch.tensor(outputs, dtype=torch.float64), torch.tensor(inputs, dtype=torch.float64), r
    )
