"""The Python blocks of README and of the get-started pages run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/get-started.md",
    "docs/laws-and-verbs.md",
    "docs/nlm-tutorial.md",
    "docs/choosing-a-solver.md",
    "docs/gradients.md",
    "docs/from-torchdeq.md",
    "docs/quantization.md",
    "docs/low-bit-speed.md",
]
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = CODE.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    names: dict[str, object] = {}
    random_state = torch.random.get_rng_state()
    try:
        for block in blocks:
            exec(compile(block, page, "exec"), names)
    finally:
        torch.random.set_rng_state(random_state)
    capsys.readouterr()
