"""Predictive control with a learned step model and Newton's method, a few steps a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.edge.step_model import StepModel

NN4MC = Paper(
    key="aguasvivas2022nn4mc",
    title="Toward smart composites: small-scale, untethered prediction and control for soft "
    "sensor/actuator systems",
    authors="Aguasvivas Manzano, S. and Sundaram, V. and Xu, A. and Ly, K. and Rentschler, M. and "
    "Shepherd, R. and Correll, N.",
    year=2022,
    arxiv="2205.10940",
    venue="Journal of Composite Materials",
)

INSET = 0.01
"""A plan starts at least this share of the range from a bound: nearer, the barrier is so curved
that Newton's steps back into the range are short."""
FRACTION = 0.95
"""A step goes at most this share of the way to a bound."""
SLACK = 1e-4
"""Excess over the parabola, as a share of the cost, that shortens no step: near the minimum the
cost's own rounding, in single precision in C, must not decide on steps."""
FLOOR = 1e-6
"""The same, as a share of sum (r^2 + y^2)."""


@final
@dataclass(frozen=True, eq=False)
class ControlState:
    """What a controller remembers between samples.

    Attributes:
        outputs: y_{k-1}, d_{k-1}, ..., d_{k-n+1}, an output and increments (n,).
        inputs: u_{k-1}, u_{k-2}, ... (max(m - 1, 1),).
        plan: u_k ... u_{k+Nu-1} as it was planned, shifted: where Newton's method starts.

    Example:
        >>> ControlState(torch.zeros(2), torch.zeros(1), torch.zeros(5)).plan.shape
        torch.Size([5])
    """

    outputs: Tensor
    inputs: Tensor
    plan: Tensor


@final
@dataclass(frozen=True, eq=False)
class NewtonPredictiveControl:
    """Neural predictive control by Newton's method, from Aguasvivas Manzano et al., *Toward smart
    composites*, 2022, arXiv:2205.10940, after Soloway and Haley, *Neural Generalized Predictive
    Control*, 1996.

    At each sample the plan U = (u_k, ..., u_{k+Nu-1}), its last entry held up to the horizon N,
    moves towards the minimum of

        J(U) = sum_{j=1..N} (r_{k+j} - y_{k+j})^2 + lambda sum_{j<Nu} (u_{k+j} - u_{k+j-1})^2
               + s sum_{j<Nu} (1/(u_{k+j} - low) + 1/(high - u_{k+j}) - 4/(high - low))

    with y_{k+j} rolled out by the model, by steps U <- U - a H^-1 grad J. With G = dy/dU from the
    network's slopes, Gauss-Newton takes H = 2 (G'G + lambda D'D) + barrier''; the exact Hessian
    also knows how the slopes bend. a <= 1 keeps U within the bounds; if J lies above its parabola
    there, a goes back to the minimum of the parabola through J(0), J'(0) and J(a): a smooth rule
    of constant cost. u_k is applied, the plan is shifted and starts the next sample.

    Args:
        model: the step model; its type is the controller's. float64 is advised in Python.
        horizon: N, samples looked ahead.
        control_horizon: Nu <= N, free entries of the plan.
        move_weight: lambda >= 0, squared units of y per squared unit of u.
        bounds: least and largest u, finite.
        barrier: s >= 0, in units of J times u. 0 has none; then an entry at a bound shortens
            every step that pushes it further.
        steps: Newton steps a sample.
        hessian: ``"gauss-newton"``, or ``"exact"`` (slower; where it is not positive definite the
            other is taken; cannot be exported).

    Raises:
        InvalidInput: settings outside these ranges.

    Example:
        >>> net = torch.nn.Linear(3, 1).double()
        >>> model = StepModel(net, outputs=2, inputs=1)
        >>> control = NewtonPredictiveControl(model, horizon=4, control_horizon=2)
        >>> u, state = control.step(control.start(0.0), 0.1, torch.zeros(4))
        >>> -1 < u < 1, state.plan.shape
        (True, torch.Size([2]))
    """

    model: StepModel
    horizon: int = 10
    control_horizon: int = 3
    move_weight: float = 1e-4
    bounds: tuple[float, float] = (-1.0, 1.0)
    barrier: float = 1e-4
    steps: int = 1
    hessian: Literal["gauss-newton", "exact"] = "gauss-newton"

    papers = (NN4MC,)

    def __post_init__(self) -> None:
        """Raise on settings that cannot be."""
        low, high = self.bounds
        if not 1 <= self.control_horizon <= self.horizon:
            raise InvalidInput(
                f"the control horizon is 1 .. horizon, got {self.control_horizon} of {self.horizon}"
            )
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InvalidInput(f"bounds are finite, the least first, got {self.bounds}")
        for name in ("move_weight", "barrier"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInput(f"{name} must be finite and not negative, got {value}")
        if self.steps < 1:
            raise InvalidInput(f"a sample needs at least one Newton step, got {self.steps}")
        if self.hessian not in ("gauss-newton", "exact"):
            raise InvalidInput(f'hessian is "gauss-newton" or "exact", got {self.hessian!r}')

    def start(self, y: float, u: float = 0.0) -> ControlState:
        """The state of a plant that has rested at output y under input u."""
        self._check_finite("output", y)
        self._check_finite("input", u)
        past = max(self.model.inputs - 1, 1)
        plan = self._inside(self.model.empty(self.control_horizon) + u)
        outputs = self.model.empty(self.model.outputs)
        outputs[0] = y
        return ControlState(outputs, self.model.empty(past) + u, plan)

    @torch.no_grad()
    def step(
        self, state: ControlState, y: float, reference: Tensor | Sequence[float]
    ) -> tuple[float, ControlState]:
        """The input to apply now, and the state for the next sample.

        Args:
            state: of `start` or of the last call.
            y: y_k, the output just measured.
            reference: r_{k+1} .. r_{k+N}, (N,).

        Returns:
            u_k within the bounds, and the next state.

        Raises:
            InvalidInput: a measurement or a reference that is not finite, or of another length;
                a model whose predictions are not finite, or that does not react to its input.
        """
        self._check_finite("measured output", y)
        r = torch.as_tensor(reference).to(state.plan)
        if r.shape != (self.horizon,) or not bool(r.isfinite().all()):
            raise InvalidInput(
                f"the reference is {self.horizon} finite values, r_(k+1) .. r_(k+N), got "
                f"{tuple(r.shape)}"
            )
        state = self.measured(state, y)
        plan = state.plan
        for _ in range(self.steps):
            plan = self.improved(state, r, plan)
        if not bool(plan.isfinite().all()):
            raise InvalidInput(
                "the model's predictions are not finite: learn it on a record that covers what "
                "is measured now"
            )
        u = plan[0].clamp(*self.bounds)
        inputs = torch.cat([u[None], state.inputs[:-1]])
        shifted = torch.cat([plan[1:], plan[-1:]])
        return float(u), ControlState(state.outputs, inputs, self._inside(shifted))

    @staticmethod
    def measured(state: ControlState, y: float) -> ControlState:
        """The state with y_k at its front."""
        first = state.outputs.new_tensor([y])
        moved = torch.cat([first - state.outputs[:1], state.outputs[1:]])
        return replace(state, outputs=torch.cat([first, moved[: len(state.outputs) - 1]]))

    @torch.no_grad()
    def improved(self, state: ControlState, reference: Tensor, plan: Tensor) -> Tensor:
        """A plan after one Newton step; `state.outputs` begins with y_k here."""
        predicted, windows = self.rollout(state, plan)
        cost = self._cost(predicted, plan, state.inputs[0], reference)
        gradient, hessian = self._derivatives(state, plan, reference, predicted, windows)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed) and bool(hessian.isfinite().all()):
            raise InvalidInput(
                "the cost has no minimum along some direction of the plan: the model does not "
                "react to its input; give a positive move_weight or barrier"
            )
        direction = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        fall = -float(gradient @ direction)
        a = self._within(plan, direction)
        trial, _ = self.rollout(state, plan + a * direction)
        found = self._cost(trial, plan + a * direction, state.inputs[0], reference)
        excess = float(found - cost) + a * fall - a * a / 2 * fall
        excess -= SLACK * float(cost)
        excess -= FLOOR * float((reference.square() + predicted.square()).sum())
        bend = fall + 2 * max(excess, 0.0) / (a * a)
        return plan + (min(a, fall / bend) if fall > 0 else 0.0) * direction

    def rollout(self, state: ControlState, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted y_{k+1} .. y_{k+N}, and the windows (N, n + m) they came from."""
        n, m, last = self.model.outputs, self.model.inputs, self.control_horizon - 1
        y, moved = state.outputs[0], list(state.outputs[1:].flip(0))
        outputs, windows = [], []
        held = [plan[min(j, last)] for j in range(self.horizon)]
        inputs = [*state.inputs[: m - 1].flip(0), *held]
        for j in range(self.horizon):
            window = torch.stack([y, *moved[j : j + n - 1][::-1], *inputs[j : j + m][::-1]])
            windows.append(window)
            moved.append(self.model(window[None])[0])
            y = y + moved[-1]
            outputs.append(y)
        return torch.stack(outputs), torch.stack(windows)

    def cost(self, state: ControlState, reference: Tensor, plan: Tensor) -> Tensor:
        """J of a plan, a number; `state.outputs` begins with y_k here."""
        return self._cost(self.rollout(state, plan)[0], plan, state.inputs[0], reference)

    @torch.no_grad()
    def derivatives(
        self, state: ControlState, reference: Tensor, plan: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient (Nu,) of J and the Hessian (Nu, Nu) that steps are made with."""
        predicted, windows = self.rollout(state, plan)
        return self._derivatives(state, plan, reference, predicted, windows)

    def _cost(self, y: Tensor, plan: Tensor, before: Tensor, reference: Tensor) -> Tensor:
        low, high = self.bounds
        moves = torch.cat([plan[:1] - before, plan[1:] - plan[:-1]])
        cost = (reference - y).square().sum() + self.move_weight * moves.square().sum()
        walls = 1 / (plan - low) + 1 / (high - plan) - 4 / (high - low)
        return cost + self.barrier * walls.sum()

    def _derivatives(
        self, state: ControlState, plan: Tensor, reference: Tensor, y: Tensor, windows: Tensor
    ) -> tuple[Tensor, Tensor]:
        low, high = self.bounds
        slopes = self.sensitivities(windows)
        moves = torch.cat([plan[:1] - state.inputs[:1], plan[1:] - plan[:-1]])
        difference = torch.eye(len(plan)).to(plan)
        difference[1:] -= difference[:-1].clone()
        gradient = -2 * slopes.T @ (reference - y) + 2 * self.move_weight * difference.T @ moves
        gradient += self.barrier * (1 / (high - plan) ** 2 - 1 / (plan - low) ** 2)
        hessian = slopes.T @ slopes + self.move_weight * difference.T @ difference
        walls = 1 / (high - plan) ** 3 + 1 / (plan - low) ** 3
        gauss_newton = 2 * hessian + 2 * self.barrier * torch.diag(walls)
        if self.hessian == "exact":
            exact = torch.autograd.functional.hessian(partial(self.cost, state, reference), plan)
            if not int(torch.linalg.cholesky_ex(exact)[1]):
                return gradient, exact
        return gradient, gauss_newton

    def sensitivities(self, windows: Tensor) -> Tensor:
        """G = dy/dU (N, Nu) along a rollout's windows (N, n + m)."""
        n, m, last = self.model.outputs, self.model.inputs, self.control_horizon - 1
        _, slopes = self.model.linearized(windows)
        rows = [self.model.empty(last + 1)]  # of y_k, y_{k+1}, ...
        moved: list[Tensor] = []  # of d_{k+1}, d_{k+2}, ...
        for j, slope in enumerate(slopes):
            row = slope[0] * rows[-1]
            for i in range(1, min(n - 1, j) + 1):
                row = row + slope[i] * moved[j - i]
            for i in range(min(m, j + 1)):
                row[min(j - i, last)] += slope[n + i]
            moved.append(row)
            rows.append(rows[-1] + row)
        return torch.stack(rows[1:])

    def _within(self, plan: Tensor, direction: Tensor) -> float:
        """The largest a <= 1 with which no entry goes further than FRACTION of its way out."""
        low, high = self.bounds
        room = torch.where(direction < 0, low - plan, high - plan)
        ways = room[direction != 0] / direction[direction != 0]
        return min(1.0, FRACTION * float(ways.min())) if len(ways) else 1.0

    def _inside(self, plan: Tensor) -> Tensor:
        low, high = self.bounds
        inset = INSET * (high - low)
        return plan.clamp(low + inset, high - inset)

    @staticmethod
    def _check_finite(name: str, value: float) -> None:
        if not math.isfinite(value):
            raise InvalidInput(f"the {name} must be finite, got {value}")
