"""Who judges generated digits: held-out images, the two-sample table, a classifier of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from driftwell.core.noise import Purpose, permutation
from driftwell.data import ImageSet, Transform, load
from driftwell.measures import two_sample_table

CLASSES = (1, 3, 6)
HELD_OUT = 1000


@dataclass(frozen=True, eq=False)
class Digits:
    """MNIST {1, 3, 6}.

    Attributes:
        train: the whole training split of these classes.
        held_out: 1,000 of the test split, a keyed choice.
    """

    train: ImageSet
    held_out: ImageSet


def mnist_digits(held_out: int = HELD_OUT) -> Digits:
    """Needs DRIFTWELL_DATA; raises `InvalidInput` with one sentence without."""
    train, test = (load("mnist", split).select(CLASSES) for split in ("train", "test"))
    order = permutation(len(test), seed=0, purpose=Purpose.DATA, step=99)[:held_out].sort().values
    assert test.labels is not None
    chosen = ImageSet(test.images[order], test.labels[order], test.name, test.source)
    return Digits(train, chosen)


# ---------------------------------------------------------------- two samples


def judged(digits: Digits, transform: Transform, generated: Tensor) -> dict[str, Any]:
    """`two_sample_table` of states against real images as the transform clips them.

    Args:
        digits: the real ones.
        transform: of the machine.
        generated: its states, (n, N).
    """
    train, held_out = (
        _image_space(transform, part.images) for part in (digits.train, digits.held_out)
    )
    return two_sample_table(train, held_out, transform.to_symmetric(generated), seed=0)


def _image_space(transform: Transform, images: Tensor) -> Tensor:
    # Not projected where the machine sees a projection: what is lost counts against it.
    scaling: Transform = getattr(transform, "scaling", transform)
    return scaling.to_symmetric(scaling.forward(images))


# ---------------------------------------------------------------- an independent classifier


class Classifier:
    """A small network for all ten digits, in plain torch, trained on the training split.

    With ten classes to choose from it is a stricter judge than one of the three would be.
    """

    def __init__(self, epochs: int, seed: int = 0) -> None:
        data = load("mnist", "train")
        assert data.labels is not None
        generator = torch.Generator().manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
        with torch.no_grad():  # not torch's own start, which takes from the global generator
            for layer in self.network:
                if isinstance(layer, nn.Linear):
                    spread = math.sqrt(2.0 / layer.in_features)
                    layer.weight.normal_(0.0, spread, generator=generator)
                    layer.bias.zero_()
        self._train(data.flat(), data.labels, epochs, generator)
        test = load("mnist", "test")
        assert test.labels is not None
        self.test_accuracy = float((self(test.flat()) == test.labels).double().mean())

    def _train(self, x: Tensor, y: Tensor, epochs: int, generator: torch.Generator) -> None:
        batch, per_epoch = 100, len(x) // 100
        optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-3)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, epochs * per_epoch)
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for i in range(per_epoch):
                rows = order[i * batch : (i + 1) * batch]
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.network(x[rows]), y[rows]).backward()
                optimizer.step()
                decay.step()

    def __call__(self, images: Tensor) -> Tensor:
        """The digit each image in [0, 1] shows, (n,) int64."""
        with torch.no_grad():
            found: Tensor = self.network(images.reshape(len(images), 784)).argmax(dim=1)
        return found


def shares(found: Tensor) -> dict[str, float]:
    """Share of each class among classified images, and of all other digits."""
    each = {str(c): float((found == c).double().mean()) for c in CLASSES}
    return {**each, "other": 1.0 - sum(each.values())}
