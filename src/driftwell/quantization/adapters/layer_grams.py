"""Second moments of what linear layers read, for calibrated starts of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from driftwell.quantization.adapters.adapt import matching_layers
from driftwell.quantization.post_training.calibration import Calibration
from driftwell.quantization.post_training.gram import Gram


def layer_grams(
    model: nn.Module, calibration: Calibration, targets: str | Sequence[str] = "*"
) -> dict[str, Tensor]:
    """Gram matrices X^T X of the inputs of linear layers while a calibration runs the model.

    Args:
        model: network; usually the one before quantization, whose layers adapters should imitate.
        calibration: what to run it on, such as `Inputs([batch])`.
        targets: names, last parts of names, or patterns; see `adapt`.

    Returns:
        Name of the layer -> (in, in) float64, for `ResidualStart`.

    Raises:
        InvalidInput: a target that matches no layer, a layer the calibration never reaches, or
            inputs that are NaN or infinite.

    Example:
        >>> from driftwell.quantization.post_training.calibration import Inputs
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> layer_grams(net, Inputs([torch.tensor([[1.0, 2.0]])]), "0")["0"].tolist()
        [[1.0, 2.0], [2.0, 4.0]]
    """
    names = matching_layers(model, targets)
    layers: dict[str, Any] = {name: model.get_submodule(name) for name in names}
    grams = {name: Gram(int(layer.in_features)) for name, layer in layers.items()}
    watches = [
        layer.register_forward_pre_hook(_added_to(grams[name])) for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            calibration.prepared(model).run(model)
    finally:
        for watch in watches:
            watch.remove()
    return {name: gram.matrix for name, gram in grams.items()}


def _added_to(gram: Gram) -> Any:
    """A hook that adds a layer's inputs to `gram`."""

    def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        gram.update(inputs[0])

    return add
