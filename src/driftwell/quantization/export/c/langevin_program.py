"""What every sampler in integers is, and the one of the Neural Langevin Machine."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, words
from driftwell.quantization.export.c.arithmetic import (
    quantize_multiplier,
    requantize,
    saturate,
    shift_round,
)
from driftwell.quantization.export.c.gaussian import NORMAL_BITS, integer_normals
from driftwell.quantization.export.c.langevin_coupling import Coupling
from driftwell.quantization.export.c.langevin_pixels import RATE_BITS, Decoder, integer_tanh

Factor = tuple[int, int]


@dataclass(frozen=True, eq=False)
class ChainStates:
    """Integer states of chains, in Python as in C.

    Attributes:
        x: int64 (B, n).
        noise: xi_n of the coming step, int64 (B, n) in units of 2^-16.
        ids: chain ids, int64 (B,).
        labels: class index of each, -1 for none, int64 (B,).
        seed: of the noise.
        step: number of the coming step.
    """

    x: Tensor
    noise: Tensor
    ids: Tensor
    labels: Tensor
    seed: int
    step: int


@dataclass(frozen=True, eq=False)
class LangevinProgram(ABC):
    """A Langevin sampler in whole numbers: what `simulate` runs in Python and C runs to the bit.

    Attributes:
        n: entries of the state.
        fraction: the state is in units of 2^-fraction.
        top: rates and residuals enter products as integers -top .. top.
        steps: of a sample.
        classes: labels that can be asked for, 0 for none.
        averaged: Leimkuhler-Matthews (noise (xi_n + xi_{n+1}) / 2) or Euler-Maruyama (xi_n).
        decoder: of pictures, or None.
    """

    n: int
    fraction: int
    top: int
    steps: int
    classes: int
    averaged: bool
    decoder: Decoder | None

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of a step of one chain."""

    @abstractmethod
    def start(self, seed: int, ids: Tensor, labels: Tensor | None = None) -> ChainStates:
        """Chains at step 0; `labels` (B,) int64, or None for the machine's own choice."""

    @abstractmethod
    def step(self, chains: ChainStates) -> ChainStates:
        """One Langevin step."""

    @abstractmethod
    def finish(self, chains: ChainStates) -> Tensor:
        """What a sample is after the last step, int64 (B, n)."""

    def sample(self, seed: int, ids: Tensor, labels: Tensor | None = None) -> Tensor:
        """Finished samples of whole runs, int64 (B, n)."""
        chains = self.start(seed, ids, labels)
        for _ in range(self.steps):
            chains = self.step(chains)
        return self.finish(chains)

    def values(self, x: Tensor) -> Tensor:
        """Integer states as numbers, float64."""
        return x.double() * 2.0**-self.fraction

    def fresh_noise(self, seed: int, ids: Tensor, purpose: Purpose, step: int) -> Tensor:
        """Keyed normals, int64 (B, n) in units of 2^-16."""
        blocks = -(-self.n // 4)
        shape = (len(ids), 4 * blocks)
        w = words(shape, seed=seed, purpose=purpose, chains=ids, step=step)
        four = (w[:, 0::4], w[:, 1::4], w[:, 2::4], w[:, 3::4])
        return integer_normals(four).reshape(shape)[:, : self.n]

    def noise_of_step(self, chains: ChainStates) -> tuple[Tensor, Tensor]:
        """The sum that is kicked with, and xi of the next step."""
        if not self.averaged:
            now = self.fresh_noise(chains.seed, chains.ids, Purpose.DYNAMICS, chains.step)
            return now, now
        later = self.fresh_noise(chains.seed, chains.ids, Purpose.DYNAMICS, chains.step + 1)
        return chains.noise + later, later

    def rates(self, x: Tensor, fraction: int) -> tuple[Tensor, Tensor]:
        """tanh and its slope, int64 in units of 2^-15."""
        phi = integer_tanh(x, fraction)
        return phi, (1 << RATE_BITS) - shift_round(phi * phi, RATE_BITS)

    def on_grid(self, phi: Tensor) -> Tensor:
        """Rates as integers -top .. top."""
        return shift_round(phi * self.top, RATE_BITS)


@final
@dataclass(frozen=True, eq=False)
class RecurrentProgram(LangevinProgram):
    """`NeuralLangevinMachine` in integers.

        q = round(top phi(x)),  e = x - J q - b,  F = phi'(x) * (J^T e) - e
        x <- x + dt F + sqrt(2 T dt) (xi_n + xi_{n+1}) / 2

    Attributes:
        J: (n, n), both ways.
        b: int64 (n,) in units of 2^-fraction.
        dt: step size as multiplier and shift.
        kick: of the noise's sum, from units of 2^-16 to 2^-fraction.
        birth: of start states N(0, 1), likewise.
        labels_at: first label neuron.
        label_value: of the neuron of the class; the others have its negative.
    """

    J: Coupling
    b: Tensor
    dt: Factor
    kick: Factor
    birth: Factor
    labels_at: int
    label_value: int

    @property
    def macs(self) -> int:
        """Two products with J."""
        return 2 * self.n * self.n

    def start(self, seed: int, ids: Tensor, labels: Tensor | None = None) -> ChainStates:
        """x ~ N(0, I), label neurons at their values where a class is asked for."""
        x = requantize(self.fresh_noise(seed, ids, Purpose.INIT, 0), *self.birth)
        chosen = torch.full_like(ids, -1) if labels is None else labels
        code = torch.where(
            torch.arange(self.classes) == chosen[:, None], self.label_value, -self.label_value
        )
        x = torch.where(self._held(chosen), _placed(code, self.labels_at, self.n), x)
        noise = self.fresh_noise(seed, ids, Purpose.DYNAMICS, 0)
        return ChainStates(x, noise, ids, chosen, seed, 0)

    def step(self, chains: ChainStates) -> ChainStates:
        """One step of all neurons that are not held."""
        x = chains.x
        phi, slope = self.rates(x, self.fraction)
        h = self.J.onward(self.on_grid(phi))
        e = saturate(x - h - self.b, 32)
        feedback = self.J.backward(e, self.top)
        force = saturate(shift_round(slope * feedback, RATE_BITS) - e, 32)
        total, noise = self.noise_of_step(chains)
        moved = saturate(x + requantize(force, *self.dt) + requantize(total, *self.kick), 32)
        x = torch.where(self._held(chains.labels), x, moved)
        return ChainStates(x, noise, chains.ids, chains.labels, chains.seed, chains.step + 1)

    def finish(self, chains: ChainStates) -> Tensor:
        """The state itself."""
        return chains.x

    def _held(self, labels: Tensor) -> Tensor:
        """(B, n), True where a label neuron is clamped."""
        i = torch.arange(self.n)
        inside = (i >= self.labels_at) & (i < self.labels_at + self.classes)
        return inside & (labels >= 0)[:, None]


def kick_factor(dt: float, temperature: float, averaged: bool, fraction: int) -> Factor:
    """sqrt(2 T dt), halved for a sum of two normals, from units of 2^-16 to 2^-fraction."""
    amplitude = math.sqrt(2.0 * temperature * dt) * (0.5 if averaged else 1.0)
    return quantize_multiplier(amplitude * 2.0 ** (fraction - NORMAL_BITS))


def fraction_for(bound: float, most: int) -> int:
    """Bits after the point for numbers that stay within `bound`, with two bits to spare.

    Raises:
        InvalidInput: too large a bound for 32 bits.
    """
    fraction = min(most, 29 - math.ceil(math.log2(max(bound, 1e-6))))
    if fraction < 12:
        raise InvalidInput(
            f"states may reach {bound:.3g}, which leaves fewer than 12 of 32 bits after the point: "
            "check the machine's couplings, they are too large to be sampled in integers"
        )
    return fraction


def _placed(part: Tensor, at: int, n: int) -> Tensor:
    return torch.nn.functional.pad(part, (at, n - at - part.shape[1]))
