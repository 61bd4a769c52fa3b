"""Finished portions of a long sampling, kept on the disk until all are done."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, final

from torch import Tensor

from driftwell.core.atomic import write_atomically


@final
class Portions:
    """Finished portions, recognised by what was wished for and by the model.

    Args:
        path: where they are kept; None keeps none.
        facts: plain values that decide the result; with other ones nothing is recalled.
        empty: no states, (0, N), of the right dtype.
    """

    def __init__(self, path: Path | None, facts: dict[str, Any], empty: Tensor) -> None:
        self.path, self.empty = path, empty
        self.key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def recall(self) -> Tensor:
        """States of an earlier attempt at the same wish, none otherwise."""
        from safetensors import SafetensorError, safe_open

        if self.path is None or not self.path.is_file():
            return self.empty
        try:
            with safe_open(str(self.path), framework="pt") as file:
                if (file.metadata() or {}).get("key") != self.key:
                    return self.empty
                states: Tensor = file.get_tensor("states")
                return states
        except (SafetensorError, OSError, ValueError):
            return self.empty  # damaged: those images are made anew

    def keep(self, states: Tensor, finished: bool) -> None:
        """Save what is done so far, unless that is all."""
        if self.path is None or finished:
            return
        from safetensors.torch import save

        content = save({"states": states.cpu().contiguous()}, metadata={"key": self.key})
        write_atomically(self.path, content)

    def forget(self) -> None:
        """Remove what was kept."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
