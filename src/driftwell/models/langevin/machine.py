"""The Neural Langevin Machine."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper
from driftwell.core.state import State
from driftwell.dynamics import Energy, OverdampedPlan
from driftwell.dynamics.laws import check_temperature
from driftwell.models.langevin.kernels import langevin_steps
from driftwell.sampling.log_partition import AnnealingPath
from driftwell.sampling.step_size import curvature

NLM = Paper(
    key="yu2025nlm",
    title="Neural Langevin Machine: a local asymmetric learning rule can be creative",
    authors="Yu, Zhendong and Huang, Weizhong and Huang, Haiping",
    year=2025,
    arxiv="2506.23546",
)


class StartedEnergy(Energy):
    """An energy over (B, n) that also says where its chains start."""

    n: int

    @abstractmethod
    def initial_state(self, chains: int, seed: int, first_chain: int = 0) -> Tensor:
        """Keyed start states, (chains, n)."""


@final
class NeuralLangevinMachine(StartedEnergy):
    """Neural Langevin Machine, from Yu, Huang and Huang, *Neural Langevin Machine: a local
    asymmetric learning rule can be creative*, 2025, arXiv:2506.23546.

    An energy-based model whose energy is the kinetic energy of a rate network
    dx/dt = -x + J phi(x) + b with phi = tanh and no symmetry in J:

        h = J phi(x),   e = x - h - b,   E(x) = 1/2 ||e||^2
        F = -dE/dx = -e + phi'(x) * (J^T e),   P(x) = exp(-E(x) / T) / Z

    J is used as stored; its diagonal starts at zero, and with `zero_diagonal` a gradient mask
    keeps it there. Learning is local: dL/dJ_ij = (<e_i phi_j>_data - <e_i phi_j>_model) / T.

    Args:
        n: number of neurons N.
        temperature: T, in units of E.
        bias: whether b is learned; without it E(-x) = E(x).
        gain: g of the start couplings J_ij ~ N(0, g^2 / N).
        zero_diagonal: keep J_ii = 0.
        seed: of the keyed start couplings.
        dtype: of the parameters, float32 or float64.

    Raises:
        InvalidInput: n < 1, a negative gain, a temperature that is not positive.

    Example:
        >>> import driftwell as dw
        >>> machine = dw.NeuralLangevinMachine(2, seed=0)
        >>> chains = dw.sample(machine, machine.initial_state(16, seed=1), steps=50, seed=1)
        >>> chains.z.shape
        torch.Size([16, 2])
    """

    papers = (NLM,)

    def __init__(
        self,
        n: int,
        temperature: float = 1.0,
        bias: bool = True,
        gain: float = 2.0,
        zero_diagonal: bool = True,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if n < 1:
            raise InvalidInput(f"a machine needs n >= 1 neurons, got {n}")
        if not 0.0 <= gain < float("inf"):
            raise InvalidInput(f"gain must be finite and not negative, got {gain}")
        self.n, self.zero_diagonal = n, zero_diagonal
        self.temperature = check_temperature(temperature)
        J = normal((n, n), seed=seed, purpose=Purpose.PARAMETERS, chains=n, step=0, dtype=dtype)
        J = (J * (gain / math.sqrt(n))).fill_diagonal_(0.0)
        self.J = nn.Parameter(J)
        self.b = nn.Parameter(torch.zeros(n, dtype=dtype), requires_grad=bias)

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"n={self.n}, temperature={self.temperature}, bias={self.b.requires_grad}"

    def initial_state(self, chains: int, seed: int, first_chain: int = 0) -> Tensor:
        """Keyed start states x ~ N(0, I), (chains, n)."""
        ids = torch.arange(first_chain, first_chain + chains, device=self.J.device)
        return normal(
            (chains, self.n), seed=seed, purpose=Purpose.INIT, chains=ids, step=0,
            dtype=self.J.dtype,
        )  # fmt: skip

    def residual(self, x: Tensor) -> Tensor:
        """e = x - J phi(x) - b, minus the velocity of the bare network, (B, n)."""
        return x - torch.addmm(self.b, torch.tanh(x), self.J.T)

    def energy(self, z: State, x: Any = None) -> Tensor:
        """E = 1/2 ||e||^2, (B,); differentiable in state and parameters."""
        e = self.residual(self._visible(z))
        return 0.5 * (e * e).sum(dim=1)

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F = -e + phi' * (J^T e), (B, n), analytic and detached."""
        state = self._visible(z)
        with torch.no_grad():
            phi = torch.tanh(state)
            e = state - torch.addmm(self.b, phi, self.J.T)
            force = (1.0 - phi * phi) * (e @ self.J) - e
            return 0.5 * (e * e).sum(dim=1), force

    def hessian_vector(self, z: State, v: State, x: Any = None) -> State:
        """H v with H = A^T A - diag(phi'' * J^T e), A = I - J diag(phi'), phi'' = -2 phi phi'."""
        state, w = self._visible(z), self._visible(v)
        with torch.no_grad():
            phi = torch.tanh(state)
            slope = 1.0 - phi * phi
            e = state - torch.addmm(self.b, phi, self.J.T)
            Aw = w - (slope * w) @ self.J.T
            return Aw - slope * (Aw @ self.J) + 2.0 * phi * slope * (e @ self.J) * w

    def curvature_bound(self, z: State, x: Any = None) -> float:
        """Largest curvature met: that at `z`, or sigma_max(I - J)^2, that at x = 0."""
        zero = torch.zeros_like(self._visible(z)[:1])
        bias_free = curvature(_AtRest(self), zero)
        return max(float(curvature(self, z).max()), float(bias_free.max()))

    def local_gradient(self, data: Tensor, model: Tensor) -> float:
        """Write the local rule into `.grad` of J and b; return the paper's monitor.

        J.grad = (<e phi^T>_model - <e phi^T>_data) / T and b.grad likewise (minus the
        log-likelihood gradient, so that any optimizer descends), diagonal masked.

        Args:
            data: clamped states (B, n).
            model: free states (M, n).

        Returns:
            Mean square of J.grad's entries (the official code's "KL norm").
        """
        data_J, data_b = self.correlations(data)
        model_J, model_b = self.correlations(model)
        return self.write_gradient(data_J, data_b, model_J, model_b)

    def correlations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Batch means <e phi^T> (n, n) and <e> (n,)."""
        with torch.no_grad():
            phi = torch.tanh(x)
            e = x - torch.addmm(self.b, phi, self.J.T)
            return e.T @ phi / len(x), e.mean(dim=0)

    def write_gradient(
        self, data_J: Tensor, data_b: Tensor, model_J: Tensor, model_b: Tensor
    ) -> float:
        """Write (model - data) / T into `.grad`, see `local_gradient`."""
        with torch.no_grad():
            gradient = (model_J - data_J) / self.temperature
            if self.zero_diagonal:
                gradient.fill_diagonal_(0.0)
            self.J.grad = gradient
            if self.b.requires_grad:
                self.b.grad = (model_b - data_b) / self.temperature
            return float(gradient.square().mean())

    def overdamped_steps(self, z: State, x: Any, plan: OverdampedPlan) -> tuple[State, str] | None:
        """Fused Langevin steps on this machine."""
        state = self._visible(z)
        free = None if plan.free is None else self._visible(plan.free)
        return langevin_steps(
            state, self.J.detach(), self.b.detach(), steps=plan.steps, step_size=plan.step_size,
            temperature=plan.temperature, seed=plan.seed, first_step=plan.first_step,
            chains=plan.chains, scheme=plan.scheme, free=free, matmul=plan.matmul,
        )  # fmt: skip

    def annealing_path(self) -> AnnealingPath:
        """Laws with couplings s J from N(b, T I) at s = 0 to this machine at s = 1."""
        return MachinePath(self)

    def _visible(self, z: State) -> Tensor:
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != self.n:
            shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise InvalidInput(f"a state of this machine has shape (B, {self.n}), got {shape}")
        return z


class _AtRest(Energy):
    """1/2 ||(I - J) x||^2: the machine linearised at x = 0 without its bias."""

    def __init__(self, machine: NeuralLangevinMachine) -> None:
        super().__init__()
        self.machine = machine

    def energy(self, z: State, x: Any = None) -> Tensor:
        """1/2 ||(I - J) x||^2."""
        u = self.machine._visible(z)
        return 0.5 * (u - u @ self.machine.J.T).square().sum(dim=1)


@final
class MachinePath(AnnealingPath):
    """Annealing path of a machine: couplings s J and bias b, so that log Z(0) = N/2 log(2 pi T)."""

    def __init__(self, machine: NeuralLangevinMachine) -> None:
        self.machine = machine

    def law(self, s: float) -> Energy:
        """Machine with couplings s J."""
        m = self.machine
        scaled = NeuralLangevinMachine(m.n, m.temperature, gain=0.0, dtype=m.J.dtype)
        with torch.no_grad():
            scaled.J.copy_(s * m.J)
            scaled.b.copy_(m.b)
        return scaled

    def start(self, chains: int, seed: int) -> State:
        """Samples of N(b, T I)."""
        m = self.machine
        return m.b.detach() + math.sqrt(m.temperature) * m.initial_state(chains, seed)

    def log_partition_start(self) -> float:
        """N/2 log(2 pi T)."""
        return 0.5 * self.machine.n * math.log(2 * math.pi * self.machine.temperature)
