"""The three verbs on a CUDA device: the same answers as on the processor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import driftwell as dw
from driftwell.dynamics import spectral_radius
from driftwell.dynamics.laws import FunctionField
from driftwell.fixed_points import Anderson, FixedBudget, Picard, Unrolled
from driftwell.integration import EulerMaruyama
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.sampling import BAOAB, MALA, Langevin, UnadjustedLangevin

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICES = ("cpu", "cuda")
D = 32


def gaussian(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(here: Tensor, there: Tensor, atol: float) -> None:
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=atol)


def layer(device: str, dtype: torch.dtype = torch.float64):
    W = (0.9 * gaussian(D, D, seed=0) / D**0.5).to(device, dtype).requires_grad_(True)
    x = gaussian(6, D, seed=1).to(device, dtype).requires_grad_(True)
    return (lambda z, x: torch.tanh(z @ W.T + x)), W, x


@pytest.mark.parametrize("solver", [Picard(), Picard(0.7), Anderson(), Anderson(3, 0.8)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"compact": True}, {"loop": FixedBudget()}], ids=str)
def test_fixed_points(solver, settings):
    found = []
    for device in DEVICES:
        f, _, x = layer(device)
        how = dict(solver=solver, tol=1e-9, max_steps=300, throw=False) | settings
        found.append(dw.fixed_point(f, torch.zeros_like(x), x, **how))
    close(found[0].z.detach(), found[1].z.detach(), 1e-8)
    assert int((found[0].steps - found[1].steps.cpu()).abs().max()) <= 1
    assert torch.equal(found[0].status, found[1].status.cpu())


@pytest.mark.parametrize("gradient", [dw.Implicit(tol=1e-10), Unrolled()], ids=str)
def test_gradients_through_fixed_points(gradient):
    slopes = []
    for device in DEVICES:
        f, W, x = layer(device)
        z = dw.fixed_point(f, torch.zeros_like(x), x, gradient=gradient, tol=1e-11).z
        slopes.append(torch.autograd.grad(z.square().sum(), (W, x)))
    for here, there in zip(*slopes, strict=True):
        close(here, there, 1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision(dtype):
    f, _, x = layer("cuda", dtype)
    found = dw.fixed_point(f, torch.zeros_like(x), x)
    exact, _, y = layer("cuda")
    wanted = dw.fixed_point(exact, torch.zeros_like(y), y, tol=1e-9).z
    assert float(((found.z - wanted).norm() / wanted.norm()).detach()) < max(
        8 * torch.finfo(dtype).eps, 1e-3
    )


@pytest.mark.parametrize(
    "sampler",
    [Langevin(0.05), UnadjustedLangevin(0.05), MALA(0.05), BAOAB(0.05)],
    ids=lambda s: type(s).__name__,
)
def test_chains_of_the_same_noise(sampler):
    ends = []
    for device in DEVICES:
        centre = gaussian(D, seed=3).to(device)
        chains = dw.sample(
            lambda z, c=centre: 0.5 * (z - c).square().sum(1) + 0.1 * z.pow(4).sum(1),
            torch.zeros(5, D, dtype=torch.float64, device=device),
            steps=20,
            sampler=sampler,
            seed=7,
        )
        ends.append(chains.z)
    close(ends[0], ends[1], 1e-9)


def test_the_neural_langevin_machine():
    ends = []
    for device in DEVICES:
        machine = NeuralLangevinMachine(D, gain=0.8, seed=0).to(device)
        start = machine.initial_state(4, 0).to(device)
        ends.append(dw.sample(machine, start, steps=10, sampler=Langevin(0.05), seed=1).z)
    close(ends[0].detach(), ends[1].detach(), 1e-4)


@pytest.mark.parametrize(
    ("diffusion", "integrator", "noise"),
    [
        (None, dw.Heun(), None),
        (lambda t, z: torch.full_like(z, 0.3), EulerMaruyama(), dw.Brownian(3, 0.1)),
    ],
    ids=["ode", "sde"],
)
def test_integration(diffusion, integrator, noise):
    field = FunctionField(lambda t, z: -z, diffusion)
    ends = []
    for device in DEVICES:
        start = gaussian(4, D, seed=5).to(device)
        step = dw.ConstantStep(0.1)
        how = dict(integrator=integrator, step=step, noise=noise)
        ends.append(dw.integrate(field, start, [0.0, 1.0], **how).z)
    close(ends[0], ends[1], 1e-10)


def test_spectral_radius():
    radii = []
    for device in DEVICES:
        f, _, x = layer(device)
        radii.append(spectral_radius(f, torch.zeros_like(x), x.detach()).detach())
    close(radii[0], radii[1], 1e-8)
