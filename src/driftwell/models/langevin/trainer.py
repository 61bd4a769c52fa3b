"""Contrastive training of a Neural Langevin Machine: clamped phase, free phase, local rule."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, permutation
from driftwell.core.world import World
from driftwell.models.langevin.kernels import langevin_steps
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.sampling.step_size import largest_curvature

SAFETY = 0.5


@final
class MachineTrainer:
    """Trains a machine by its recipe, one update at a time.

    An update depends on its index, the seed and the carried tensors only, so a run that stops and
    goes on from `tensors()` is bit for bit the run that did not stop. Chains and data are split
    over the processes of `world`; the gradient is summed over them.

    Args:
        recipe: the settings.
        states: training data as states, (n_data, N).
        seed: of start couplings, chains, noise and data order.
        world: processes the chains are split over.

    Raises:
        InvalidInput: no data, NaN in it, or a batch larger than the data set.
    """

    def __init__(
        self, recipe: Recipe, states: Tensor, seed: int, world: World | None = None
    ) -> None:
        if states.ndim != 2 or len(states) == 0:
            raise InvalidInput(
                f"training data must be (n, N) with n >= 1, got {tuple(states.shape)}"
            )
        if not bool(torch.isfinite(states).all()):
            raise InvalidInput("training data hold NaN or infinite entries; clean them first")
        self.recipe, self.states, self.seed = recipe, states, seed
        self.world = world or World()
        self.batch = min(recipe.batch, len(states))
        n = states.shape[1]
        self.machine = NeuralLangevinMachine(
            n, recipe.temperature, recipe.bias, recipe.gain, recipe.zero_diagonal, seed,
            states.dtype,
        ).to(states.device)  # fmt: skip
        self.optimizer = self._optimizer()
        mine = self.world.slice(recipe.chains)
        self.first_chain = mine.start
        self.chains = self.machine.initial_state(mine.stop - mine.start, seed, mine.start)

    def _optimizer(self) -> torch.optim.Optimizer:
        m, r = self.machine, self.recipe
        groups = [{"params": [m.J], "weight_decay": r.weight_decay}]
        if m.b.requires_grad:
            groups.append({"params": [m.b], "weight_decay": 0.0})
        if r.optimizer == "adam":
            return torch.optim.Adam(groups, lr=r.learning_rate)
        return torch.optim.SGD(groups, lr=r.learning_rate)

    def update(self, index: int) -> dict[str, float]:
        """One parameter update: clamped phase, free phase, local rule.

        Returns:
            ``gradient`` (mean square entry of J's gradient, the paper's monitor),
            ``energy_data`` and ``energy_model`` (mean energy per neuron).
        """
        data = self._batch(index)
        model = self._free_phase(index)
        m, world = self.machine, self.world
        data_J, data_b, data_E = self._means(data, self.batch)
        total = model.shape[0] if world.size == 1 else self._model_count()
        model_J, model_b, model_E = self._means(model, total)
        if self.recipe.free_phase == "none":
            model_J, model_b = torch.zeros_like(data_J), torch.zeros_like(data_b)
            data_J, data_b = data_J * self.batch, data_b * self.batch  # a sum over patterns
        gradient = m.write_gradient(data_J, data_b, model_J, model_b)
        self.optimizer.step()
        if self.recipe.shrink:
            with torch.no_grad():
                m.J.mul_(1.0 - self.recipe.shrink)
        return {
            "gradient": gradient,
            "energy_data": float(data_E) / m.n,
            "energy_model": float(model_E) / m.n,
        }

    def _means(self, x: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
        J, b = self.machine.correlations(x)
        with torch.no_grad():
            energy = self.machine.energy(x).mean()
        if self.world.size == 1:
            return J, b, energy
        share = len(x) / total
        J, b, energy = self.world.sum(J * share, b * share, energy * share)
        return J, b, energy

    def _model_count(self) -> int:
        r = self.recipe
        return (
            (r.langevin_steps - r.burn_in) // r.every if r.free_phase == "one-chain" else r.chains
        )

    def _batch(self, index: int) -> Tensor:
        n = len(self.states)
        if self.batch == n:
            rows = torch.arange(n, device=self.states.device)
        else:
            per_epoch = n // self.batch
            epoch, position = divmod(index, per_epoch)
            order = permutation(n, seed=self.seed, purpose=Purpose.DATA, step=epoch)
            rows = order[position * self.batch : (position + 1) * self.batch].to(self.states.device)
        mine = self.world.slice(self.batch)
        return self.states[rows[mine.start : mine.stop]]

    def _free_phase(self, index: int) -> Tensor:
        r, first = self.recipe, index * self.recipe.langevin_steps
        if r.free_phase == "none":
            return self.chains
        if r.free_phase == "rdm":
            self.chains = self._redrawn(index)
        if r.free_phase == "one-chain":
            return self._time_average(first)
        self.chains = self.advance(self.chains, first, r.langevin_steps)
        return self.chains

    def _redrawn(self, index: int) -> Tensor:
        ids = torch.arange(
            self.first_chain, self.first_chain + len(self.chains), device=self.chains.device
        )
        return normal(
            tuple(self.chains.shape), seed=self.seed, purpose=Purpose.INIT, chains=ids,
            step=index + 1, dtype=self.chains.dtype,
        )  # fmt: skip

    def _time_average(self, first: int) -> Tensor:
        r = self.recipe
        self.chains = self.advance(self.chains, first, r.burn_in) if r.burn_in else self.chains
        kept, step = [], first + r.burn_in
        for _ in range((r.langevin_steps - r.burn_in) // r.every):
            self.chains = self.advance(self.chains, step, r.every)
            step += r.every
            kept.append(self.chains)
        return torch.cat(kept)

    def advance(self, x: Tensor, first_step: int, steps: int) -> Tensor:
        """Langevin steps on chains of this process, the bare network's for `bare_steps`."""
        r = self.recipe
        bare = 0
        if r.bare_steps:
            bare = max(0, min(steps, r.bare_steps - first_step % r.langevin_steps))
        for onsager, start, count in (
            (False, first_step, bare),
            (True, first_step + bare, steps - bare),
        ):
            if count:
                x = self._steps(x, start, count, onsager)
        return x

    def _steps(self, x: Tensor, first_step: int, steps: int, onsager: bool) -> Tensor:
        m, r = self.machine, self.recipe
        ids = torch.arange(self.first_chain, self.first_chain + len(x), device=x.device)
        x, _ = langevin_steps(
            x, m.J.detach(), m.b.detach(), steps=steps, step_size=self.step_size(),
            temperature=m.temperature, seed=self.seed, first_step=first_step, chains=ids,
            scheme="lm" if r.sampler == "langevin" else "em", onsager=onsager,
        )  # fmt: skip
        return x

    def step_size(self) -> float:
        """dt of the recipe, or SAFETY / lambda_max at the chains' states."""
        if self.recipe.step_size:
            return self.recipe.step_size
        return SAFETY / largest_curvature(self.machine, self.chains)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must be kept to go on: parameters, optimizer moments, chains."""
        kept = {"machine.J": self.machine.J.detach(), "machine.b": self.machine.b.detach()}
        for name, parameter in self.machine.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    kept[f"optimizer.{name}.{key}"] = value
        kept["chains"] = self.world.gather(self.chains, self.recipe.chains)
        return {name: tensor.contiguous() for name, tensor in kept.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned.

        Raises:
            InvalidInput: a tensor is missing or of another shape.
        """
        if tensors.get("machine.J", torch.empty(0)).shape != self.machine.J.shape:
            raise InvalidInput(
                f"the checkpoint's machine.J does not fit a machine of {self.machine.n} neurons"
            )
        with torch.no_grad():
            self.machine.J.copy_(tensors["machine.J"])
            self.machine.b.copy_(tensors["machine.b"])
        for name, parameter in self.machine.named_parameters():
            prefix = f"optimizer.{name}."
            state = {
                k[len(prefix) :]: v.clone() for k, v in tensors.items() if k.startswith(prefix)
            }
            if state:
                self.optimizer.state[parameter] = state
        mine = self.world.slice(self.recipe.chains)
        self.chains = tensors["chains"][mine.start : mine.stop].to(self.chains).clone()
