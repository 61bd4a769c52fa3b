"""Shares of rows, alone; with two processes see tests/cli/test_processes.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driftwell.core.errors import InvalidInput
from driftwell.core.world import World


@given(st.integers(0, 200), st.integers(1, 17))
def test_shares_cover_all_rows_once_in_order_and_evenly(n: int, size: int) -> None:
    shares = [range(n)[World(rank, size).slice(n)] for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(n))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_alone_everything_is_itself() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    world = World.from_environment()
    assert world == World(0, 1)
    assert world.leader
    assert world.sum(x)[0] is x
    assert world.mean(x, rows=5)[0] is x
    assert world.gather(x, 5) is x
    assert world.any(True)
    assert not world.any(False)
    world.wait()
    world.leave()


def test_what_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="rank 2 of 2"):
        World(2, 2)
    with pytest.raises(InvalidInput, match="holds 3 of 3 rows, got 2"):
        World().gather(torch.zeros(2), 3)
    with pytest.raises(InvalidInput, match="cannot be negative"):
        World().slice(-1)
    monkeypatch.setenv("RANK", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidInput, match="must be numbers"):
        World.from_environment()
