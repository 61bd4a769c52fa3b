"""What an exported graph was found to be."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

LARGEST = "same largest entry"


@final
@dataclass(frozen=True)
class OnnxReport:
    """An exported graph, measured in onnxruntime against the quantized model in torch.

    Attributes:
        path: the graph.
        max_difference: largest |difference| of an entry of the first output, over the test inputs.
        scale: root mean square of that output, in the same unit.
        argmax_agreement: share of rows whose largest entry is the same one.
        bytes: of the file.
        float_bytes: of the parameters in float32.
        milliseconds: of one run on the test inputs, in onnxruntime.
        rows: test inputs in that run.
        operators: by packed weight, what reads it in the graph.
        nodes: number of nodes by operator, loops' bodies included.
        facts: what else was measured.
    """

    path: Path
    max_difference: float
    scale: float
    argmax_agreement: float
    bytes: int
    float_bytes: int
    milliseconds: float
    rows: int
    operators: dict[str, str]
    nodes: dict[str, int]
    facts: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {**asdict(self), "path": self.path.name}

    def write(self, path: Path) -> Path:
        """The same as a JSON file."""
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")
        return path

    def words(self) -> dict[str, str]:
        """The figures a user reads."""
        return {
            "largest difference": f"{self.max_difference:.3g} of outputs of size {self.scale:.3g}",
            LARGEST: f"{100 * self.argmax_agreement:.2f} % of {self.rows} rows",
            "size": f"{self.bytes:,} bytes; parameters in float {self.float_bytes:,}",
            "time": f"{self.milliseconds:.3g} ms for {self.rows} rows in onnxruntime",
            **{name: f"{value:.4g}" for name, value in self.facts.items()},
            **{f"weight {name}": operators for name, operators in self.operators.items()},
        }


def agreement(a: Tensor, b: Tensor) -> float:
    """Share of rows (..., K) whose largest entry is in the same place.

    Example:
        >>> import torch
        >>> agreement(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0]] * 2))
        0.5
    """
    return float((a.argmax(-1) == b.argmax(-1)).double().mean())
