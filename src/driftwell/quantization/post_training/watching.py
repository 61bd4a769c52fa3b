"""Runs of a calibration with its weights watched: who is used when, and on what inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.post_training.calibration import Calibration
from driftwell.quantization.post_training.gram import Gram
from driftwell.quantization.post_training.products import Product, WatchedProducts
from driftwell.quantization.post_training.sites import Site


@final
@dataclass
class Seen:
    """What one run showed.

    Attributes:
        order: weights in the order of first use.
        steps: the same, those that read one tensor together.
        transposed: weights that inputs met by their rows only.
        altered: weights used only after a change that is no rescaling.
        iterated: weights used more often than the model was called.
    """

    order: list[str] = field(default_factory=list)
    steps: list[list[str]] = field(default_factory=list)
    transposed: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    iterated: set[str] = field(default_factory=set)


def in_order(model: nn.Module, calibration: Calibration, weights: Mapping[str, Tensor]) -> Seen:
    """Run the calibration once and note which weights are used, how, and in which order."""
    seen, straight = Seen(), set[str]()
    last: list[Tensor] = []
    uses = dict.fromkeys(weights, 0)

    def note(product: Product) -> None:
        name = product.weight
        if product.transposed and weights[name].ndim > 2:
            return
        uses[name] += 1
        if not product.transposed:
            straight.add(name)
        if name in seen.order:
            return
        seen.order.append(name)
        # The tensor is kept until the next: a new one cannot have its address.
        if last and _same(last[0], product.source):
            seen.steps[-1].append(name)
        else:
            seen.steps.append([name])
        last[:] = [product.source]

    watched = WatchedProducts(weights, note)
    with watched:
        calibration.run(model)
    seen.transposed = set(seen.order) - straight
    seen.altered = watched.altered
    seen.iterated = {name for name, count in uses.items() if count > calibration.calls}
    return seen


def input_grams(
    model: nn.Module, calibration: Calibration, at: Mapping[str, Site]
) -> tuple[dict[str, list[Tensor]], dict[str, int]]:
    """Gram matrices of the inputs of some weights, one for each group, and how many were seen.

    A table that is only looked up has no inputs: its entries count alike.

    Raises:
        InvalidInput: an input that is NaN or infinite; the sentence names the layer.
    """
    grams: dict[str, list[Gram]] = {
        name: [Gram(site.matrix[0].numel()) for _ in range(site.groups)]
        for name, site in at.items()
    }

    def add(product: Product) -> None:
        name = product.weight
        if product.transposed != at[name].transposed:
            return
        for group, rows in product.rows():
            try:
                grams[name][group].update(rows)
            except InvalidInput as error:
                raise InvalidInput(f"calibration of {name!r}: {error}") from error

    with WatchedProducts({name: site.weight for name, site in at.items()}, add):
        calibration.run(model)
    made: dict[str, list[Tensor]] = {}
    for name, parts in grams.items():
        weight = at[name].weight
        made[name] = [
            part.matrix if part.count else torch.eye(
                part.features, dtype=torch.float64, device=weight.device
            )
            for part in parts
        ]  # fmt: skip
    return made, {name: parts[0].count for name, parts in grams.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one, or views of one memory from the same place."""
    return (
        a.untyped_storage()._cdata == b.untyped_storage()._cdata
        and a.storage_offset() == b.storage_offset()
        and a.numel() == b.numel()
    )
