"""Training of a noise-conditional machine by denoising score matching."""

from __future__ import annotations

import copy
import math
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, permutation, uniform
from driftwell.core.papers import Paper
from driftwell.core.world import World
from driftwell.models.langevin.noise_conditional import Condition, NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.trainer import check_states

VINCENT = Paper(
    key="vincent2011connection",
    title="A connection between score matching and denoising autoencoders",
    authors="Vincent, Pascal",
    year=2011,
    venue="Neural Computation 23, 1661-1674",
    doi="10.1162/NECO_a_00142",
)
WARM_UP = 100
SILENCED = 0.15
SAMPLED = "machine."
TRAINED = "trained."


@final
class DenoisingTrainer:
    """Denoising score matching over noise levels, from Vincent, *A connection between score
    matching and denoising autoencoders*, 2011, and Song and Ermon, 2019, arXiv:1907.05600.

        minimise  < || sigma dE/du(u + sigma n | sigma) - n ||^2 >

    over data u, n ~ N(0, I) and log sigma uniform. Its minimum is the smoothed density of the
    data at every level. Levels, noise and data order are keyed by the update's index, so a run
    that stops and goes on is bit for bit the run that did not stop. What is sampled from is a
    running average of the parameters.

    Args:
        recipe: the settings, with ``learning="denoising"``.
        states: data in principal components, (n_data, K).
        seed: of start couplings, noise and data order.
        labels: class index of each datum, int64 (n_data,), or None.
        world: processes each batch is split over.
        components: principal axes of the states in pixels, (K, pixels): hidden neurons then start
            as detectors of the most variable pixels; None: they start at random.

    Raises:
        InvalidInput: no data, NaN in it, or data that are all equal.
    """

    def __init__(
        self,
        recipe: Recipe,
        states: Tensor,
        seed: int,
        labels: Tensor | None = None,
        world: World | None = None,
        components: Tensor | None = None,
    ) -> None:
        check_states(states)
        self.recipe, self.states, self.seed = recipe, states, seed
        self.world = world or World()
        self.labels = labels if recipe.label_scale else None
        self.batch = min(recipe.batch, len(states))
        variance = states.var(dim=0, correction=0)
        spread = float(variance.sum().sqrt())
        if not spread > 0.0:
            raise InvalidInput("all training data are equal; there is nothing to learn from them")
        classes = 0 if self.labels is None else int(self.labels.max()) + 1
        self.trained = NoiseConditionalMachine(
            variance, recipe.hidden, classes, recipe.noise_low * spread,
            recipe.noise_high * spread, seed, self._detectors(variance, components),
        ).to(states.device)  # fmt: skip
        if self.labels is not None:
            self.trained.frequency.copy_(torch.bincount(self.labels, minlength=classes))
        self.machine = copy.deepcopy(self.trained).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.trained.parameters(), recipe.learning_rate)

    def _detectors(self, variance: Tensor, components: Tensor | None) -> Tensor | None:
        """Rows sqrt(lambda_k) P_ki of the most variable pixels i; random rows if there are more."""
        if components is None:
            return None
        pixels = (components * variance.sqrt()[:, None]).T
        order = pixels.square().sum(dim=1).argsort(descending=True, stable=True)
        rows = pixels[order[: self.recipe.hidden]]
        spare = self.recipe.hidden - len(rows)
        more = normal(
            (spare, len(variance)), seed=self.seed, purpose=Purpose.PARAMETERS, chains=spare,
            step=1, dtype=rows.dtype, device=rows.device,
        ) if spare else rows[:0]  # fmt: skip
        return torch.cat([rows, more / math.sqrt(len(variance))])

    def update(self, index: int) -> dict[str, float]:
        """One parameter update.

        Returns:
            ``loss``: the objective per coordinate; 1 for a machine that knows nothing.
        """
        u, x, n = self._noisy_batch(index)
        loss = (x[0][:, None] * self.trained.gradient(u, x) - n).square().sum(dim=1).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        (mean_loss,) = self._share_gradients(loss.detach(), len(u))
        self._set_rate(index)
        self.optimizer.step()
        self._average(index)
        return {"loss": float(mean_loss) / self.machine.n}

    def _noisy_batch(self, index: int) -> tuple[Tensor, Condition, Tensor]:
        """This process's share: u + sigma n, its condition, and n."""
        mine = self.world.slice(self.batch)
        rows = self._batch(index)[mine]
        place = torch.arange(mine.start, mine.stop, device=self.states.device)
        m, dtype = self.trained, self.states.dtype
        r = uniform((len(rows), 1), seed=self.seed, purpose=Purpose.DATA, chains=place,
                    step=index, leaf=1, dtype=dtype)[:, 0]  # fmt: skip
        sigma = torch.exp(math.log(m.sigma_min) + r * math.log(m.sigma_max / m.sigma_min))
        n = normal((len(rows), m.n), seed=self.seed, purpose=Purpose.DATA, chains=place,
                   step=index, leaf=2, dtype=dtype)  # fmt: skip
        picked = None if self.labels is None else self._picked(rows, place, index)
        _, onehot = m.condition(len(rows), 1.0, picked)
        return self.states[rows] + sigma[:, None] * n, (sigma, onehot), n

    def _picked(self, rows: Tensor, place: Tensor, index: int) -> Tensor:
        """Labels of the batch, some silenced (-1) so that the law of all is learned too."""
        r = uniform((len(rows), 1), seed=self.seed, purpose=Purpose.DATA, chains=place,
                    step=index, leaf=3)[:, 0]  # fmt: skip
        labels = torch.as_tensor(self.labels)[rows]
        return torch.where(r < SILENCED, torch.full_like(labels, -1), labels)

    def _batch(self, index: int) -> Tensor:
        n, device = len(self.states), self.states.device
        epoch, position = divmod(index, n // self.batch)
        order = permutation(n, seed=self.seed, purpose=Purpose.DATA, step=epoch)
        return order[position * self.batch : (position + 1) * self.batch].to(device)

    def _share_gradients(self, loss: Tensor, rows: int) -> tuple[Tensor, ...]:
        if self.world.size == 1:
            return (loss,)
        parameters = list(self.trained.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        loss, *shared = self.world.mean(loss, *gradients, rows=rows)
        for parameter, gradient in zip(parameters, shared, strict=True):
            parameter.grad = gradient
        return (loss,)

    def _set_rate(self, index: int) -> None:
        r = self.recipe
        factor = min(1.0, (index + 1) / WARM_UP)
        if r.decay == "cosine":
            factor *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, index / r.updates))
        for group in self.optimizer.param_groups:
            group["lr"] = r.learning_rate * factor

    def _average(self, index: int) -> None:
        # Short runs average over a tenth of their length, so that the start is forgotten.
        weight = max(1.0 - self.recipe.averaging, 10.0 / (index + 10.0))
        with torch.no_grad():
            for kept, new in zip(self.machine.parameters(), self.trained.parameters(), strict=True):
                kept.lerp_(new, weight)

    def warnings(self) -> list[str]:
        """Nothing: there are no persistent chains to watch."""
        return []

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must be kept to go on: both machines and the optimizer's moments."""
        kept = {SAMPLED + k: v for k, v in self.machine.state_dict().items()}
        kept |= {TRAINED + k: v for k, v in self.trained.state_dict().items()}
        for name, parameter in self.trained.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                kept[f"optimizer.{name}.{key}"] = value
        return {name: tensor.detach().contiguous().clone() for name, tensor in kept.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned.

        Raises:
            InvalidInput: a tensor is missing or of another shape.
        """
        for machine, prefix in ((self.machine, SAMPLED), (self.trained, TRAINED)):
            for name, own in machine.state_dict().items():
                found = tensors.get(prefix + name)
                if found is None or found.shape != own.shape:
                    got = "nothing" if found is None else str(tuple(found.shape))
                    raise InvalidInput(
                        f"the checkpoint does not fit this recipe: {prefix + name} should have "
                        f"shape {tuple(own.shape)}, got {got}"
                    )
                own.copy_(found)
        for name, parameter in self.trained.named_parameters():
            prefix = f"optimizer.{name}."
            state = {k.removeprefix(prefix): v.clone() for k, v in tensors.items()
                     if k.startswith(prefix)}  # fmt: skip
            if state:
                self.optimizer.state[parameter] = state
