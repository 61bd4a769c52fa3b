"""Training of a noise-conditional machine by denoising score matching."""

from __future__ import annotations

import copy
import math
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal, uniform
from driftwell.core.papers import Paper
from driftwell.core.world import World
from driftwell.data import Whitening
from driftwell.models.langevin.batches import Batches
from driftwell.models.langevin.noise_conditional import Condition, NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.trainer import check_states
from driftwell.models.langevin.walkers import Walkers

VINCENT = Paper(
    key="vincent2011connection",
    title="A connection between score matching and denoising autoencoders",
    authors="Vincent, Pascal",
    year=2011,
    venue="Neural Computation 23, 1661-1674",
    doi="10.1162/NECO_a_00142",
)
WARM_UP = 100
CONTRAST_WARM_UP = 50
SILENCED = 0.15
DETECTOR_GAIN = 1.5
LIVE = 0.02
SAMPLED = "machine."
TRAINED = "trained."


@final
class DenoisingTrainer:
    """Denoising score matching over noise levels, from Vincent, *A connection between score
    matching and denoising autoencoders*, 2011, and Song and Ermon, 2019, arXiv:1907.05600, then
    contrastive learning along the annealed way.

        D = < || sigma dE/du(u + sigma n | sigma) - n ||^2 >
        C = < E(u + sigma n | sigma) >_data - < E(u' | sigma) >_walkers

    over data u, n ~ N(0, I), log sigma uniform in D; in C every walker u' of annealed sampling is
    set against a datum of its own label and level. D is minimised first; the last
    `contrast_share` of the updates follow C instead, which mends what score matching does not
    see: the weights of separate modes, and what a finite number of sampling steps does. C's
    gradient is the local rule of Yu, Huang and Huang, 2025, data minus model: with r = e / T and
    d = phi'(h) * J_vh^T r the residuals per temperature, <r phi(h)^T> for J_vh and
    <d (x / T)^T> for J_hv.

    Levels, noise, walkers and data order are keyed by the update's index, so a run that stops and
    goes on is bit for bit the run that did not stop. What is sampled from is a running average of
    the parameters.

    Args:
        recipe: the settings, with ``learning="denoising"``.
        states: data in principal components, (n_data, K).
        seed: of start couplings, noise and data order.
        labels: class index of each datum, int64 (n_data,), or None.
        world: processes each batch is split over.
        axes: the transform that made the states: hidden neurons then start as detectors of the
            pixels that vary; None: all start at random.

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
        axes: Whitening | None = None,
    ) -> None:
        check_states(states)
        self.recipe, self.states, self.seed = recipe, states, seed
        self.world = world or World()
        self.labels = labels if recipe.label_scale else None
        self.batches = Batches(len(states), recipe.batch, seed, states.device)
        self.batch = self.batches.batch
        variance = states.var(dim=0, correction=0)
        spread = float(variance.sum().sqrt())
        if not spread > 0.0:
            raise InvalidInput("all training data are equal; there is nothing to learn from them")
        detectors = self._detectors(variance, axes)
        classes = 0 if self.labels is None else int(self.labels.max()) + 1
        self.trained = NoiseConditionalMachine(
            variance, len(detectors[1]), classes, recipe.noise_low * spread,
            recipe.noise_high * spread, seed, detectors,
        ).to(states.device)  # fmt: skip
        if self.labels is not None:
            self.trained.frequency.copy_(torch.bincount(self.labels, minlength=classes))
            self.by_label = self.labels.argsort(stable=True)
        self.machine = copy.deepcopy(self.trained).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.trained.parameters(), recipe.learning_rate)
        self.contrast_from = round(recipe.updates * (1.0 - recipe.contrast_share))
        self.walkers: Walkers | None = None

    def _detectors(self, variance: Tensor, axes: Whitening | None) -> tuple[Tensor, Tensor]:
        """Start of J_hv and c: gain * (mean + P^T sqrt(lambda) .)_i of each live pixel i."""
        K, spare = len(variance), self.recipe.hidden
        random = normal(
            (spare, K), seed=self.seed, purpose=Purpose.PARAMETERS, chains=spare, step=1,
            dtype=variance.dtype, device=variance.device,
        ) / math.sqrt(K)  # fmt: skip
        if axes is None:
            return random, torch.zeros_like(random[:, 0])
        rows = DETECTOR_GAIN * (axes.components.to(variance) * variance.sqrt()[:, None]).T
        live = rows.square().sum(dim=1).sqrt() > LIVE
        bias = DETECTOR_GAIN * axes.mean.to(variance)[live]
        return torch.cat([rows[live], random]), torch.cat([bias, torch.zeros_like(random[:, 0])])

    # ------------------------------------------------------------------ one update

    def update(self, index: int) -> dict[str, float]:
        """One parameter update.

        Returns:
            ``loss``: D per coordinate, 1 for a machine that knows nothing; ``contrast``: C, the
            mean energy gap between data and walkers (0 before the contrastive part).
        """
        walkers = self._walkers(index)
        self.optimizer.zero_grad()
        with torch.set_grad_enabled(walkers is None):
            matched = self._mismatch(index)
        gap = torch.zeros(()) if walkers is None else self._energy_gap(walkers, index)
        torch.autograd.backward(matched if walkers is None else gap)
        D, C = self._share(matched.detach(), gap.detach())
        self._set_rate(index)
        self.optimizer.step()
        self._average(index)
        return {"loss": float(D) / self.machine.n, "contrast": float(C)}

    def _mismatch(self, index: int) -> Tensor:
        """D of this process's batch, as its share of the mean over all."""
        u, x, n = self._noisy_batch(index)
        error = x[0][:, None] * self.trained.gradient(u, x) - n
        return error.square().sum() / self.batch

    def _energy_gap(self, walkers: Walkers, index: int) -> Tensor:
        """C of this process's walkers, as its share of the mean over all."""
        steps = self.recipe.langevin_steps
        t = (index - self.contrast_from) * steps
        x = walkers.walk(t, steps)
        model = self.trained.energy(walkers.u, x)
        noise = normal(
            tuple(walkers.u.shape), seed=self.seed, purpose=Purpose.DATA, chains=walkers.ids,
            step=index, leaf=4, dtype=self.states.dtype,
        )  # fmt: skip
        data = self._alike(walkers, index) + x[0][:, None] * noise
        return (self.trained.energy(data, x) - model).sum() / self.recipe.chains

    def _alike(self, walkers: Walkers, index: int) -> Tensor:
        """A keyed datum of each walker's label, (walkers, K)."""
        r = uniform(
            (len(walkers.ids), 1), seed=self.seed, purpose=Purpose.DATA, chains=walkers.ids,
            step=index, leaf=5, dtype=torch.float64,
        )[:, 0]  # fmt: skip
        if self.labels is None:
            return self.states[(r * len(self.states)).long()]
        count = self.machine.frequency.long()
        first = count.cumsum(0) - count
        place = first[walkers.labels] + (r * count[walkers.labels]).long()
        return self.states[self.by_label[place]]

    def _walkers(self, index: int) -> Walkers | None:
        """None before the contrastive part; the walkers, run in, when it begins.

        It begins from the averaged parameters, with fresh optimizer moments.
        """
        if index == self.contrast_from:
            self.trained.load_state_dict(self.machine.state_dict())
            self.optimizer.state.clear()
            self.walkers = Walkers(self.trained, self.recipe, self.seed, self.world)
            self.walkers.run_in()
        return self.walkers

    def _noisy_batch(self, index: int) -> tuple[Tensor, Condition, Tensor]:
        """This process's share: u + sigma n, its condition, and n."""
        mine = self.world.slice(self.batch)
        rows = self.batches.rows(index)[mine]
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

    def _share(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Sum gradients and values over the processes; each holds its share of every mean."""
        if self.world.size == 1:
            return values
        parameters = list(self.trained.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        summed = self.world.sum(*values, *gradients)
        for parameter, gradient in zip(parameters, summed[len(values) :], strict=True):
            parameter.grad = gradient
        return summed[: len(values)]

    def _set_rate(self, index: int) -> None:
        r = self.recipe
        if index >= self.contrast_from:
            done = index - self.contrast_from
            left = max(0.0, (r.updates - index) / max(1, r.updates - self.contrast_from))
            rate = r.contrast_rate * min(1.0, (done + 1) / CONTRAST_WARM_UP)
            rate *= max(min(1.0, 2.0 * left), 0.02)  # beyond `updates`: a small constant rate
        else:
            rate = r.learning_rate * min(1.0, (index + 1) / WARM_UP)
            if r.decay == "cosine":
                rate *= 0.5 + 0.5 * math.cos(math.pi * min(1.0, index / self.contrast_from))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _average(self, index: int) -> None:
        # Each part averages over a tenth of its length at first, so that its start is forgotten.
        since = index - self.contrast_from if index >= self.contrast_from else index
        weight = max(1.0 - self.recipe.averaging, 10.0 / (since + 10.0))
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
        if self.walkers is not None:
            gathered = (self.world.gather(t, self.recipe.chains)
                        for t in (self.walkers.u, self.walkers.labels))  # fmt: skip
            kept["walkers.u"], kept["walkers.labels"] = gathered
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
        if "walkers.u" in tensors:
            mine = self.world.slice(self.recipe.chains)
            self.walkers = Walkers(self.trained, self.recipe, self.seed, self.world)
            self.walkers.u = tensors["walkers.u"][mine].to(self.states).clone()
            self.walkers.labels = tensors["walkers.labels"][mine].to(self.states.device).clone()
