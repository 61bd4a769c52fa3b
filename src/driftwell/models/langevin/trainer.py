"""Contrastive training of a Neural Langevin Machine: clamped phase, free phase, local rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.world import World
from driftwell.models.langevin.batches import Batches
from driftwell.models.langevin.kernels import langevin_steps
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.monitor import ChainGap, chain_gap
from driftwell.models.langevin.presets import Recipe
from driftwell.sampling.step_size import largest_curvature

SAFETY = 0.5
STEP_EVERY = 100
CLAMPED_CHAINS = 2**31  # chain ids of the clamped phase: datum i is chain CLAMPED_CHAINS + i


@final
@dataclass(frozen=True)
class Layout:
    """Which neurons of a machine are what: visible first, then label, then hidden ones.

    Args:
        visible: neurons that hold the datum.
        labels: neurons that hold its class.
        hidden: the others.
    """

    visible: int
    labels: int = 0
    hidden: int = 0

    @property
    def n(self) -> int:
        """All neurons."""
        return self.visible + self.labels + self.hidden

    @property
    def known(self) -> int:
        """Visible and label neurons."""
        return self.visible + self.labels


@final
class MachineTrainer:
    """Trains a machine by its recipe, one update at a time.

    An update depends on its index, the seed and the carried tensors only, so a run that stops and
    goes on from `tensors()` is bit for bit the run that did not stop. Chains and data are split
    over the processes of `world`; the gradient is summed over them.

    With hidden neurons the clamped phase is a few Langevin steps of them with the datum held;
    each datum keeps its hidden state from one visit to the next.

    Args:
        recipe: the settings.
        states: training data as states, (n_data, visible).
        seed: of start couplings, chains, noise and data order.
        labels: class index of each datum, int64 (n_data,), needed with `recipe.label_scale`.
        world: processes the chains are split over.

    Raises:
        InvalidInput: no data, NaN in it, labels that are missing, more processes than chains.
    """

    def __init__(
        self,
        recipe: Recipe,
        states: Tensor,
        seed: int,
        labels: Tensor | None = None,
        world: World | None = None,
    ) -> None:
        check_states(states)
        self.recipe, self.seed, self.world = recipe, seed, world or World()
        if self.world.size > recipe.chains:
            raise InvalidInput(
                f"{recipe.chains} chains cannot be split over {self.world.size} processes"
            )
        self.states, classes = _with_labels(recipe, states, labels)
        self.layout = Layout(states.shape[1], classes, recipe.hidden)
        self.batches = Batches(len(states), recipe.batch, seed, states.device)
        self.batch = self.batches.batch
        self.machine = NeuralLangevinMachine(
            self.layout.n, recipe.temperature, recipe.bias, recipe.gain, recipe.zero_diagonal,
            seed, states.dtype,
        ).to(states.device)  # fmt: skip
        self.optimizer = self._optimizer()
        mine = self.world.slice(recipe.chains)
        self.ids = torch.arange(mine.start, mine.stop, device=states.device)
        self.chains = self._noise(self.ids, 0, self.layout.n)
        rows = torch.arange(len(states), device=states.device) + CLAMPED_CHAINS
        self.hidden = self._noise(rows, 0, recipe.hidden) if recipe.hidden else None
        self.dt = recipe.step_size
        self.gaps: list[ChainGap] = []

    def _optimizer(self) -> torch.optim.Optimizer:
        m, r = self.machine, self.recipe
        groups = [{"params": [m.J], "weight_decay": r.weight_decay}]
        if m.b.requires_grad:
            groups.append({"params": [m.b], "weight_decay": 0.0})
        if r.optimizer == "adam":
            return torch.optim.Adam(groups, lr=r.learning_rate)
        return torch.optim.SGD(groups, lr=r.learning_rate)

    # ------------------------------------------------------------------ one update

    def update(self, index: int) -> dict[str, float]:
        """One parameter update: clamped phase, free phase, local rule.

        Returns:
            ``gradient`` (mean square entry of J's gradient, the paper's monitor),
            ``energy_data`` and ``energy_model`` (mean energy per neuron).
        """
        r, m = self.recipe, self.machine
        self._find_step(index)
        data = self._clamped_phase(index)
        data_J, data_b, data_E = self._means(data)
        if r.free_phase == "none":  # the patterns' summed energy is minimised, nothing contrasts
            model_J, model_b, model_E = torch.zeros_like(data_J), torch.zeros_like(data_b), data_E
            data_J, data_b = data_J * self.batch, data_b * self.batch
        else:
            model_J, model_b, model_E = self._means(self._free_phase(index))
        gradient = m.write_gradient(data_J, data_b, model_J, model_b)
        self._set_rate(index)
        self.optimizer.step()
        if r.shrink:
            with torch.no_grad():
                m.J.mul_(1.0 - r.shrink)
        if r.monitor_every and (index + 1) % r.monitor_every == 0:
            self._compare_with_fresh(index + 1)
        return {
            "gradient": gradient,
            "energy_data": float(data_E) / m.n,
            "energy_model": float(model_E) / m.n,
        }

    def _means(self, x: Tensor) -> tuple[Tensor, ...]:
        J, b = self.machine.correlations(x)
        with torch.no_grad():
            energy = self.machine.energy(x).mean()
        return self.world.mean(J, b, energy, rows=len(x))

    def _set_rate(self, index: int) -> None:
        r = self.recipe
        factor = 1.0
        if r.decay == "cosine":
            factor = 0.5 + 0.5 * math.cos(math.pi * min(1.0, index / r.updates))
        for group in self.optimizer.param_groups:
            group["lr"] = r.learning_rate * factor

    def _find_step(self, index: int) -> None:
        """dt of the recipe, or every STEP_EVERY updates SAFETY / lambda_max at the chains."""
        if self.recipe.step_size or (index % STEP_EVERY and self.dt):
            return
        bound = torch.tensor(largest_curvature(self.machine, self.chains), dtype=torch.float64)
        (bound,) = self.world.mean(bound, rows=1)
        self.dt = SAFETY / float(bound)

    # ------------------------------------------------------------------ clamped phase

    def _clamped_phase(self, index: int) -> Tensor:
        """This process's share of the batch, hidden neurons brought up to date."""
        rows = self.batches.rows(index)
        mine = self.world.slice(self.batch)
        data = self.states[rows[mine]]
        if self.hidden is None:
            return data
        r, known = self.recipe, self.layout.known
        x = torch.cat([data, self.hidden[rows[mine]]], dim=1)
        free = torch.arange(self.layout.n, device=x.device) >= known
        x = self._steps(
            x, rows[mine] + CLAMPED_CHAINS, index * r.clamped_steps, r.clamped_steps, free=free
        )
        self.hidden[rows] = self.world.gather(x[:, known:].contiguous(), self.batch)
        return x

    # ------------------------------------------------------------------ free phase

    def _free_phase(self, index: int) -> Tensor:
        r, first = self.recipe, index * self.recipe.langevin_steps
        if r.free_phase == "rdm":
            self.chains = self._noise(self.ids, index + 1, self.layout.n)
        if r.free_phase == "one-chain":
            return self._time_average(first)
        self.chains = self._walk(self.chains, first, r.langevin_steps)
        return self.chains

    def _time_average(self, first: int) -> Tensor:
        r = self.recipe
        x, step, kept = self._walk(self.chains, first, r.burn_in), first + r.burn_in, []
        for _ in range((r.langevin_steps - r.burn_in) // r.every):
            x = self._walk(x, step, r.every)
            step += r.every
            kept.append(x)
        self.chains = self._walk(x, step, first + r.langevin_steps - step)
        return torch.cat(kept)

    def _walk(self, x: Tensor, first: int, steps: int) -> Tensor:
        """Steps first..first+steps, `bare_steps` of them at a phase's start the bare RNN's."""
        r = self.recipe
        bare = max(0, min(steps, r.bare_steps - first % r.langevin_steps)) if r.bare_steps else 0
        x = self._steps(x, self.ids, first, bare, onsager=False)
        return self._steps(x, self.ids, first + bare, steps - bare)

    def _steps(
        self, x: Tensor, ids: Tensor, first: int, steps: int, *, onsager: bool = True,
        free: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if steps == 0:
            return x
        m = self.machine
        moved, _ = langevin_steps(
            x, m.J.detach(), m.b.detach(), steps=steps, step_size=self.dt,
            temperature=m.temperature, seed=self.seed, first_step=first, chains=ids,
            scheme="lm" if self.recipe.sampler == "langevin" else "em", onsager=onsager, free=free,
            matmul=self.recipe.matmul,
        )  # fmt: skip
        return moved

    def _noise(self, ids: Tensor, step: int, width: int) -> Tensor:
        return normal(
            (len(ids), width), seed=self.seed, purpose=Purpose.INIT, chains=ids, step=step,
            dtype=self.states.dtype,
        )  # fmt: skip

    # ------------------------------------------------------------------ monitor

    def _compare_with_fresh(self, update: int) -> None:
        if self.recipe.free_phase not in ("pcd", "one-chain") or self.recipe.chains < 8:
            return
        chains = self.world.gather(self.chains, self.recipe.chains)
        self.gaps.append(chain_gap(self.machine, self.recipe, chains, self.seed, update))

    def warnings(self) -> list[str]:
        """What the monitor of persistent chains has to say, the latest finding first."""
        return [gap.sentence() for gap in reversed(self.gaps) if gap.warns][:1]

    # ------------------------------------------------------------------ keeping and going on

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must be kept to go on: parameters, optimizer moments, chains."""
        kept = {"machine.J": self.machine.J.detach(), "machine.b": self.machine.b.detach()}
        for name, parameter in self.machine.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    kept[f"optimizer.{name}.{key}"] = value
        kept["chains"] = self.world.gather(self.chains, self.recipe.chains)
        kept["step_size"] = torch.tensor([self.dt], dtype=torch.float64)
        if self.hidden is not None:
            kept["hidden"] = self.hidden
        return {name: tensor.contiguous().clone() for name, tensor in kept.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned.

        Raises:
            InvalidInput: a tensor is missing or of another shape.
        """
        self._check(tensors)
        with torch.no_grad():
            self.machine.J.copy_(tensors["machine.J"])
            self.machine.b.copy_(tensors["machine.b"])
        for name, parameter in self.machine.named_parameters():
            prefix = f"optimizer.{name}."
            state = {
                k.removeprefix(prefix): v.clone()
                for k, v in tensors.items()
                if k.startswith(prefix)
            }
            if state:
                self.optimizer.state[parameter] = state
        mine = self.world.slice(self.recipe.chains)
        self.chains = tensors["chains"][mine].to(self.chains).clone()
        self.dt = float(tensors["step_size"])
        if self.hidden is not None:
            self.hidden = tensors["hidden"].to(self.hidden).clone()

    def _check(self, tensors: dict[str, Tensor]) -> None:
        for name, expected in self.tensors().items():
            if name.startswith("optimizer."):
                continue
            found = tensors.get(name)
            rows = (self.recipe.chains, self.layout.n) if name == "chains" else expected.shape
            if found is None or tuple(found.shape) != tuple(rows):
                got = "nothing" if found is None else str(tuple(found.shape))
                raise InvalidInput(
                    f"the checkpoint does not fit this recipe: {name} should have shape "
                    f"{tuple(rows)}, got {got}"
                )


def check_states(states: Tensor) -> None:
    """Refuse training data that are empty, not (n, N), or not finite."""
    if states.ndim != 2 or len(states) == 0:
        raise InvalidInput(f"training data must be (n, N) with n >= 1, got {tuple(states.shape)}")
    if not bool(torch.isfinite(states).all()):
        raise InvalidInput("training data hold NaN or infinite entries; clean them first")


def _with_labels(recipe: Recipe, states: Tensor, labels: Tensor | None) -> tuple[Tensor, int]:
    """States with label neurons appended, and how many there are."""
    if not recipe.label_scale:
        return states, 0
    if labels is None or len(labels) != len(states):
        raise InvalidInput(
            "label neurons (label_scale > 0) need one class label per training datum"
        )
    return torch.cat([states, label_code(labels, recipe.label_scale).to(states)], dim=1), int(
        labels.max()
    ) + 1


def label_code(labels: Tensor, scale: float, classes: int | None = None) -> Tensor:
    """Label neurons: +scale for the class, -scale for the others, (n, classes).

    Example:
        >>> label_code(torch.tensor([1, 0]), 2.0)
        tensor([[-2.,  2.],
                [ 2., -2.]])
    """
    onehot = torch.nn.functional.one_hot(labels, classes or -1)
    return scale * (2.0 * onehot - 1.0)
