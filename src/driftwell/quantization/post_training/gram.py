"""The second moments of a layer's inputs, gathered as they pass by."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

_CHUNK = 4096  # rows whose float32 products are summed before they join the float64 total


@final
class Gram:
    """G = X^T X of all inputs seen, without keeping them.

    Products are taken in the dtype of the inputs (float32 for shorter ones) over a few thousand
    rows at a time and summed in float64 (float32 where the device has no other).

    Args:
        features: C, the length of an input.

    Raises:
        InvalidInput: `features` is not positive.

    Example:
        >>> gram = Gram(2)
        >>> gram.update(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> gram.matrix.tolist(), gram.count
        ([[10.0, 14.0], [14.0, 20.0]], 2)
    """

    def __init__(self, features: int) -> None:
        if features < 1:
            raise InvalidInput(f"a layer has at least one input, not {features}")
        self.features = features
        self.count = 0
        self._total: Tensor | None = None

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add inputs `x` (..., C).

        Raises:
            InvalidInput: another length than C, or NaN or infinity, in which case nothing is added.
        """
        if x.ndim == 0 or x.shape[-1] != self.features:
            raise InvalidInput(
                f"the inputs have shape {tuple(x.shape)}; their last axis must be {self.features}"
            )
        rows = x.detach().reshape(-1, self.features)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        added = torch.zeros(self.features, self.features, dtype=wide, device=x.device)
        for part in rows.split(_CHUNK):
            added += part.T @ part
        # a number that is not finite reaches its own square, so the diagonal tells
        if not added.diagonal().isfinite().all():
            raise InvalidInput(self._complaint(rows))
        self._total = added if self._total is None else self._total.to(added) + added
        self.count += len(rows)

    @property
    def matrix(self) -> Tensor:
        """G (C, C), float64.

        Raises:
            InvalidInput: nothing has been added.
        """
        if self._total is None or self.count == 0:
            raise InvalidInput(
                "no input has reached this layer: calibrate on inputs that run the model through it"
            )
        return self._total

    def _complaint(self, rows: Tensor) -> str:
        bad = int((~rows.isfinite()).sum())
        what = f"{bad} of {rows.numel()} inputs are NaN or infinite" if bad else (
            "inputs are so large that their squares overflow"
        )  # fmt: skip
        return f"{what}: check the calibration data and the network that made them"
