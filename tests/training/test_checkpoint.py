"""Checkpoints: whole or ignored, verified, two of them, and never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from driftwell.core import atomic
from driftwell.core.atomic import write_atomically
from driftwell.core.errors import RunFolderError
from driftwell.training.checkpoint import latest_checkpoint, save_checkpoint
from driftwell.training.portions import Portions

TENSORS = {"J": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3, dtype=torch.int64)}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 12, TENSORS, {"seed": 5, "elapsed_seconds": 1.5})
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.update == 12
    assert found.warning is None
    assert found.meta["seed"] == 5
    assert found.meta["schema"] == 1
    assert set(found.meta["versions"]) == {"driftwell", "python", "torch", "numpy", "safetensors"}
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_views_of_one_buffer_are_saved_each_in_full(tmp_path: Path) -> None:
    whole = torch.arange(8.0)
    save_checkpoint(tmp_path, 1, {"a": whole[:4], "b": whole[2:], "c": whole.reshape(2, 4).T}, {})
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors["b"], whole[2:])
    assert torch.equal(found.tensors["c"], whole.reshape(2, 4).T)


def test_nothing_was_ever_saved(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "not there") is None


def test_the_last_two_are_kept_and_no_other_kind_of_file(tmp_path: Path) -> None:
    for update in (0, 5, 10, 15):
        save_checkpoint(tmp_path, update, TENSORS, {})
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        f"update-{update:010d}.{suffix}"
        for update in (10, 15)
        for suffix in ("json", "safetensors")
    ]


def test_one_without_its_json_does_not_count(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, TENSORS, {})
    save_checkpoint(tmp_path, 10, TENSORS, {})
    (tmp_path / "update-0000000010.json").unlink()
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.update, found.warning) == (5, None)
    # and the next save removes what is left of it
    save_checkpoint(tmp_path, 7, TENSORS, {})
    assert not (tmp_path / "update-0000000010.safetensors").exists()


def test_a_kill_between_any_two_writes_leaves_a_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every system call that changes a file is made the last one in turn."""
    real = {name: getattr(os, name) for name in ("replace", "fsync")}
    save_checkpoint(tmp_path, 5, TENSORS, {})
    for last in range(1, 6):
        calls = 0

        def counted(name: str, *arguments: object, last: int = last) -> None:
            nonlocal calls
            calls += 1
            if calls == last:
                raise KeyboardInterrupt
            real[name](*arguments)

        for name in real:
            monkeypatch.setattr(atomic.os, name, lambda *a, name=name: counted(name, *a))
        try:
            save_checkpoint(tmp_path, 10, TENSORS, {})
            done = True
        except KeyboardInterrupt:
            done = False
        monkeypatch.undo()
        found = latest_checkpoint(tmp_path)
        assert found is not None
        assert found.update == 10 if done else found.update in (5, 10)
        assert found.warning is None
        assert done or last <= 5
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
        for stale in tmp_path.glob("*10.*"):
            stale.unlink()


def test_damage_falls_back_once_and_says_so(tmp_path: Path) -> None:
    for update in (5, 10):
        save_checkpoint(tmp_path, update, TENSORS, {})
    file = tmp_path / "update-0000000010.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.update == 5
    assert found.warning is not None
    assert "update-0000000010.safetensors is corrupt" in found.warning
    assert "going back to the checkpoint of update 5" in found.warning
    file.write_bytes(content[:20])
    (tmp_path / "update-0000000005.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"no checkpoint in .* is good") as caught:
        latest_checkpoint(tmp_path)
    assert "20 bytes instead of" in str(caught.value)
    assert "update-0000000005.json is truncated or no JSON" in str(caught.value)


def test_a_safetensors_file_that_is_none_is_damage(tmp_path: Path) -> None:
    import hashlib

    content = b"\x80\x04 a pickle, say"
    save_checkpoint(tmp_path, 5, TENSORS, {})
    path = tmp_path / "update-0000000005.json"
    (tmp_path / "update-0000000005.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "size": len(content), "sha256": digest})
    )
    with pytest.raises(RunFolderError, match="is not a safetensors file"):
        latest_checkpoint(tmp_path)


def test_another_schema_is_a_sentence_of_its_own(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, TENSORS, {})
    path = tmp_path / "update-0000000005.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))
    with pytest.raises(RunFolderError, match="schema version 2, this driftwell reads version 1"):
        latest_checkpoint(tmp_path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")
    if os.name != "posix":
        pytest.skip("needs a system call that can be refused")
    with pytest.raises(RunFolderError, match="cannot be written: Not a directory"):
        write_atomically(path / "b.txt", b"new")
    assert path.read_bytes() == b"old"


def test_temporary_names_are_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: seen.append(Path(a).name))
    save_checkpoint(tmp_path, 5, TENSORS, {})
    assert len(seen) == 2
    assert all(name.startswith(".") and name.endswith(".tmp") for name in seen)


def test_portions_are_recalled_for_the_same_wish_only(tmp_path: Path) -> None:
    empty, states = torch.zeros(0, 3), torch.arange(6.0).reshape(2, 3)
    path = tmp_path / ".a.png.partial.0"
    Portions(path, {"seed": 1}, empty).keep(states, finished=False)
    assert torch.equal(Portions(path, {"seed": 1}, empty).recall(), states)
    assert len(Portions(path, {"seed": 2}, empty).recall()) == 0
    path.write_bytes(path.read_bytes()[:-3])
    assert len(Portions(path, {"seed": 1}, empty).recall()) == 0, "damaged ones are made anew"
    Portions(path, {"seed": 1}, empty).forget()
    assert list(tmp_path.iterdir()) == []
    Portions(None, {}, empty).keep(states, finished=False)
