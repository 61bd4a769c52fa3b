"""Equilibria at a temperature: which classes Langevin chains in their wells are read as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from driftwell.core.state import leaves
from driftwell.dynamics import SpeedEnergy
from driftwell.models.equilibrium.classifier import DEQClassifier
from driftwell.sampling import Langevin, sample

CHAINS, STEPS, WARMUP, EVERY = 8, 300, 100, 20
WARMTH = 0.5
"""Root of the temperature, in units of the root-mean-square entry of the equilibria."""


@final
@dataclass(frozen=True, eq=False)
class Wells:
    """Classes read off from chains around equilibria.

    Attributes:
        images: places of the images among the held-out ones, (k,).
        wrong: which were classified wrongly, bool (k,).
        shares: of the chains' states that are read as each class, (k, classes).
        stability: share that is read as the class of the equilibrium itself, (k,).
        confidence: largest softmax probability at the equilibrium, (k,).
        temperature: T, in units of squared speed.
    """

    images: Tensor
    wrong: Tensor
    shares: Tensor
    stability: Tensor
    confidence: Tensor
    temperature: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN where there is nothing to average."""
        right, wrong = (float(self.stability[m].mean()) for m in (~self.wrong, self.wrong))
        return {
            "temperature": self.temperature, "chains": CHAINS, "steps": STEPS,
            "images": len(self.images), "wrong_images": int(self.wrong.sum()),
            "stability_right": right, "stability_wrong": wrong,
            "errors_found": separation(self.stability, self.wrong),
            "errors_found_by_softmax": separation(self.confidence, self.wrong),
        }  # fmt: skip


def separation(score: Tensor, wrong: Tensor) -> float:
    """Probability that a wrong image scores below a right one, ties counting half; else NaN.

    Example:
        >>> separation(torch.tensor([0.9, 0.2, 0.9]), torch.tensor([False, True, True]))
        0.75
    """
    low, high = score[wrong], score[~wrong]
    if not len(low) or not len(high):
        return float("nan")
    less = (low[:, None] < high).double() + 0.5 * (low[:, None] == high).double()
    return float(less.mean())


def classes_at_a_temperature(
    model: DEQClassifier, x: Tensor, z: Tensor, images: Tensor, wrong: Tensor, seed: int
) -> Wells:
    """Sample exp(-E / T) with E(z) = 1/2 |f(z, x) - z|^2 from the equilibria on, and read it off.

    Args:
        model: the classifier.
        x: inputs of the images looked at, (k, inputs).
        z: their equilibria, (k, width).
        images: their places among the held-out images, (k,).
        wrong: which were classified wrongly, bool (k,).
        seed: of the noise.
    """
    T = float((WARMTH**2 * z.square().mean()).clamp(min=1e-12))
    energy = SpeedEnergy(model.layer(), of="map", temperature=T)
    driven = model.inject(x).repeat_interleave(CHAINS, 0)
    chains = sample(
        energy, z.repeat_interleave(CHAINS, 0), driven, steps=STEPS, warmup=WARMUP, keep=EVERY,
        sampler=Langevin(), seed=seed, diagnostics=False,
    )  # fmt: skip
    (kept,) = leaves(chains.kept if chains.kept is not None else chains.z)
    states = kept[kept.shape[0] // 3 :]  # the first third still remembers its start
    logits = model.readout(z)
    read = model.readout(states.flatten(0, 1)).argmax(1).reshape(len(states), len(x), CHAINS)
    counts = torch.nn.functional.one_hot(read, logits.shape[1]).double().mean(dim=(0, 2)).cpu()
    own = logits.argmax(1).cpu()
    return Wells(
        images=images, wrong=wrong, shares=counts, stability=counts.gather(1, own[:, None])[:, 0],
        confidence=logits.softmax(1).amax(1).double().cpu(), temperature=T,
    )  # fmt: skip
