"""The quantized noise-conditional Langevin machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State
from driftwell.dynamics import Energy
from driftwell.models.langevin.machine import NLM
from driftwell.models.langevin.noise_conditional import (
    SONG_ERMON,
    Condition,
    LevelLaw,
    NoiseConditionalMachine,
)
from driftwell.quantization.formats import Packed
from driftwell.quantization.langevin.shared_couplings import Integers, SharedCouplings

COUPLINGS = ("J_hv", "J_vh", "J_hk", "J_vk")


@final
class QuantizedNoiseConditionalMachine(Energy):
    """Noise-conditional Langevin machine with couplings of 1 to 8 bits, after Yu, Huang and
    Huang, *Neural Langevin Machine*, 2025, arXiv:2506.23546, and Song and Ermon, 2019,
    arXiv:1907.05600.

    Each of J_hv and J_vh is one matrix of integers with a scale a row, used in the network and,
    transposed, in the force; J_hk and J_vk of the context neurons likewise, used once a level.
    The law is that of the float machine with the decoded couplings.

    Args:
        like: the float machine, for everything that is not a coupling.
        couplings: codes of J_hv, J_vh, J_hk and J_vk.

    Raises:
        InvalidInput: a coupling is missing, of another shape, or on levels that two products
            cannot share.

    Example:
        >>> import torch
        >>> from driftwell.quantization.formats import Uniform
        >>> machine = NoiseConditionalMachine(torch.ones(3), hidden=4)
        >>> codes = {n: Uniform(6).encode(getattr(machine, n)).pack() for n in COUPLINGS}
        >>> small = QuantizedNoiseConditionalMachine(machine, codes)
        >>> small.energy(torch.zeros(2, 3), small.condition(2, sigma=1.0)).shape
        torch.Size([2])
    """

    papers = (NLM, SONG_ERMON)
    variance: Tensor
    frequency: Tensor
    levels: Tensor

    def __init__(self, like: NoiseConditionalMachine, couplings: Mapping[str, Packed]) -> None:
        super().__init__()
        self.n, self.hidden, self.labels = like.n, like.hidden, like.labels
        self.sigma_min, self.sigma_max = like.sigma_min, like.sigma_max
        for name in ("variance", "levels", "frequency"):
            self.register_buffer(name, getattr(like, name).detach().clone())
        self.couplings = nn.ModuleDict()
        for name in COUPLINGS:
            expected = tuple(getattr(like, name).shape)
            if name not in couplings or couplings[name].shape != expected:
                found = couplings[name].shape if name in couplings else "nothing"
                raise InvalidInput(f"couplings {name} have shape {expected}, got {found}")
            self.couplings[name] = SharedCouplings(couplings[name])
        self.b = nn.Parameter(like.b.detach().clone(), requires_grad=False)
        self.c = nn.Parameter(like.c.detach().clone(), requires_grad=False)
        # in a tuple, so that it is no part of this module
        self._decoded: tuple[tuple[Integers, ...], NoiseConditionalMachine] | None = None

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return (
            f"visible={self.n}, hidden={self.hidden}, labels={self.labels}, "
            f"sigma={self.sigma_min:g}..{self.sigma_max:g}"
        )

    def integers(self, name: str) -> Integers:
        """Q and r of one of `COUPLINGS`."""
        held = self.couplings[name]
        if not isinstance(held, SharedCouplings):
            raise InvalidInput(f"{name} is not one of the couplings {', '.join(COUPLINGS)}")
        return held.integers

    def codes(self, name: str) -> Packed:
        """Packed codes of one of `COUPLINGS`."""
        held = self.couplings[name]
        if not isinstance(held, SharedCouplings):
            raise InvalidInput(f"{name} is not one of the couplings {', '.join(COUPLINGS)}")
        return held.packed

    def decoded(self) -> NoiseConditionalMachine:
        """The float machine of the decoded couplings."""
        now = tuple(self.integers(name) for name in COUPLINGS)
        if self._decoded is None or any(
            a is not b for a, b in zip(self._decoded[0], now, strict=True)
        ):
            self._decoded = (now, self._decode(now))
        return self._decoded[1]

    def _decode(self, integers: tuple[Integers, ...]) -> NoiseConditionalMachine:
        made = NoiseConditionalMachine(
            self.variance, self.hidden, self.labels, self.sigma_min, self.sigma_max
        )
        made.levels, made.frequency = self.levels, self.frequency
        for name, part in zip(COUPLINGS, integers, strict=True):
            setattr(made, name, nn.Parameter(part.values, requires_grad=False))
        made.b, made.c = self.b, self.c
        return made.requires_grad_(False)

    def condition(self, count: int, sigma: float, labels: Tensor | None = None) -> Condition:
        """Input x = (sigma (count,), one-hot labels), as of the float machine."""
        return self.decoded().condition(count, sigma, labels)

    def draw_labels(self, count: int, seed: int, first_chain: int = 0) -> Tensor | None:
        """Keyed class indices with the training set's frequencies, int64 (count,)."""
        return self.decoded().draw_labels(count, seed, first_chain)

    def labels_at(self, r: Tensor) -> Tensor:
        """Class indices at quantiles r in (0, 1) of the training set's frequencies, int64."""
        return self.decoded().labels_at(r)

    def at(self, sigma: float) -> LevelLaw:
        """The law of one noise level with silent label neurons."""
        return self.decoded().at(sigma)

    def initial_state(self, chains: int, seed: int, first_chain: int = 0) -> Tensor:
        """Keyed start states, those of the float machine."""
        return self.decoded().initial_state(chains, seed, first_chain)

    def energy(self, z: State, x: Any = None) -> Tensor:
        """E(u | sigma, label), (B,); differentiable in the state."""
        return self.decoded().energy(z, x)

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F (B, K) of the decoded couplings, analytic and detached."""
        return self.decoded().energy_and_force(z, x)

    def gradient(self, z: State, x: Any = None) -> Tensor:
        """dE/du of the decoded couplings, (B, K)."""
        return self.decoded().gradient(z, x)

    def posterior_mean(self, u: Tensor, x: Condition) -> Tensor:
        """Tweedie's estimate u + sigma^2 F(u) of the clean datum, (B, K)."""
        return self.decoded().posterior_mean(u, x)
