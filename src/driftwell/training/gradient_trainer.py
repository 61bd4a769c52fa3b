"""`GradientTrainer`: a module, an objective that back-propagates, and Adam."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.world import World


class Objective(Protocol):
    """What an update descends: a function of its index, the seed and the weights only."""

    def loss(self, index: int) -> tuple[Tensor, dict[str, float], int]:
        """The loss of update `index`, its metrics, and how many rows of data it is the mean of."""
        ...

    def constrain(self) -> None:
        """Bring the weights back to where they are allowed to be, after each update."""
        ...

    def warnings(self) -> list[str]:
        """Sentences about how the training goes, the latest first."""
        ...


@final
class GradientTrainer:
    """Trains a module by Adam, one update at a time.

    An update depends on its index, the seed and the carried tensors only, so a run that stops and
    goes on from `tensors()` is bit for bit the run that did not stop. Several processes share the
    rows of a batch; their gradients are averaged.

    Args:
        module: what is trained.
        objective: what is descended.
        rate: learning rate of an update, by its index.
        weight_decay: an L2 penalty, or, `decoupled`, the decay of AdamW (Loshchilov and Hutter,
            2019).
        decoupled: which of both.
        world: processes that train together.

    Raises:
        InvalidInput: from `restore`, tensors that do not fit the module.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        *,
        rate: Callable[[int], float],
        weight_decay: float = 0.0,
        decoupled: bool = True,
        world: World | None = None,
    ) -> None:
        self.module, self.objective, self.world = module, objective, world or World()
        self.rate = rate
        self.optimizer = torch.optim.Adam(
            module.parameters(), lr=rate(0), weight_decay=weight_decay,
            decoupled_weight_decay=decoupled,
        )  # fmt: skip

    def update(self, index: int) -> dict[str, float]:
        """One step of Adam down the objective; its metrics, ``loss`` first."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(index)
        self.optimizer.zero_grad(set_to_none=True)
        loss, metrics, rows = self.objective.loss(index)
        loss.backward()
        found = {"loss": float(loss.detach()), **metrics}
        if self.world.size > 1:
            found = self._share(found, rows)
        self.optimizer.step()
        self.objective.constrain()
        return found

    def _share(self, metrics: dict[str, float], rows: int) -> dict[str, float]:
        """Gradients and metrics as one process would have had them."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        values = torch.tensor(list(metrics.values()), dtype=torch.float64)
        *gradients, values = self.world.mean(
            *(p.grad for p in parameters if p.grad is not None), values, rows=rows
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return dict(zip(metrics, values.tolist(), strict=True))

    def warnings(self) -> list[str]:
        """What the objective has to say."""
        return self.objective.warnings()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must be kept to go on: weights and the optimizer's moments."""
        kept = {f"model.{name}": t for name, t in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                kept[f"optimizer.{name}.{key}"] = value
        return {name: t.detach().contiguous().clone() for name, t in kept.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned."""
        load_weights(self.module, tensors)
        for name, parameter in self.module.named_parameters():
            prefix = f"optimizer.{name}."
            state = {
                # the count of steps stays on the processor, as Adam has it
                key.removeprefix(prefix): t.clone() if t.ndim == 0 else t.to(parameter).clone()
                for key, t in tensors.items()
                if key.startswith(prefix)
            }
            if state:
                self.optimizer.state[parameter] = state


def decayed(rate: float, decay: str, updates: int) -> Callable[[int], float]:
    """Learning rate by update: ``"constant"``, or half a cosine down to zero over `updates`.

    Example:
        >>> [round(decayed(1.0, "cosine", 4)(index), 2) for index in (0, 2, 4, 9)]
        [1.0, 0.5, 0.0, 0.0]
    """
    if decay == "constant":
        return lambda index: rate
    return lambda index: rate * (0.5 + 0.5 * math.cos(math.pi * min(1.0, index / updates)))


def load_weights(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put the weights of a checkpoint into the module.

    Raises:
        InvalidInput: a weight is missing, or has another shape.
    """
    kept = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
    try:
        module.load_state_dict(kept, strict=True)
    except RuntimeError as error:
        raise InvalidInput(
            f"the checkpoint does not hold a {type(module).__name__} of these settings: {error}"
        ) from error
