"""Folders that an export leaves: whole, compiled without a warning, and never half of one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.training.tiny_runs import digest, train_tiny

import driftwell.training.exporting as exporting
import driftwell.training.shipping as shipping
from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.training.exporting import MARK, ExportWish, Shipped, export_run
from driftwell.training.folder_swap import partial_of, swap_in
from driftwell.training.kinds.deq import DEQKind
from driftwell.training.quantization_plan import QuantizationPlan
from driftwell.training.quantized_run import quantize_run

COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C compiler here")
FLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror")
NAMES = ("pcd", "nlm", "deq", "lpn")
SHIPPED = ("pcd", "nlm", "deq", "small-pcd", "small-nlm", "small-deq")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    found = {name: train_tiny(place, name) for name in NAMES}
    for name in NAMES[:3]:
        plan = QuantizationPlan(bits=4, activations="int8" if name == "pcd" else "float")
        quantize_run(found[name], place / f"small-{name}", plan)
        found[f"small-{name}"] = place / f"small-{name}"
    return found


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that has written half of its files when it fails."""

    def half(self: DEQKind, run: Any, wish: ExportWish) -> Shipped:
        (wish.folder / "network.c").write_text("half of it")
        raise InvalidInput("this cannot be carried")

    monkeypatch.setattr(DEQKind, "exported", half)


# --- what is written ----------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("name", SHIPPED)
def test_the_folder_compiles_without_a_warning_and_tests_itself(
    name: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_self_test", lambda folder: "left to this test")
    before = digest(runs[name])
    out = tmp_path / "deep" / "shipped"
    shipped = export_run(runs[name], out, "c")
    assert digest(runs[name]) == before
    assert sorted(p.name for p in out.parent.iterdir()) == ["shipped"]
    sources = sorted(str(file) for file in out.glob("*.c"))
    subprocess.run([COMPILER, *FLAGS, *sources, "-lm", "-o", tmp_path / "test"], check=True)
    assert subprocess.run([tmp_path / "test"], capture_output=True, check=False).returncode == 0
    # the file that a wrong table would break: one changed number must be noticed
    assert set(shipped.files) == {f for f in out.rglob("*") if f.is_file() and f.name != MARK}
    assert {"README.md", "Makefile"} <= {f.name for f in shipped.files}
    assert str(out) in shipped.next_step
    assert ".partial" not in json.dumps(shipped.to_json())
    assert shipped.to_json()["files"]["README.md"] == (out / "README.md").stat().st_size


@needs_compiler
def test_the_self_test_notices_one_wrong_number(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "shipped"
    shipped = export_run(runs["deq"], out, "c")
    assert shipped.facts["self-test"] == f"passed here, compiled by {COMPILER} without a warning"
    file = out / "self_test.c"
    text = file.read_text()
    start = text.index("{", text.index("= {") + 1)
    digit = next(i for i in range(start, len(text)) if text[i].isdigit())
    file.write_text(f"{text[:digit]}{(int(text[digit]) + 1) % 10}{text[digit + 1 :]}")
    assert shipping._self_test(out).startswith("FAILED here")


@needs_compiler
@pytest.mark.parametrize("name", ["pcd", "small-nlm"])
def test_the_sample_program_draws_pictures(
    name: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_self_test", lambda folder: "left to other tests")
    out = tmp_path / "shipped"
    export_run(runs[name], out, "c", name="stripes")
    sources = [out / "stripes.c", out / "draw" / "sample.c"]
    program = tmp_path / "sample"
    subprocess.run([COMPILER, *FLAGS, f"-I{out}", *sources, "-lm", "-o", program], check=True)
    pictures = []
    for file, seed in (("a.pgm", "1"), ("b.pgm", "1"), ("c.pgm", "2")):
        subprocess.run([program, seed, "4", file], check=True, cwd=tmp_path, capture_output=True)
        pictures.append((tmp_path / file).read_bytes())
    assert pictures[0].startswith(b"P5")
    assert pictures[0] == pictures[1] != pictures[2]


def test_without_a_compiler_the_folder_is_written_all_the_same(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    shipped = export_run(runs["deq"], tmp_path / "shipped", "c")
    assert shipped.facts["self-test"] == "not run: no C compiler here"
    assert (tmp_path / "shipped" / "self_test.c").is_file()


def test_names_and_seeds_are_the_users(runs: dict[str, Path], tmp_path: Path) -> None:
    texts = []
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        export_run(runs["pcd"], tmp_path / folder, "c", name="stripes", seed=seed)
        texts.append(digest(tmp_path / folder))
    assert texts[0] == texts[1]
    assert texts[0]["self_test.c"] != texts[2]["self_test.c"]
    assert "stripes_" in (tmp_path / "a" / "stripes.h").read_text()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "1a", "a-b", "ä", "Upper", "_a", "dw_a", "../a"])
@pytest.mark.parametrize("run", ["deq", "pcd"])
def test_names_that_are_none_in_c(
    name: str, run: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="name"):
        export_run(runs[run], tmp_path / "out", "c", name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["int", "main", "self_test", "printf"])
def test_names_that_c_has_taken_begin_longer_ones(
    name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    if not COMPILER:
        pytest.skip("no C compiler here")
    shipped = export_run(runs["deq"], tmp_path / "out", "c", name=name)
    assert shipped.facts["self-test"].startswith("passed here")


def test_a_target_that_is_none_or_that_a_kind_lacks(runs: dict[str, Path], tmp_path: Path) -> None:
    target: Any = "rust"
    with pytest.raises(InvalidInput, match="--to is safetensors, onnx, c, not 'rust'"):
        export_run(runs["deq"], tmp_path / "out", target)
    with pytest.raises(InvalidInput, match="a run of lpn has no form in c"):
        export_run(runs["lpn"], tmp_path / "deep" / "out", "c")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_an_earlier_export_on_request(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_run(runs["deq"], out, "c")
    before = digest(out)
    with pytest.raises(RunFolderError, match="holds an export already: add --overwrite"):
        export_run(runs["pcd"], out, "c")
    assert digest(out) == before
    export_run(runs["pcd"], out, "c", overwrite=True)
    assert not (out / "network.c").exists()
    assert (out / "nlm.c").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folders_and_files_of_somebody_else_are_left_alone(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    for place, sentence in (
        (tmp_path, "is not empty and no export of driftwell"),
        (tmp_path / "thesis.txt", "is a file: give a folder"),
        (tmp_path / "thesis.txt" / "out", "Not a directory|is a file"),
        (runs["deq"], "is not empty and no export of driftwell"),
    ):
        with pytest.raises(RunFolderError, match=sentence):
            export_run(runs["deq"], place, "c", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for here in (Path(), Path("..") / "here"):
        with pytest.raises(InvalidInput, match="is the folder you are in"):
            export_run(runs["deq"], here, "c")


@pytest.mark.usefixtures("fails")
def test_an_export_that_fails_leaves_nothing(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="this cannot be carried"):
        export_run(runs["deq"], tmp_path / "deep" / "deeper" / "out", "c")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_keeps_the_one_before(
    runs: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "out"
    export_run(runs["deq"], out, "c")
    before = digest(out)
    request.getfixturevalue("fails")
    with pytest.raises(InvalidInput):
        export_run(runs["deq"], out, "c", overwrite=True)
    assert digest(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_sentence(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(place: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "swap_in", full)
    with pytest.raises(RunFolderError, match="cannot be written: No space left on device"):
        export_run(runs["deq"], tmp_path / "deep" / "out", "c")
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_folder_is_followed(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for overwrite in (False, True):
        export_run(runs["deq"], tmp_path / "link", "c", overwrite=overwrite)
        assert (tmp_path / "real" / "network.c").is_file()
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


# --- one folder in place of another -------------------------------------------------------------


def stand(place: Path, word: str) -> None:
    place.mkdir()
    (place / "word").write_text(word)


def test_a_swap_replaces_all_of_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "a"
    stand(place, "old")
    stand(partial_of(place), "new")
    swap_in(place)
    assert (place / "word").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_swap_that_fails_puts_the_old_one_back(tmp_path: Path) -> None:
    stand(tmp_path / "a", "old")
    with pytest.raises(FileNotFoundError):
        swap_in(tmp_path / "a")
    assert (tmp_path / "a" / "word").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_kill_between_the_two_moves_is_made_good(tmp_path: Path) -> None:
    stand(tmp_path / ".a.old", "old")
    stand(tmp_path / ".a.partial", "new")
    partial_of(tmp_path / "a")
    assert (tmp_path / "a" / "word").read_text() == "old"
