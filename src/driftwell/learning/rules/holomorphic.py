"""Holomorphic equilibrium propagation: gradients from fixed points nudged around a circle."""

from __future__ import annotations

import cmath
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, DriftwellError, InvalidInput, NotConverged
from driftwell.core.papers import Paper
from driftwell.core.state import (
    State,
    batch_size,
    detach,
    flatten,
    inner,
    leaves,
    norm,
    tree_map,
    unflatten,
    where,
)
from driftwell.core.status import Status
from driftwell.dynamics.laws import call
from driftwell.fixed_points.gradients.gradient import Gradient
from driftwell.fixed_points.iteration import Outcome, Problem, check_outcome, iterate
from driftwell.fixed_points.solvers.anderson import Anderson
from driftwell.fixed_points.solvers.solver import Solver
from driftwell.fixed_points.verb import fixed_point
from driftwell.learning.rules.complexification import Complexified, as_complex, derivative
from driftwell.learning.rules.sensitivity import Activation, slope

LABORIEUX_ZENKE = Paper(
    key="laborieux2024homeostasis",
    title="Improving equilibrium propagation without weight symmetry through Jacobian homeostasis",
    authors="Laborieux, Axel and Zenke, Friedemann",
    year=2024,
    arxiv="2309.02214",
    venue="ICLR 2024",
)


class Response(NamedTuple):
    """What a neuron feels of the loss.

    Attributes:
        error: d sigma(z) / d beta at beta = 0, a real tree like z; it stands for the adjoint.
        aliasing: per sample (B,), the size of the Fourier coefficient of order N - 1, relative
            to that of order 1; it vanishes for a holomorphic response as beta^(N-2). None for
            fewer than three points, which cannot tell.
    """

    error: State
    aliasing: Tensor | None


@final
@dataclass(frozen=True)
class HolomorphicEP(Gradient):
    """Holomorphic equilibrium propagation for any law, from Laborieux and Zenke, *Improving
    equilibrium propagation without weight symmetry through Jacobian homeostasis*, 2023,
    arXiv:2309.02214.

    The loss nudges the fixed point z of f, and neurons compare what they see at N nudges on a
    circle of the complex plane (Cauchy's integral formula, by the trapezoidal rule):

        z_t = f(z_t, x) + beta_t dL/da(a_t),   a = sigma(z),   beta_t = beta exp(2 pi i t / N)
        delta = da/dbeta(0) = 1/N sum_t a_t / beta_t + O(beta^N);    N = 1: (a_0 - a) / beta
        dL/dtheta ~ delta^T df/dtheta;   exact with delta = dL/dz + (df/dz)^T delta (a = z)

    Nothing is transmitted backwards. For N >= 2 the error of delta falls exponentially in N as
    long as no pole of f lies in the circle; what remains is that (dz/da - df/da)^-1 takes the place
    of its transpose, so the gradient is exact if df/da is symmetric: `jacobian_homeostasis`.
    N = 2 stays real. With real f and x only half of the circle is solved for.

    It is a `Gradient`: ``dw.fixed_point(f, z0, x, gradient=HolomorphicEP())`` trains an
    equilibrium layer inside any model by the local rule. There dL/da is that of the free phase,
    of length 1 per sample, which has the same derivative at beta = 0. `loss` is the paper's own
    rule, whose nudge follows the nudged state.

    Args:
        beta: radius of the circle, positive.
        n_points: N, at least 1.
        activation: sigma, elementwise; None for a = z. In networks f = W sigma(z) + x it is the
            sigma of the law, so that df/da = W.
        solver: of the nudged phases.
        tol: their relative tolerance; delta inherits it divided by beta.
        max_steps: evaluations of f that each nudged phase may take.
        warn_above: `Response.aliasing` from which a warning says that the circle is too wide.

    Raises:
        InvalidInput: a setting outside its range; a law that has no complex values (ReLU, for
            example) for N >= 3.
        NotConverged: a nudged phase used up its steps.
        Diverged: a nudged phase left the finite numbers.

    Example:
        >>> import driftwell as dw
        >>> w = torch.full((1, 1), 0.5, requires_grad=True)
        >>> z = dw.fixed_point(lambda z: z @ w + 1, torch.zeros(1, 1), gradient=HolomorphicEP()).z
        >>> z.sum().backward()  # z = 1 / (1 - w), dz/dw = 1 / (1 - w)^2
        >>> w.grad
        tensor([[4.00...]])
    """

    papers = (LABORIEUX_ZENKE,)

    beta: float = 0.05
    n_points: int = 4
    activation: Activation | None = None
    solver: Solver = Anderson()
    tol: float = 1e-6
    max_steps: int = 200
    warn_above: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 < self.beta < math.inf:
            raise InvalidInput(
                f"HolomorphicEP(beta=...) must be positive and finite, got {self.beta}"
            )
        if self.n_points < 1:
            raise InvalidInput(
                f"HolomorphicEP(n_points=...) must be at least 1, got {self.n_points}"
            )

    def run(self, problem: Problem) -> Outcome:
        """Free phase now; the nudged phases when a gradient arrives."""
        with torch.no_grad():
            outcome = iterate(replace(problem, z0=problem.z0.detach()))
        if problem.throw:
            check_outcome(outcome)
        y = problem.f(outcome.z)
        if not y.requires_grad:
            return outcome
        y = y.clone()
        y.register_hook(_Local(self, problem, outcome.z))
        return replace(outcome, z=outcome.z + (y - y.detach()))

    def loss(
        self,
        f: Callable[..., State],
        loss: Callable[..., Tensor],
        z: State,
        x: Any = None,
        *,
        throw: bool = True,
    ) -> Tensor:
        """Losses L(sigma(z)) (B,) whose gradient is the rule's; `backward` leaves it in `.grad`.

        Args:
            f: the law, z -> z or (z, x) -> z.
            loss: sigma(z) -> (B,), holomorphic; its own parameters get their ordinary gradient.
            z: free fixed point of f; gradients do not pass through it.
            x: input of f.
            throw: raise if a nudged phase fails; otherwise the response of that sample is zero,
                so that it teaches nothing.
        """
        z = detach(z)
        error = self.respond(f, loss, z, x, throw=throw).error
        local = inner(error, call(f, z, x=x))
        return loss(_activated(self.activation, z)) + (local - local.detach())

    def respond(
        self,
        f: Callable[..., State],
        loss: Callable[..., Tensor],
        z: State,
        x: Any = None,
        *,
        throw: bool = True,
    ) -> Response:
        """Response of the free fixed point `z` to the loss; arguments as in `loss`."""

        def nudge(z: State) -> State:
            return derivative(loss, _activated(self.activation, z))

        return self._circle(_Nudged(self, f, nudge, x, throw), detach(z))

    def _circle(self, nudged: _Nudged, z: State) -> Response:
        """The N-point formula, with z_(N-t) the conjugate of z_t."""
        if any(leaf.is_complex() for leaf in leaves(z)):
            raise InvalidInput(
                "HolomorphicEP() nudges a real state around a complex circle, and this state is "
                "complex already; give its real and imaginary parts as a tuple"
            )
        N = self.n_points
        if N == 1:
            free = _activated(self.activation, z)
            ahead, settled = nudged.settle(z, self.beta)
            error = tree_map(lambda a, b: (a - b) / self.beta, ahead, free)
            return Response(_only(settled, error), None)
        first = last = tree_map(torch.zeros_like, z)
        settled = torch.ones(batch_size(z), dtype=torch.bool, device=leaves(z)[0].device)
        for t in range(N // 2 + 1):
            turn, share = cmath.exp(2j * math.pi * t / N), 2.0
            if 2 * t in (0, N):
                turn, share = complex(round(turn.real)), 1.0
            a, well = nudged.settle(z, self.beta * turn)
            first = tree_map(_adding(share / N / (self.beta * turn)), first, a)
            last = tree_map(_adding(share / N / self.beta * turn), last, a)
            settled = settled & well
        first, last = _only(settled, first), _only(settled, last)
        return Response(first, None if N == 2 else self._checked(norm(last), norm(first)))

    def _checked(self, last: Tensor, first: Tensor) -> Tensor:
        """Relative aliasing, with a warning where the circle is too wide."""
        aliasing = last / (first + torch.finfo(first.dtype).tiny)
        worst = float(aliasing.max())
        if worst > self.warn_above:
            warnings.warn(
                f"the nudged fixed points are not analytic within beta = {self.beta:g}: the last "
                f"Fourier coefficient is {worst:.2g} of the first; take a smaller beta",
                stacklevel=4,
            )
        return aliasing


@dataclass(frozen=True, eq=False)
class _Nudged:
    """The law f + beta * nudge, to be settled at any complex beta."""

    rule: HolomorphicEP
    f: Callable[..., State]
    nudge: Callable[[State], State]
    x: Any
    throw: bool

    def settle(self, z: State, beta: complex) -> tuple[State, Tensor]:
        """Rates at its fixed point near z, and which samples reached it."""
        bent = isinstance(beta, complex) and beta.imag != 0.0
        strength = beta if bent else beta.real

        def law(z: State, x: Any = None) -> State:
            with Complexified():
                driven = call(self.f, z, x=x)
                return tree_map(lambda u, push: u + strength * push, driven, self.nudge(z))

        rule = self.rule
        try:
            with torch.no_grad():
                found = fixed_point(
                    law, as_complex(z) if bent else z, self.x, solver=rule.solver, tol=rule.tol,
                    max_steps=rule.max_steps, throw=self.throw,
                )  # fmt: skip
        except (NotConverged, Diverged) as error:
            raise type(error)(
                f"the phase nudged by beta = {strength:.3g} failed, which a smaller beta may "
                f"cure: {error}"
            ) from error
        except RuntimeError as error:
            if not bent:
                raise
            raise InvalidInput(
                f"the law or its loss has no complex values ({error}); use holomorphic "
                "functions such as tanh and sigmoid, or n_points=2, which stays real"
            ) from error
        return _activated(rule.activation, found.z), found.status == int(Status.CONVERGED)


@dataclass(frozen=True, eq=False)
class _Local:
    """What takes an incoming dL/dz to the response that stands for its adjoint."""

    rule: HolomorphicEP
    problem: Problem
    z: Tensor

    def __call__(self, v: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise DriftwellError(
                "HolomorphicEP() gives first derivatives only; use gradient=Implicit() for more"
            )
        like = self.z if self.problem.like is None else self.problem.like
        z, sigma = unflatten(self.z, like), self.rule.activation
        push = unflatten(v, like)
        if sigma is not None:
            push = tree_map(lambda p, u: p / slope(sigma, u), push, z)
        # Both the size of the circle and the solver's tolerance are relative to a push of 1.
        size = norm(push).clamp_min(torch.finfo(v.dtype).tiny)
        push = unflatten(flatten(push) / size[:, None], like)
        problem = self.problem
        nudged = _Nudged(self.rule, problem.law, lambda _: push, problem.x, problem.throw)
        return flatten(self.rule._circle(nudged, z).error) * size[:, None]


def _activated(sigma: Activation | None, z: State) -> State:
    if sigma is None:
        return z
    with Complexified():
        return tree_map(sigma, z)


def _only(settled: Tensor, error: State) -> State:
    return where(settled, error, tree_map(torch.zeros_like, error))


def _adding(factor: complex) -> Callable[[Tensor, Tensor], Tensor]:
    """total + Re(factor * a)."""

    def add(total: Tensor, a: Tensor) -> Tensor:
        return total + (factor * a).real if a.is_complex() else total + factor.real * a

    return add
