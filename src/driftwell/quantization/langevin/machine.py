"""The quantized Neural Langevin Machine."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State
from driftwell.dynamics import OverdampedPlan
from driftwell.dynamics.laws import check_temperature
from driftwell.models.langevin.kernels import langevin_steps
from driftwell.models.langevin.machine import NLM, NeuralLangevinMachine, StartedEnergy
from driftwell.models.langevin.walk import checked_walk
from driftwell.quantization.formats import Packed
from driftwell.quantization.langevin.integer_steps import integer_steps
from driftwell.quantization.langevin.shared_couplings import Integers, SharedCouplings
from driftwell.sampling.log_partition import AnnealingPath

Activations = Literal["int8", "float"]


@final
class QuantizedLangevinMachine(StartedEnergy):
    """Neural Langevin Machine with couplings of 1 to 8 bits, after Yu, Huang and Huang, *Neural
    Langevin Machine: a local asymmetric learning rule can be creative*, 2025, arXiv:2506.23546.

        J = diag(r) Q,   e = x - J phi(x) - b,   E(x) = 1/2 ||e||^2,   phi = tanh
        F = -e + phi'(x) * (J^T e)

    One integer matrix Q serves both products. The law is exactly that of a float machine with the
    decoded J: energies, forces and everything measured are its own. Only fused sampling steps
    round what they multiply: with ``activations="int8"`` phi on a fixed grid of 1/127 and r e on
    one of the chain's own, both products in integers (see `integer_steps`); with ``"float"`` they
    are the float machine's steps.

    Args:
        couplings: codes of J, evenly spaced levels, one scale a row or one in all.
        bias: b, (N,).
        temperature: T, in units of E.
        zero_diagonal: hold J_ii = 0.
        activations: ``"int8"`` or ``"float"``, of fused steps.

    Raises:
        InvalidInput: couplings that are not square or do not fit the bias, or a temperature that
            is not positive.

    Example:
        >>> import driftwell as dw
        >>> from driftwell.quantization.formats import Uniform
        >>> machine = dw.NeuralLangevinMachine(8, seed=0)
        >>> packed = Uniform(4, symmetric=True).encode(machine.J).pack()
        >>> small = QuantizedLangevinMachine(packed, machine.b)
        >>> chains = dw.sample(small, small.initial_state(16, seed=1), steps=50, seed=1)
        >>> chains.z.shape, small.couplings.bits
        (torch.Size([16, 8]), 4)
    """

    papers = (NLM,)

    def __init__(
        self,
        couplings: Packed,
        bias: Tensor,
        temperature: float = 1.0,
        zero_diagonal: bool = True,
        activations: Activations = "int8",
    ) -> None:
        super().__init__()
        if len(couplings.shape) != 2 or couplings.shape != (len(bias), len(bias)):
            raise InvalidInput(
                f"couplings of {len(bias)} neurons are square, not {couplings.shape}"
            )
        if activations not in ("int8", "float"):
            raise InvalidInput(f'activations must be "int8" or "float", got {activations!r}')
        self.n, self.zero_diagonal, self.activations = len(bias), zero_diagonal, activations
        self.temperature = check_temperature(temperature)
        self.couplings = SharedCouplings(couplings, zero_diagonal)
        self.b = nn.Parameter(bias.detach().clone(), requires_grad=False)
        # in a tuple, so that it is no part of this module
        self._decoded: tuple[Integers, NeuralLangevinMachine] | None = None

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return f"n={self.n}, temperature={self.temperature}, activations={self.activations}"

    @property
    def J(self) -> Tensor:
        """Decoded couplings, (N, N)."""
        return self.couplings.decode()

    def decoded(self) -> NeuralLangevinMachine:
        """The float machine of the decoded couplings."""
        integers = self.couplings.integers
        if self._decoded is None or self._decoded[0] is not integers:
            made = NeuralLangevinMachine(
                self.n, self.temperature, False, 0.0, self.zero_diagonal, dtype=self.b.dtype
            )
            made.J = nn.Parameter(integers.values, requires_grad=False)
            made.b = self.b
            self._decoded = (integers, made)
        return self._decoded[1]

    def initial_state(self, chains: int, seed: int, first_chain: int = 0) -> Tensor:
        """Keyed start states x ~ N(0, I), (chains, n), those of the float machine."""
        return self.decoded().initial_state(chains, seed, first_chain)

    def residual(self, x: Tensor) -> Tensor:
        """e = x - J phi(x) - b, (B, n)."""
        return self.decoded().residual(x)

    def energy(self, z: State, x: Any = None) -> Tensor:
        """E = 1/2 ||e||^2, (B,); differentiable in the state."""
        return self.decoded().energy(z)

    def energy_and_force(self, z: State, x: Any = None) -> tuple[Tensor, State]:
        """E (B,) and F (B, n) of the decoded couplings, analytic and detached."""
        return self.decoded().energy_and_force(z)

    def hessian_vector(self, z: State, v: State, x: Any = None) -> State:
        """H v of the decoded couplings."""
        return self.decoded().hessian_vector(z, v)

    def curvature_bound(self, z: State, x: Any = None) -> float:
        """Largest curvature met, that of the decoded couplings."""
        return self.decoded().curvature_bound(z)

    def annealing_path(self) -> AnnealingPath:
        """Laws with couplings s J, for the log-partition."""
        return self.decoded().annealing_path()

    def overdamped_steps(self, z: State, x: Any, plan: OverdampedPlan) -> tuple[State, str] | None:
        """Fused Langevin steps on this machine."""
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != self.n:
            shape = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise InvalidInput(f"a state of this machine has shape (B, {self.n}), got {shape}")
        free = plan.free if isinstance(plan.free, Tensor) else None
        integers = self.couplings.integers
        if self.activations == "float":
            return langevin_steps(
                z, integers.values, self.b, steps=plan.steps, step_size=plan.step_size,
                temperature=plan.temperature, seed=plan.seed, first_step=plan.first_step,
                chains=plan.chains, scheme=plan.scheme, free=free, matmul=plan.matmul,
            )  # fmt: skip
        walk = checked_walk(
            z, integers.values, self.b, steps=plan.steps, step_size=plan.step_size,
            temperature=plan.temperature, seed=plan.seed, first_step=plan.first_step,
            chains=plan.chains, scheme=plan.scheme, precision=None, preconditioner=None,
            free=free, onsager=True, matmul="float32",
        )  # fmt: skip
        with torch.no_grad():
            return integer_steps(walk, integers, torch.get_num_threads())
