"""A Langevin machine whose noise level and label are clamped neurons, with slaved hidden ones."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.core.papers import Paper
from driftwell.core.state import State, batch_size
from driftwell.dynamics import Energy
from driftwell.models.langevin.machine import NLM

SONG_ERMON = Paper(
    key="song2019generative",
    title="Generative modeling by estimating gradients of the data distribution",
    authors="Song, Yang and Ermon, Stefano",
    year=2019,
    arxiv="1907.05600",
    venue="Advances in Neural Information Processing Systems 32",
)

LEVEL_NEURONS = 8
START_FEEDBACK = 0.02
START_CONTEXT = 0.3

Condition: TypeAlias = tuple[Tensor, Tensor]


@final
class NoiseConditionalMachine(Energy):
    """Noise-conditional Langevin machine: the residual energy of Yu, Huang and Huang, *Neural
    Langevin Machine*, 2025, arXiv:2506.23546, with clamped neurons for the noise level of Song
    and Ermon, *Generative modeling by estimating gradients of the data distribution*, 2019,
    arXiv:1907.05600.

    Coordinates u of the data have independent axes of variance lambda (principal components).
    Visible neurons hold x = u / sqrt(lambda); the noise level sigma is a temperature of each; the
    context neurons k hold the label and a code of sigma; hidden neurons follow without delay
    (temperature zero, so that their residual vanishes):

        T = 1 + sigma^2 / lambda
        h = J_hv (x / T) + J_hk k + c
        e = x - J_vh phi(h) - J_vk k - b
        E(u | sigma, label) = 1/2 sum_k e_k^2 / T_k,   phi = tanh

    With J_vh = J_vk = b = 0 the law is exactly the Gaussian of the data's covariance plus noise,
    so learning starts from there. The law at level sigma models the data plus noise
    N(0, sigma^2), and u + sigma^2 F(u) is the posterior mean of the clean datum (Tweedie).

    Args:
        variance: lambda of each coordinate, (K,).
        hidden: number of hidden neurons.
        labels: number of label neurons, 0 for none.
        sigma_min: lowest noise level, in units of u.
        sigma_max: highest.
        seed: of the keyed start couplings.
        detectors: start of J_hv (hidden, K) and of c (hidden,); None: random and zero.

    Raises:
        InvalidInput: a negative variance, no hidden neurons, levels that are not
            0 < min < max, detectors of another shape.

    Example:
        >>> machine = NoiseConditionalMachine(torch.ones(3), hidden=4)
        >>> x = machine.condition(2, sigma=1.0)
        >>> machine.energy(torch.zeros(2, 3), x).shape
        torch.Size([2])
    """

    papers = (NLM, SONG_ERMON)
    variance: Tensor
    frequency: Tensor

    def __init__(
        self,
        variance: Tensor,
        hidden: int,
        labels: int = 0,
        sigma_min: float = 0.2,
        sigma_max: float = 4.0,
        seed: int = 0,
        detectors: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if variance.ndim != 1 or not bool((variance >= 0).all()):
            raise InvalidInput("variance must be one number >= 0 for each coordinate, shape (K,)")
        if hidden < 1 or labels < 0:
            raise InvalidInput(f"hidden >= 1 and labels >= 0 are needed, got {hidden}, {labels}")
        if detectors is not None and detectors[0].shape != (hidden, len(variance)):
            raise InvalidInput(
                f"detectors must be (hidden, K) = ({hidden}, {len(variance)}), "
                f"got {tuple(detectors[0].shape)}"
            )
        if not 0.0 < sigma_min < sigma_max < float("inf"):
            raise InvalidInput(f"levels need 0 < min < max, got {sigma_min} and {sigma_max}")
        self.n, self.hidden, self.labels = len(variance), hidden, labels
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.register_buffer("variance", variance.detach().clone())
        levels = torch.tensor([sigma_min, sigma_max], dtype=torch.float64)
        self.register_buffer("levels", levels)
        self.register_buffer("frequency", torch.full_like(variance[:1], 1.0).repeat(labels))
        K, H, C = self.n, hidden, labels + LEVEL_NEURONS
        J_hv = self._start(0, (H, K), 1 / math.sqrt(K), seed)
        c = torch.zeros(H, dtype=variance.dtype)
        if detectors is not None:
            J_hv, c = (start.detach().clone() for start in detectors)
        self.J_hv = nn.Parameter(J_hv)
        self.J_hk = nn.Parameter(self._start(1, (H, C), START_CONTEXT, seed))
        self.c = nn.Parameter(c)
        self.J_vh = nn.Parameter(self._start(2, (K, H), START_FEEDBACK / math.sqrt(H), seed))
        self.J_vk = nn.Parameter(torch.zeros(K, C, dtype=variance.dtype))
        self.b = nn.Parameter(torch.zeros(K, dtype=variance.dtype))

    def _start(self, leaf: int, shape: tuple[int, int], spread: float, seed: int) -> Tensor:
        unit = normal(
            shape, seed=seed, purpose=Purpose.PARAMETERS, chains=shape[0], step=0, leaf=leaf,
            dtype=self.variance.dtype,
        )  # fmt: skip
        return spread * unit

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return (
            f"visible={self.n}, hidden={self.hidden}, labels={self.labels}, "
            f"sigma={self.sigma_min:g}..{self.sigma_max:g}"
        )

    def condition(self, count: int, sigma: float, labels: Tensor | None = None) -> Condition:
        """Input x = (sigma (count,), one-hot labels (count, labels)) of `count` samples.

        Without `labels`, or where a class index is negative, the label neurons are silent: the
        law is then that of all classes together.
        """
        like = self.variance
        level = torch.full((count,), float(sigma), dtype=like.dtype, device=like.device)
        onehot = like.new_zeros(count, self.labels)
        if self.labels and labels is not None:
            known = labels.to(like.device) >= 0
            onehot[known, labels.to(like.device)[known]] = 1.0
        return level, onehot

    def draw_labels(self, count: int, seed: int, first_chain: int = 0) -> Tensor | None:
        """Keyed class indices with the training set's frequencies, int64 (count,)."""
        if not self.labels:
            return None
        ids = torch.arange(first_chain, first_chain + count, device=self.frequency.device)
        r = uniform((count, 1), seed=seed, purpose=Purpose.INIT, chains=ids, step=0, leaf=1)
        return self.labels_at(r[:, 0])

    def labels_at(self, r: Tensor) -> Tensor:
        """Class indices at quantiles r in (0, 1) of the training set's frequencies, int64."""
        edges = self.frequency.cumsum(0) / self.frequency.sum()
        return torch.searchsorted(edges[:-1].contiguous(), r.to(edges)).to(torch.int64)

    def at(self, sigma: float) -> LevelLaw:
        """The law of one noise level with silent label neurons, as an energy of its own."""
        return LevelLaw(self, sigma)

    def initial_state(self, chains: int, seed: int, first_chain: int = 0) -> Tensor:
        """Keyed start states u ~ N(0, lambda + sigma_max^2), (chains, K)."""
        ids = torch.arange(first_chain, first_chain + chains, device=self.variance.device)
        unit = normal(
            (chains, self.n), seed=seed, purpose=Purpose.INIT, chains=ids, step=0,
            dtype=self.variance.dtype,
        )  # fmt: skip
        return unit * (self.variance + self.sigma_max**2).sqrt()

    def energy(self, z: State, x: Any = None) -> Tensor:
        """E = 1/2 sum e^2 / T, (B,); differentiable in state and parameters."""
        e, _, _, _ = self._residual(*self._inputs(z, x))
        return 0.5 * (e * e).sum(dim=1)

    def gradient(self, z: State, x: Any = None) -> Tensor:
        """dE/du, (B, K); differentiable in the parameters.

        With r = e / T the residual of the visible neurons per temperature,
        dE/du = (r - J_hv^T (phi'(h) * J_vh^T r) / T) / sqrt(lambda).
        """
        u, sigma, k = self._inputs(z, x)
        e, phi, q, scale = self._residual(u, sigma, k)
        feedback = (((q * e) @ self.J_vh) * (1.0 - phi * phi)) @ self.J_hv
        return (e - q * feedback) * scale

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F = -dE/du (B, K), analytic and detached."""
        u, sigma, k = self._inputs(z, x)
        with torch.no_grad():
            e, phi, q, scale = self._residual(u, sigma, k)
            feedback = (((q * e) @ self.J_vh) * (1.0 - phi * phi)) @ self.J_hv
            return 0.5 * (e * e).sum(dim=1), (q * feedback - e) * scale

    def posterior_mean(self, u: Tensor, x: Condition) -> Tensor:
        """Tweedie's estimate u + sigma^2 F(u) of the clean datum, (B, K)."""
        with torch.no_grad():
            return u - x[0][:, None] ** 2 * self.gradient(u, x)

    def couplings(self) -> Tensor:
        """All couplings among visible and hidden neurons, (K + H, K + H), row = receiver."""
        K, H = self.n, self.hidden
        J = self.b.new_zeros(K + H, K + H)
        J[:K, K:], J[K:, :K] = self.J_vh.detach(), self.J_hv.detach()
        return J

    def _residual(
        self, u: Tensor, sigma: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """e / sqrt(T), phi(h), q = 1 / sqrt(T), and 1 / sqrt(lambda + sigma^2).

        Written with u / sqrt(lambda + sigma^2) = x / sqrt(T), which stays finite at lambda = 0.
        """
        total = self.variance + sigma[:, None] ** 2
        scale, q = total.rsqrt(), (self.variance / total).sqrt()
        w = u * scale
        context = torch.cat([k, self._level_code(sigma)], dim=1)
        phi = torch.tanh((q * w) @ self.J_hv.T + torch.addmm(self.c, context, self.J_hk.T))
        e = w - q * (phi @ self.J_vh.T + torch.addmm(self.b, context, self.J_vk.T))
        return e, phi, q, scale

    def _level_code(self, sigma: Tensor) -> Tensor:
        """Gaussian bumps over log sigma, (B, LEVEL_NEURONS)."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        centres = torch.linspace(low, high, LEVEL_NEURONS, dtype=sigma.dtype, device=sigma.device)
        width = (high - low) / (LEVEL_NEURONS - 1)
        return torch.exp(-0.5 * ((sigma.log()[:, None] - centres) / width) ** 2)

    def _inputs(self, z: State, x: Any) -> tuple[Tensor, Tensor, Tensor]:
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != self.n:
            shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise InvalidInput(f"a state of this machine has shape (B, {self.n}), got {shape}")
        if not (isinstance(x, tuple) and len(x) == 2):
            raise InvalidInput(
                "this machine needs x = (sigma, labels), as machine.condition(count, sigma) makes"
            )
        return z, x[0], x[1]


@final
class LevelLaw(Energy):
    """One noise level of a `NoiseConditionalMachine`: data plus noise N(0, sigma^2), all classes.

    Args:
        machine: the machine.
        sigma: the level, in units of u.
    """

    papers = (NLM, SONG_ERMON)

    def __init__(self, machine: NoiseConditionalMachine, sigma: float) -> None:
        super().__init__()
        if not sigma > 0.0:
            raise InvalidInput(f"a noise level must be positive, got {sigma}")
        self.machine, self.sigma, self.n = machine, sigma, machine.n

    def energy(self, z: State, x: Any = None) -> Tensor:
        """E(u | sigma), (B,)."""
        return self.machine.energy(z, self._condition(z))

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F (B, K), analytic and detached."""
        return self.machine.energy_and_force(z, self._condition(z))

    def posterior_mean(self, u: Tensor) -> Tensor:
        """Tweedie's estimate of the clean datum, (B, K)."""
        return self.machine.posterior_mean(u, self._condition(u))

    def initial_state(self, chains: int, seed: int, first_chain: int = 0) -> Tensor:
        """Keyed start states of the machine, (chains, K)."""
        return self.machine.initial_state(chains, seed, first_chain)

    def _condition(self, z: State) -> Condition:
        return self.machine.condition(batch_size(z), self.sigma)
