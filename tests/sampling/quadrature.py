"""Exact moments of the two-neuron machine of the card, by quadrature on a fine grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import driftwell as dw

COUPLINGS = [[0.0, 2.2], [-1.4, 0.0]]
BIAS = [0.3, -0.2]
TEMPERATURE = 0.5


@dataclass(frozen=True)
class Exact:
    """Moments of exp(-E/T) / Z."""

    mean: Tensor
    second: Tensor
    energy: float
    energy_sd: float
    log_z: float


def two_neurons(dtype: torch.dtype = torch.float32) -> dw.NeuralLangevinMachine:
    machine = dw.NeuralLangevinMachine(2, temperature=TEMPERATURE, gain=0.0, dtype=dtype)
    with torch.no_grad():
        machine.J.copy_(torch.tensor(COUPLINGS))
        machine.b.copy_(torch.tensor(BIAS))
    return machine


def exact(law: dw.Energy, extent: float = 9.0, points: int = 2401) -> Exact:
    axis = torch.linspace(-extent, extent, points, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        energy = law.energy(x)
    weight = torch.exp(-energy / law.temperature)
    cell = float(axis[1] - axis[0]) ** 2
    total = weight.sum()
    p = weight / total
    mean_energy = float((p * energy).sum())
    return Exact(
        mean=p @ x,
        second=p @ x**2,
        energy=mean_energy,
        energy_sd=float((p * (energy - mean_energy) ** 2).sum().sqrt()),
        log_z=float(torch.log(total * cell)),
    )
