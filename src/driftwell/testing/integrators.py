"""Conformance of integrators."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields, is_dataclass

import torch
from torch import Tensor

from driftwell.core.state import leaves
from driftwell.dynamics.laws import FunctionField
from driftwell.integration import Brownian, ConstantStep, integrate
from driftwell.integration.integrators.integrator import Integrator
from driftwell.testing.conformance import require_that


def check_integrator(integrator: Integrator) -> None:
    """Contract of an integrator: the orders it declares, steps per sample, and no step for dt = 0.

    ODE integrators: observed order on z' = sin(2 z + 3 t) against a fine solution, the error
    estimate's order, the returned slope. SDE integrators: observed strong order on a geometric
    Brownian motion with a known solution in the declared interpretation, along the same path.

    Raises:
        ConformanceError: the sentence says which part of the contract is broken.

    Example:
        >>> from driftwell.integration import Heun
        >>> check_integrator(Heun())
    """
    name = type(integrator).__name__
    _check_value(integrator, name)
    _check_single_step(integrator, name)
    if integrator.interpretation is None:
        require_that(
            integrator.strong_order is None, f"{name} has a strong order and no interpretation"
        )
        _check_order(integrator, name)
        _check_error(integrator, name)
    else:
        require_that(
            integrator.strong_order is not None, f"{name} is for SDEs without a strong order"
        )
        _check_strong_order(integrator, name)


class _Wave:
    """z' = sin(2 z + 3 t), smooth and nonlinear, on flat states; noise z / 2."""

    def drift(self, t: Tensor, z: Tensor) -> Tensor:
        return torch.sin(2.0 * z + 3.0 * t.to(z.dtype)[:, None])

    def diffusion(self, t: Tensor, z: Tensor) -> Tensor:
        return 0.5 * z


def _check_value(integrator: Integrator, name: str) -> None:
    require_that(isinstance(integrator, Integrator), f"{name} is not a subclass of Integrator")
    if not is_dataclass(integrator):
        return
    hash(integrator)
    for setting in fields(integrator):
        try:
            setattr(integrator, setting.name, getattr(integrator, setting.name))
        except FrozenInstanceError:
            continue
        require_that(False, f"{name} is a dataclass that is not frozen: {setting.name} can be set")


def _check_single_step(integrator: Integrator, name: str) -> None:
    law = _Wave()
    t = torch.tensor([0.0, 0.3, 0.6], dtype=torch.float64)
    z = torch.tensor([[1.0, 2.0], [0.5, 1.5], [2.0, 0.1]], dtype=torch.float64)
    dt = torch.tensor([0.1, 0.0, 0.05], dtype=torch.float64)
    noisy = integrator.interpretation is not None
    dw = 0.3 * dt[:, None].sqrt().expand_as(z) if noisy else None
    before = z.clone()
    step = integrator.step(law, t, z, dt, dw)
    require_that(torch.equal(z, before), f"{name}.step changed its argument in place")
    require_that(torch.equal(step.z[1], z[1]), f"{name}.step moved a sample whose dt is 0")
    alone = integrator.step(law, t[2:], z[2:], dt[2:], None if dw is None else dw[2:])
    gap = float((alone.z - step.z[2:]).abs().max())
    require_that(gap <= 1e-12, f"{name}.step mixes samples: one alone differs by {gap:.3g}")
    if step.slope is not None:
        gap = float((step.slope - law.drift(t + dt, step.z)).abs().max())
        require_that(
            gap <= 1e-10, f"{name} returned a slope that misses the drift there by {gap:.3g}"
        )


def _march(integrator: Integrator, steps: int) -> Tensor:
    z = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    t = torch.zeros(2, dtype=torch.float64)
    dt = torch.full_like(t, 1.0 / steps)
    for _ in range(steps):
        z, t = integrator.step(_Wave(), t, z, dt).z, t + dt
    return z


def _check_order(integrator: Integrator, name: str) -> None:
    a, b, c = (_march(integrator, steps) for steps in (32, 64, 128))
    observed = math.log2(float((a - b).norm() / (b - c).norm()))
    require_that(
        abs(observed - integrator.order) <= 0.25,
        f"{name} declares order {integrator.order} and shows {observed:.2f}",
    )
    reference = _reference()
    gap = float((c - reference).norm() / reference.norm())
    require_that(gap <= 0.05, f"{name} converges to something else: off by {gap:.3g} (relative)")


def _reference() -> Tensor:
    """Solution at t = 1 by the classical fourth-order rule with 2000 steps, written out."""
    law, z, t = _Wave(), torch.tensor([[0.5], [2.0]], dtype=torch.float64), torch.zeros(2)
    h, t = 1.0 / 2000, t.double()
    for _ in range(2000):
        k1 = law.drift(t, z)
        k2 = law.drift(t + h / 2, z + h / 2 * k1)
        k3 = law.drift(t + h / 2, z + h / 2 * k2)
        k4 = law.drift(t + h, z + h * k3)
        z, t = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), t + h
    return z


def _check_error(integrator: Integrator, name: str) -> None:
    z = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    t = torch.full((2,), 0.1, dtype=torch.float64)
    errors = [integrator.step(_Wave(), t, z, torch.full_like(t, h)).error for h in (0.02, 0.01)]
    if integrator.error_order is None:
        require_that(
            errors[0] is None, f"{name} returns an error estimate and declares no error_order"
        )
        return
    if errors[0] is None or errors[1] is None:
        require_that(
            False, f"{name} declares error_order {integrator.error_order} and returns no error"
        )
        return
    observed = math.log2(float(errors[0].norm() / errors[1].norm())) - 1.0
    require_that(
        abs(observed - integrator.error_order) <= 0.6,
        f"{name} declares error_order {integrator.error_order} and shows {observed:.2f}",
    )


def _check_strong_order(integrator: Integrator, name: str) -> None:
    """dz = z / 4 dt + z / 2 dW with |z(1) - exact| averaged over 400 paths at two step sizes."""
    field = FunctionField(lambda t, z: 0.25 * z, lambda t, z: 0.5 * z)
    noise = Brownian(seed=5, resolution=2.0**-10)
    z0 = torch.ones(400, 1, dtype=torch.float64)
    w = noise.path([(1,)], 400, dtype=torch.float64).increment(0.0, 1.0)
    ito = integrator.interpretation == "ito"
    exact = torch.exp((0.25 - (0.125 if ito else 0.0)) + 0.5 * w)
    levels = (5, 6, 7, 8, 9)
    errors = []
    for level in levels:
        found = integrate(
            field, z0, [0.0, 1.0], integrator=integrator, step=ConstantStep(2.0**-level),
            noise=noise,
        ).z  # fmt: skip
        errors.append(float((leaves(found)[0] - exact).abs().mean()))
    observed = math.log2(errors[0] / errors[-1]) / (levels[-1] - levels[0])
    declared = integrator.strong_order or 0.0
    require_that(
        abs(observed - declared) <= 0.2,
        f"{name} declares strong order {declared} ({integrator.interpretation}) and shows "
        f"{observed:.2f}",
    )
