"""Layers of small trained networks and the Gram matrices of their inputs, for claims on methods."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from driftwell.claims.quantization.adapted_characters import dialect, learned
from driftwell.core.errors import InvalidInput
from driftwell.data import load
from driftwell.data.texts import windows
from driftwell.quantization.formats import Format
from driftwell.quantization.post_training import Gram, Method, output_error


@dataclass(frozen=True)
class Calibrated:
    """One linear layer: its weight (R, C) and the Gram matrix (C, C) of its inputs."""

    name: str
    weight: Tensor
    gram: Tensor


@lru_cache(maxsize=2)
def transformer_layers(seed: int) -> tuple[Calibrated, ...]:
    """The linear layers of the blocks of a character model, on 4 x 32 windows of its text."""
    model, text = learned(seed), dialect(seed, 0).learn

    def run() -> None:
        for step in range(4):
            model(windows(text, model.context, 32, seed=seed + 1, step=step)[0])

    return _calibrated(model.blocks, run)


@lru_cache(maxsize=2)
def wide_layers(seed: int) -> tuple[Calibrated, ...]:
    """The hidden layers of a wide network on the bundled digits: 64 pixels, 512 and 512 units.

    Wide layers on few inputs have nearly dependent features, the case that MagR is for.
    """
    data = load("digits", split="train")
    if data.labels is None:
        raise InvalidInput("the bundled digits must carry their labels")
    x, labels = data.images.flatten(1).float(), data.labels
    draw = torch.Generator().manual_seed(seed)
    sizes = (x.shape[1], 512, 512, 10)
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, inputs, generator=draw) * (2 / inputs) ** 0.5)
            layer.bias.zero_()
        parts += [layer, nn.ReLU()]
    model = nn.Sequential(*parts[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(200):
        rows = torch.randint(len(x), (64,), generator=draw)
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), labels[rows]).backward()
        optimizer.step()
    return _calibrated(model, lambda: model(x))[:-1]


def mean_error(layers: tuple[Calibrated, ...], method: Method, format: Format) -> float:
    """Mean over the layers of the relative output error |X (W - Q)^T| / |X W^T|."""
    return sum(errors(layers, method, format)) / len(layers)


def errors(layers: tuple[Calibrated, ...], method: Method, format: Format) -> list[float]:
    """Relative output error of every layer."""
    return [
        output_error(l.weight, method.quantize(l.weight, l.gram, format).decode(), l.gram)
        for l in layers
    ]


def _calibrated(model: nn.Module, run: Callable[[], None]) -> tuple[Calibrated, ...]:
    """The linear layers of `model`, with the inputs that `run` sends through them."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    grams = {name: Gram(layer.in_features) for name, layer in layers.items()}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, gram=grams[name]: gram.update(given[0]))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return tuple(
        Calibrated(name, layer.weight.detach(), grams[name].matrix)
        for name, layer in layers.items()
    )
