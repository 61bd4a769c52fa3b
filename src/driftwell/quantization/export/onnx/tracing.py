"""The graph of a model, its packed weights left open as inputs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput, require
from driftwell.quantization.export.onnx.twin import Twin

WEIGHT = "packed_weight_"
"""Beginning of the names of open inputs."""


@final
class _Open(nn.Module):
    """The model as a function of its packed weights too, so that no exporter folds them away."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self.model, self.names = twin.model, [weight.name for weight in twin.weights]

    def forward(self, weights: list[Tensor], inputs: list[Tensor]) -> Any:
        """The model's outputs."""
        named = dict(zip(self.names, weights, strict=True))
        return torch.func.functional_call(self.model, named, tuple(inputs))


def traced(
    twin: Twin,
    inputs: Sequence[Tensor],
    *,
    opset: int,
    input_names: Sequence[str],
    output_names: Sequence[str],
    fixed_batch: bool = False,
) -> Any:
    """The graph as an `onnx_ir.Model`; its first inputs stand for the packed weights.

    Args:
        twin: the float copy.
        inputs: an example of the inputs, batch first.
        opset: version of the operators.
        input_names: of `inputs`.
        output_names: of the outputs, in order.
        fixed_batch: keep the batch size of `inputs` for good.

    Raises:
        InvalidInput: an operator or a construction that cannot be exported.
        MissingExtra: onnxscript is not installed.
    """
    require("onnxscript", "onnx", "to write ONNX graphs")
    parameters = dict(twin.model.named_parameters())
    weights = [parameters[weight.name] for weight in twin.weights]
    batch = torch.export.Dim("batch")
    free = [{0: batch} if x.ndim and not fixed_batch else {} for x in inputs]
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                _Open(twin).eval(), (weights, list(inputs)), dynamo=True, verbose=False,
                opset_version=opset, optimize=True,
                dynamic_shapes={"weights": [{} for _ in weights], "inputs": free},
                input_names=[*(f"{WEIGHT}{i}" for i in range(len(weights))), *input_names],
                output_names=list(output_names),
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        raise InvalidInput(
            f"{type(twin.model).__name__} has no ONNX graph: {_reason(error)}"
        ) from error
    if program is None:
        raise InvalidInput(f"{type(twin.model).__name__} has no ONNX graph")
    return program.model


def _reason(error: BaseException) -> str:
    """What went wrong first, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own warnings and log lines are no news to the user."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
