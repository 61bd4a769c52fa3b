"""The noise-conditional machine in integers: annealed Langevin steps through its noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from driftwell.core.noise import Purpose, words
from driftwell.quantization.export.c.arithmetic import requantize, saturate, shift_round
from driftwell.quantization.export.c.gaussian import NORMAL_BITS
from driftwell.quantization.export.c.langevin_coupling import Coupling, to_grid
from driftwell.quantization.export.c.langevin_pixels import RATE_BITS
from driftwell.quantization.export.c.langevin_program import ChainStates, Factor, LangevinProgram

UNIT = 20
"""Whitened states, residuals, currents and forces are in units of 2^-20."""
SHARE_BITS = 15
"""q = sqrt(lambda / (lambda + sigma^2)) is in units of 2^-15."""
CONTEXT_TOP = 127
"""Of the label neurons and the code of the level."""
ROOM = 62
"""Bits of the numerator that roots are taken of."""


@final
@dataclass(frozen=True, eq=False)
class Level:
    """One noise level's numbers, as they stand in read-only memory.

    Attributes:
        sigma2: sigma^2 in units of 2^-variance_bits.
        dt: step size, from force (2^-20) to state (2^-fraction), as multiplier and shift.
        kick: of the noise's sum, from 2^-16 to 2^-fraction.
        code: the level neurons, 0 .. 127.
    """

    sigma2: int
    dt: Factor
    kick: Factor
    code: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class AnnealedProgram(LangevinProgram):
    """`NoiseConditionalMachine` in integers, from noise to clean data.

        s = 1 / sqrt(lambda + sigma^2),  q = sqrt(lambda) s,  w = s u
        phi = tanh(J_hv (q w) + J_hk k + c),  e = w - q (J_vh phi + J_vk k + b)
        F = s (q J_hv^T (phi' J_vh^T (q e)) - e)
        u <- u + dt F + sqrt(2 dt) (xi_n + xi_{n+1}) / 2,  and at last u + sigma_min^2 F

    Roots and quotients of s and q are taken by whole-number arithmetic when a level begins.

    Attributes:
        J_hv: (hidden, n), both ways.
        J_vh: (n, hidden), both ways.
        J_hk: (hidden, context), of the labels and the level's code.
        J_vk: (n, context).
        c: int64 (hidden,) in units of 2^-20.
        b: int64 (n,), likewise.
        variance: lambda, int64 (n,) in units of 2^-variance_bits.
        variance_bits: an even number.
        birth: sqrt(lambda + sigma_max^2), int64 (n,) in units of 2^-fraction.
        levels: from high to low.
        per_level: steps of each level; the last has the rest.
        jump: sigma_min^2 as a step size.
        quantiles: of a 23-bit number from which on the next class is drawn, (classes - 1,).
    """

    J_hv: Coupling
    J_vh: Coupling
    J_hk: Coupling
    J_vk: Coupling
    c: Tensor
    b: Tensor
    variance: Tensor
    variance_bits: int
    birth: Tensor
    levels: tuple[Level, ...]
    per_level: int
    jump: Factor
    quantiles: tuple[int, ...]

    @property
    def hidden(self) -> int:
        """Hidden neurons."""
        return self.J_hv.rows

    @property
    def scale_bits(self) -> int:
        """s is in units of 2^-scale_bits."""
        return ROOM // 2 - self.variance_bits // 2

    @property
    def macs(self) -> int:
        """Four products with couplings, two with the context."""
        context = self.J_hk.columns * (self.hidden + self.n)
        return 4 * self.n * self.hidden + context // self.per_level

    def start(self, seed: int, ids: Tensor, labels: Tensor | None = None) -> ChainStates:
        """u ~ N(0, lambda + sigma_max^2); labels with the training set's frequencies."""
        unit = self.fresh_noise(seed, ids, Purpose.INIT, 0)
        u = saturate(shift_round(unit * self.birth, NORMAL_BITS), 32)
        chosen = self.draw_labels(seed, ids) if labels is None else labels
        noise = self.fresh_noise(seed, ids, Purpose.DYNAMICS, 0)
        return ChainStates(u, noise, ids, chosen, seed, 0)

    def draw_labels(self, seed: int, ids: Tensor) -> Tensor:
        """Class of each chain, int64 (B,); -1 where there are no classes."""
        if not self.classes:
            return torch.full_like(ids, -1)
        w = words((len(ids), 1), seed=seed, purpose=Purpose.INIT, chains=ids, step=0, leaf=1)
        return ((w >> 9) >= torch.tensor(self.quantiles, dtype=torch.int64)).sum(dim=1)

    def step(self, chains: ChainStates) -> ChainStates:
        """One step at the level of its number."""
        j = min(chains.step // self.per_level, len(self.levels) - 1)
        level = self.levels[j]
        force = self.force(chains.x, chains.labels, j)
        total, noise = self.noise_of_step(chains)
        moved = chains.x + requantize(force, *level.dt) + requantize(total, *level.kick)
        return ChainStates(
            saturate(moved, 32), noise, chains.ids, chains.labels, chains.seed, chains.step + 1
        )

    def finish(self, chains: ChainStates) -> Tensor:
        """u + sigma_min^2 F(u), the posterior mean of the clean datum."""
        force = self.force(chains.x, chains.labels, len(self.levels) - 1)
        return saturate(chains.x + requantize(force, *self.jump), 32)

    def force(self, u: Tensor, labels: Tensor, j: int) -> Tensor:
        """F at level j, int64 (B, n) in units of 2^-20."""
        s, q = self._roots[j]
        context = self._context(labels, j)
        current = saturate(self.c + self.J_hk.onward(context), 32)
        base = saturate(self.b + self.J_vk.onward(context), 32)
        w = saturate(shift_round(u * s, self.fraction + self.scale_bits - UNIT), 32)
        h, shift = to_grid(shift_round(w * q, SHARE_BITS), self.top)
        phi, slope = self.rates(saturate(current + self.J_hv.onward(h, shift), 32), UNIT)
        p = saturate(base + self.J_vh.onward(self.on_grid(phi)), 32)
        e = saturate(w - shift_round(p * q, SHARE_BITS), 32)
        error = self.J_vh.backward(shift_round(e * q, SHARE_BITS), self.top)
        hidden_error = shift_round(error * slope, RATE_BITS)
        feedback = self.J_hv.backward(hidden_error, self.top)
        net = saturate(shift_round(feedback * q, SHARE_BITS) - e, 32)
        return saturate(shift_round(net * s, self.scale_bits), 32)

    def _context(self, labels: Tensor, j: int) -> Tensor:
        """Label neurons and the level's code, int64 (B, context)."""
        onehot = torch.where(torch.arange(self.classes) == labels[:, None], CONTEXT_TOP, 0)
        code = torch.tensor(self.levels[j].code, dtype=torch.int64)
        return torch.cat([onehot, code.expand(len(labels), -1)], dim=1)

    @cached_property
    def _roots(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """s and q of each level, int64 (n,) each."""
        found = []
        for level in self.levels:
            totals = [int(v) + level.sigma2 for v in self.variance]
            s = [math.isqrt((1 << ROOM) // total) for total in totals]
            q = [
                math.isqrt((int(v) << 2 * SHARE_BITS) // total)
                for v, total in zip(self.variance, totals, strict=True)
            ]
            found.append((torch.tensor(s), torch.tensor(q)))
        return tuple(found)
