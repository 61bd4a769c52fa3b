"""The verb `sample`: Markov chains whose law is exp(-E/T)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import Diverged, InvalidInput
from driftwell.core.results import Chains, ChainState, Diagnostics
from driftwell.core.state import (
    State,
    batch_size,
    check_state,
    detach,
    is_finite,
    leaves,
    rebuild,
    tree_map,
)
from driftwell.core.status import Status
from driftwell.dynamics import Energy, as_energy
from driftwell.sampling.recorder import Recorder, record_spacing
from driftwell.sampling.samplers.langevin import Langevin
from driftwell.sampling.samplers.overdamped import Overdamped
from driftwell.sampling.samplers.replica_exchange import ReplicaExchange
from driftwell.sampling.samplers.sampler import Problem, Sampler
from driftwell.sampling.step_size import largest_curvature

Progress = Callable[[int, int], None]
LONGEST_BLOCK = 1000


def sample(
    energy: Energy | Callable[..., Tensor],
    z0: State | Chains,
    x: Any = None,
    *,
    steps: int,
    sampler: Sampler | None = None,
    seed: int | None = None,
    clamp: State | None = None,
    warmup: int = 0,
    keep: int | None = None,
    first_chain: int = 0,
    first_step: int = 0,
    diagnostics: bool = True,
    throw: bool = True,
    progress: Progress | None = None,
) -> Chains:
    """Sample P(z | x) ~ exp(-E(z, x) / T) by Markov chains, one per row of the batch.

    The noise of a chain is a function of (seed, chain id, step, element): it depends neither on
    the batch size nor on how a run is split. Outputs are detached.

    Args:
        energy: an `Energy`, or a callable E(z) or E(z, x) that returns (B,).
        z0: start states, each leaf (B, ...), which get chain ids first_chain..first_chain+B-1 and
            start at step `first_step`; or `Chains`, which go on exactly where they stopped (then
            seed, sampler, ids and step are theirs).
        x: input of the law, batch first, or None.
        steps: how many steps, at least 0.
        sampler: the method; None means `Langevin()`, which finds its own step size.
        seed: seed of the noise, 0 <= seed < 2^64; needed with a tensor z0.
        clamp: bool tree like z0 (or broadcastable to it); True coordinates keep their start
            value, and the virial counts the others only.
        warmup: steps of this call left out of diagnostics and of `keep`.
        keep: keep every keep-th state after warm-up; None keeps none.
        first_chain: id of the first chain, for those who split work themselves.
        first_step: absolute index of the first step, likewise.
        diagnostics: False skips all diagnostics (training loops).
        throw: raise if a chain diverges; False returns it with its status.
        progress: called as progress(done, steps) at least every 1000 steps.

    Returns:
        `Chains` with the last states, those kept, diagnostics, a status per chain and the state
        to continue from.

    Raises:
        InvalidInput: an argument that cannot be used; the sentence says which and why.
        Diverged: a chain left the finite numbers (with `throw`); the sentence names the step
            size, the bound 2 / lambda_max it broke, and the step.

    Example:
        >>> import torch, driftwell as dw
        >>> chains = dw.sample(lambda z: 0.5 * (z**2).sum(1), torch.zeros(64, 2), steps=400, seed=1)
        >>> bool((chains.diagnostics.virial.mean() - 1).abs() < 0.2)
        True
        >>> more = dw.sample(lambda z: 0.5 * (z**2).sum(1), chains, steps=100)
        >>> more.state.next_step
        500
    """
    law = as_energy(energy)
    _check_counts(steps, warmup, keep, first_chain, first_step)
    start = _start(law, z0, x, sampler, seed, clamp, first_chain, first_step)
    run = _Run(law, start, steps, warmup, keep, diagnostics, progress)
    return run.finish(*run.go(), throw=throw)


@dataclass(frozen=True)
class _Start:
    problem: Problem
    sampler: Sampler
    z: State
    step: int
    stored: State | None


def _start(
    law: Energy, z0: State | Chains, x: Any, sampler: Sampler | None, seed: int | None,
    clamp: State | None, first_chain: int, first_step: int,
) -> _Start:  # fmt: skip
    if isinstance(z0, Chains):
        if sampler is not None or seed is not None or first_chain or first_step:
            raise InvalidInput(
                "chains go on with their own sampler, seed, ids and step: leave sampler, seed, "
                "first_chain and first_step out, or start from chains.z to choose new ones"
            )
        z, old = z0.z, z0.state
        sampler, seed, ids, step = old.sampler, old.seed, old.chains, old.next_step
        stored = old.carry
    else:
        if seed is None:
            raise InvalidInput("sample needs a seed, for example seed=0: noise is a function of it")
        z = detach(check_state(z0))
        device = leaves(z)[0].device
        ids = torch.arange(first_chain, first_chain + batch_size(z), device=device)
        sampler, step, stored = sampler or Langevin(), first_step, None
    if not isinstance(sampler, Sampler):
        raise InvalidInput(
            f"sampler must be a sampler such as Langevin(step_size=0.01), got {sampler!r}"
        )
    _check_seed(seed)
    temperature = law.temperature if sampler.temperature is None else sampler.temperature
    problem = Problem(law, x, float(temperature), _free(clamp, z), seed, ids)
    return _Start(problem, sampler.resolve(problem, z), z, step, stored)


class _Run:
    """One call of `sample`, as a loop over blocks between records, kept states and progress."""

    def __init__(
        self, law: Energy, start: _Start, steps: int, warmup: int, keep: int | None,
        diagnostics: bool, progress: Progress | None,
    ) -> None:  # fmt: skip
        self.law, self.start, self.steps, self.warmup = law, start, steps, warmup
        self.keep, self.progress = keep, progress
        self.spacing = record_spacing(steps, warmup)
        self.recorder = Recorder(start.problem, start.sampler, start.z) if diagnostics else None
        self.kept: list[State] = []
        self.backend = "eager"
        self.alive = torch.ones(batch_size(start.z), dtype=torch.bool, device=_device(start.z))

    def go(self) -> tuple[State, Any]:
        z, done = self.start.z, 0
        sampler, problem = self.start.sampler, self.start.problem
        fused = isinstance(sampler, Overdamped)
        carry: Any = None
        if not fused or not self._fusable(z):
            fused = False
            carry = sampler.init(problem, z, self.start.step, self.start.stored)
        while done < self.steps and bool(self.alive.any()):
            count = self._next_stop(done) - done
            z, carry = self._advance(z, carry, self.start.step + done, count, fused)
            done += count
            self._note(z, done)
        self.done = done
        return z, carry

    def _fusable(self, z: State) -> bool:
        sampler = self.start.sampler
        if not isinstance(sampler, Overdamped):
            return False
        plan = sampler.plan(self.start.problem, self.start.step, 0)
        return self.law.overdamped_steps(z, self.start.problem.x, plan) is not None

    def _advance(
        self, z: State, carry: Any, step: int, count: int, fused: bool
    ) -> tuple[State, Any]:
        sampler, problem = self.start.sampler, self.start.problem
        if not fused:
            for offset in range(count):
                z, carry = sampler.step(problem, z, carry, step + offset)
            return z, carry
        end = step + count
        while step < end:
            part = sampler.block(step, end - step)  # type: ignore[attr-defined]
            plan = sampler.plan(problem, step, part)  # type: ignore[attr-defined]
            moved = self.law.overdamped_steps(z, problem.x, plan)
            if moved is None:
                raise InvalidInput("a law's overdamped_steps must answer the same for every block")
            z, self.backend = moved
            step += part
        return z, carry

    def _next_stop(self, done: int) -> int:
        stop = min(self.steps, done + LONGEST_BLOCK)
        past = done - self.warmup
        for every in (self.spacing if self.recorder else None, self.keep):
            if every is None:
                continue
            next_multiple = self.warmup + (past // every + 1) * every if past >= 0 else self.warmup
            if next_multiple > done:
                stop = min(stop, next_multiple)
        return stop

    def _note(self, z: State, done: int) -> None:
        past = done - self.warmup
        self.alive &= is_finite(z)
        if self.recorder and past > 0 and past % self.spacing == 0:
            self.recorder.take(z, self.start.step + done)
        if self.keep and past > 0 and past % self.keep == 0:
            self.kept.append(detach(z))
        if self.progress:
            self.progress(done, self.steps)

    def finish(self, z: State, carry: Any, *, throw: bool) -> Chains:
        status = torch.where(self.alive, int(Status.COMPLETED), int(Status.DIVERGED))
        if throw and not bool(self.alive.all()):
            raise Diverged(self._sentence())
        state = ChainState(
            seed=self.start.problem.seed,
            next_step=self.start.step + self.done,
            chains=self.start.problem.chains,
            sampler=self.start.sampler,
            carry=None if carry is None else self.start.sampler.store(carry),
        )
        kept = _stack(self.kept) if self.kept else None
        return Chains(detach(z), kept, self._diagnostics(z, carry), status.to(torch.int8), state)

    def _diagnostics(self, z: State, carry: Any) -> Diagnostics | None:
        if self.recorder is None:
            return None
        if not self.recorder.steps and bool(self.alive.all()):
            self.recorder.take(z, self.start.step + self.done)
        sampler = self.start.sampler
        own = None if carry is None else sampler.acceptance(carry)
        swaps = (
            sampler.swap_acceptance(carry)
            if isinstance(sampler, ReplicaExchange) and carry is not None
            else None
        )
        return self.recorder.finish(self.backend, own, swaps)

    def _sentence(self) -> str:
        lost = (~self.alive).nonzero()[:, 0]
        first = int(self.start.problem.chains[lost[0]])
        dt = float(getattr(self.start.sampler, "step_size"))  # noqa: B009
        try:
            bound = largest_curvature(self.law, self.start.z, self.start.problem.x)
            reason = (
                f"step_size {dt:.4g} against the stability bound 2 / lambda_max = {2 / bound:.4g} "
                f"(lambda_max = {bound:.4g} by power iteration at the start states)"
            )
        except Diverged:
            reason = (
                f"step_size {dt:.4g}, and the energy has no finite curvature at the start states"
            )
        return (
            f"{len(lost)} of {len(self.alive)} chains left the finite numbers by step "
            f"{self.start.step + self.done}, first chain {first}: {reason}; "
            "lower step_size or leave it out to have it chosen"
        )


def _free(clamp: State | None, z: State) -> State | None:
    if clamp is None:
        return None
    if len(leaves(clamp)) != len(leaves(z)):
        raise InvalidInput(
            f"clamp must have the state's structure of {len(leaves(z))} tensors, "
            f"got {len(leaves(clamp))}"
        )

    def invert(leaf: Tensor, mask: Tensor) -> Tensor:
        if mask.dtype != torch.bool:
            raise InvalidInput(f"clamp must be bool (True keeps its value), got {mask.dtype}")
        try:
            return ~mask.to(leaf.device).expand(leaf.shape)
        except RuntimeError as error:
            raise InvalidInput(
                f"clamp of shape {tuple(mask.shape)} does not fit the state {tuple(leaf.shape)}"
            ) from error

    free = tree_map(invert, z, clamp)
    if not any(bool(mask.any()) for mask in leaves(free)):
        raise InvalidInput("clamp holds every coordinate, so nothing is left to sample")
    return free


def _check_counts(
    steps: int, warmup: int, keep: int | None, first_chain: int, first_step: int
) -> None:
    if steps < 0:
        raise InvalidInput(f"steps must not be negative, got {steps}")
    if not 0 <= warmup <= steps:
        raise InvalidInput(f"warmup must lie between 0 and steps={steps}, got {warmup}")
    if keep is not None and keep < 1:
        raise InvalidInput(f"keep must be at least 1 (every keep-th state) or None, got {keep}")
    if first_chain < 0 or first_step < 0:
        raise InvalidInput(
            f"first_chain and first_step must not be negative, got {first_chain}, {first_step}"
        )


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise InvalidInput(f"seed must be an integer with 0 <= seed < 2^64, got {seed!r}")


def _stack(states: list[State]) -> State:
    columns = zip(*(leaves(state) for state in states), strict=True)
    return rebuild(states[0], [torch.stack(column) for column in columns])


def _device(z: State) -> torch.device:
    return leaves(z)[0].device
