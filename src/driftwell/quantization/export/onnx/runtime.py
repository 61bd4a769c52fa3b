"""onnxruntime: a graph run and timed on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput, require

RUNS = 5


def session_of(graph: str | Path | bytes, threads: int | None = None) -> Any:
    """A session of onnxruntime on the CPU, on torch's number of threads, none of which spins.

    Raises:
        InvalidInput: a graph that the runtime does not take.
        MissingExtra: onnxruntime is not installed.
    """
    runtime = require("onnxruntime", "onnx", "to check ONNX graphs")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own errors have no ancestor of their own
        raise InvalidInput(f"onnxruntime does not take the graph: {_first_line(error)}") from error


def run_session(session: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The graph's outputs for inputs in order.

    Raises:
        InvalidInput: another number of inputs, or inputs that the graph cannot be run on.
    """
    wanted = session.get_inputs()
    if len(wanted) != len(inputs):
        raise InvalidInput(f"the graph takes {len(wanted)} inputs, got {len(inputs)}")
    fed = {
        want.name: x.detach().cpu().contiguous().numpy()
        for want, x in zip(wanted, inputs, strict=True)
    }
    try:
        found = session.run(None, fed)
    except Exception as error:  # as above
        raise InvalidInput(f"onnxruntime cannot run the graph: {_first_line(error)}") from error
    return [torch.from_numpy(array.copy()) for array in found]


def milliseconds(session: Any, inputs: Sequence[Tensor]) -> float:
    """The least of a few runs after one to warm up."""
    run_session(session, inputs)
    spent = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run_session(session, inputs)
        spent.append(time.perf_counter() - start)
    return 1e3 * min(spent)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
