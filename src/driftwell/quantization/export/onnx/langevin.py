"""One Langevin step of a quantized machine as a module that a graph can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from driftwell.data import Transform
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.quantization.formats import Grid, Packed, Quantized
from driftwell.quantization.langevin import (
    QuantizedLangevinMachine,
    QuantizedNoiseConditionalMachine,
)
from driftwell.quantization.langevin.noise_conditional import COUPLINGS
from driftwell.quantization.langevin.shared_couplings import SharedCouplings
from driftwell.quantization.modules import PackedWeight, QuantizedParameter


@final
class LangevinStep(nn.Module):
    """One step of a chain, and the picture its state stands for.

        e = x - J phi(x) - b,   F = phi'(x) * (J^T e) - e
        x <- x + dt F + sqrt(2 T dt) xi

    Args:
        machine: the quantized machine.
        transform: between images and visible states; None: the states themselves are shown.
        visible: neurons that are seen; None: all.

    Example:
        >>> import driftwell as dw
        >>> from driftwell.quantization.formats import Uniform
        >>> machine = dw.NeuralLangevinMachine(8, seed=0)
        >>> small = QuantizedLangevinMachine(Uniform(4, symmetric=True).encode(machine.J).pack(),
        ...                                  machine.b)
        >>> x, shown = LangevinStep(small)(torch.ones(2, 8), torch.zeros(2, 8), torch.ones(2))
        >>> torch.allclose(x, 1 + small.energy_and_force(torch.ones(2, 8))[1], atol=1e-6)
        True
    """

    J: Tensor

    def __init__(
        self, machine: QuantizedLangevinMachine, transform: Transform | None = None,
        visible: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.temperature, self.transform = float(machine.temperature), transform
        self.visible = machine.n if visible is None else visible
        self.b = nn.Parameter(machine.b.detach().clone(), requires_grad=False)
        hold(self, "J", machine.couplings)

    def forward(self, x: Tensor, noise: Tensor, step_size: Tensor) -> tuple[Tensor, Tensor]:
        """The next state (B, N), and its picture (B, visible) in [0, 1].

        Args:
            x: (B, N).
            noise: xi ~ N(0, I), (B, N).
            step_size: dt of each chain, (B,).
        """
        dt = step_size[:, None]
        phi = torch.tanh(x)
        e = x - torch.addmm(self.b, phi, self.J.T)
        force = (1.0 - phi * phi) * (e @ self.J) - e
        x = x + dt * force + torch.sqrt(2.0 * self.temperature * dt) * noise
        return x, _shown(x[:, : self.visible], self.transform)


@final
class AnnealedStep(nn.Module):
    """One step of a chain of a noise-conditional machine, and what its state is a noisy form of.

        u <- u + dt F(u | sigma, label) + sqrt(2 dt) xi,    clean = u + sigma^2 F(u | sigma, label)

    An annealed chain takes dt = level_step sigma^2 at each level; `clean` of the last state at
    the lowest level ends it.

    Args:
        machine: the quantized machine.
        transform: between images and states; None: the states themselves are shown.
    """

    def __init__(
        self, machine: QuantizedNoiseConditionalMachine, transform: Transform | None = None
    ) -> None:
        super().__init__()
        like = machine.decoded()
        self.law = NoiseConditionalMachine(
            like.variance, like.hidden, like.labels, like.sigma_min, like.sigma_max
        )
        self.law.load_state_dict(like.state_dict(), strict=False)
        self.law.requires_grad_(False)
        self.transform = transform
        for name in COUPLINGS:
            held = machine.couplings[name]
            if isinstance(held, SharedCouplings):
                hold(self.law, name, held)

    def forward(
        self, x: Tensor, noise: Tensor, step_size: Tensor, sigma: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next state (B, K), and the picture of `clean` in [0, 1].

        Args:
            x: u, (B, K).
            noise: xi ~ N(0, I), (B, K).
            step_size: dt of each chain, (B,).
            sigma: noise level of each chain, (B,).
            labels: one-hot, (B, labels), zeros for none.
        """
        dt = step_size[:, None]
        force = -self.law.gradient(x, (sigma, labels))
        clean = x + sigma[:, None] ** 2 * force
        return x + dt * force + torch.sqrt(2.0 * dt) * noise, _shown(clean, self.transform)


def hold(module: nn.Module, name: str, couplings: SharedCouplings) -> None:
    """Put couplings into a module as a packed parameter `name`, a zero diagonal included."""
    if name in module._parameters:
        del module._parameters[name]
    values = couplings.decode().detach().clone()
    module.register_parameter(name, nn.Parameter(values, requires_grad=False))
    QuantizedParameter.replace(module, name, PackedWeight(_exact(couplings)))


def _exact(couplings: SharedCouplings) -> Packed:
    """Codes whose values are the machine's own J."""
    packed = couplings.packed
    if not couplings.zero_diagonal:
        return packed
    codes, zero = packed.unpack().codes.clone(), couplings.zero[:, 0]
    if bool((zero == zero.round()).all()):
        codes.diagonal().copy_(zero.to(torch.uint8).expand(len(codes)))
        return replace(packed.unpack(), codes=codes).pack()
    # levels around a half have no zero: their integers, which are odd, do
    held = couplings.integers
    top = int(held.Q.abs().max())
    bits = next(b for b in range(2, 9) if top < 1 << (b - 1))
    levels = torch.arange(1 << bits, dtype=held.scale.dtype, device=held.scale.device)
    middle = torch.full_like(held.scale[:, None], float(1 << (bits - 1)))
    grid = Grid(levels, held.scale[:, None], middle, packed.columns, bits)
    codes = (held.Q.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    return Quantized(codes, grid, packed.shape, packed.dtype).pack()


def _shown(x: Tensor, transform: Transform | None) -> Tensor:
    return x.clone() if transform is None else transform.inverse(x)
