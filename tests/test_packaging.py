"""What the installed distribution promises: names, versions, dependencies, files."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points, metadata, version
from pathlib import Path
from typing import Any

import pytest

import driftwell

ROOT = Path(__file__).resolve().parents[1]
TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".cff",
    ".yaml",
    ".c",
    ".h",
    ".html",
    ".j2",
    ".css",
    ".js",
}
KNOWN_SUFFIXES = {
    ".py",
    ".typed",
    ".c",
    ".h",
    ".html",
    ".j2",
    ".css",
    ".js",
    ".json",
    ".toml",
    ".pyi",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0].lower() for line in requirements}


def test_one_version_everywhere() -> None:
    cited = re.search(
        r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert version("driftwell") == driftwell.__version__
    assert cited is not None
    assert cited.group(1).strip('"') == driftwell.__version__


def test_the_command_is_declared() -> None:
    (command,) = entry_points(group="console_scripts", name="driftwell")
    assert command.value == "driftwell.cli.main:main"


def test_a_plain_install_asks_only_for_what_the_design_names(project: dict[str, Any]) -> None:
    plain = names_of(project["project"]["dependencies"])
    assert plain == {"torch", "numpy", "safetensors", "rich", "pillow", "jinja2"}
    everything = plain.union(
        *(names_of(lines) for lines in project["project"]["optional-dependencies"].values())
    )
    assert "torchvision" not in everything, "installing it replaces a CPU build of torch"


def test_torch_is_pinned_for_those_who_build_the_project(project: dict[str, Any]) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "torch==2.13.0" in pins
    assert "torch>=2.13" in project["project"]["dependencies"]


def test_the_annotations_are_shipped() -> None:
    assert (ROOT / "src" / "driftwell" / "py.typed").is_file()


def test_the_package_holds_only_files_of_known_kinds() -> None:
    package = ROOT / "src" / "driftwell"
    strange = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in KNOWN_SUFFIXES
    ]
    assert not strange, "whatever lies in the package is shipped in the wheel"


def test_the_licence_is_the_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert metadata("driftwell")["License-Expression"] == "Apache-2.0"


def test_the_changelog_has_a_place_for_the_next_entry() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    personal = re.compile(r"(?<![\w.])/(home|root|Users|work|mnt)/\w")
    folders = ["src", "tests", "docs", "bench", "examples", ".ci"]
    files = [path for name in folders for path in (ROOT / name).rglob("*")]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    found = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.is_file()
        and path.suffix in TEXT_SUFFIXES
        and not {"_build", "__pycache__", "results", ".venv"} & set(path.parts)
        and personal.search(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not found
