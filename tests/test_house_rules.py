"""The house rules of the source tree, read from its text (docs/design.md says why)."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import driftwell

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "driftwell"
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 500
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "manager", "managers", "base", "common"}
# Heavy or optional: what `import driftwell` may never load.
NOT_AT_IMPORT = {
    "jinja2",
    "matplotlib",
    "onnx",
    "pandas",
    "PIL",
    "rich",
    "scipy",
    "sklearn",
    "torchvision",
}
Function = ast.FunctionDef | ast.AsyncFunctionDef

each_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix()
)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_public(path: Path) -> bool:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return not any(part.startswith("_") and part != "__init__" for part in parts)


def public_definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes of a module, and public methods of its public classes."""
    if not is_public(path):
        return
    for node in tree_of(path).body:
        if isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, Function) and (
                        not inner.name.startswith("_") or inner.name == "__init__"
                    ):
                        yield f"{node.name}.{inner.name}", inner


def is_setter(function: Function) -> bool:
    return any(
        isinstance(mark, ast.Attribute) and mark.attr in {"setter", "deleter"}
        for mark in function.decorator_list
    )


def is_overload(function: Function) -> bool:
    return any(
        getattr(mark, "id", getattr(mark, "attr", "")) == "overload"
        for mark in function.decorator_list
    )


def missing_annotations(function: Function) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    missing = [
        argument.arg
        for argument in named
        if argument.annotation is None and argument.arg not in {"self", "cls"}
    ]
    return missing + ([] if function.returns else ["return"])


def forwards(function: Function, name: str) -> bool:
    """Whether the function hands its `**name` on to a call that checks it."""
    return any(
        keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == name
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
    )


@each_file
def test_no_file_is_longer_than_the_limit(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{lines} lines: one subject a file, at most {LONGEST_FILE}"


@each_file
def test_no_module_is_named_for_nothing(path: Path) -> None:
    words = {
        word
        for part in path.relative_to(SOURCE).with_suffix("").parts
        for word in part.lower().strip("_").split("_")
    }
    assert not words & FORBIDDEN_NAMES, "name a module by what is in it"


@each_file
def test_no_assert_guards_the_library(path: Path) -> None:
    if path.is_relative_to(SOURCE / "testing"):
        pytest.skip("conformance suites assert, as tests do")
    lines = [node.lineno for node in ast.walk(tree_of(path)) if isinstance(node, ast.Assert)]
    assert not lines, f"assert in lines {lines}: raise a driftwell.core.errors class instead"


@each_file
def test_no_signature_swallows_mistakes(path: Path) -> None:
    swallowing = [
        name
        for name, node in public_definitions(path)
        if isinstance(node, Function)
        and node.args.kwarg is not None
        and not forwards(node, node.args.kwarg.arg)
    ]
    assert not swallowing, f"**kwargs that go nowhere in {swallowing}"


@each_file
def test_all_that_is_public_is_documented(path: Path) -> None:
    undocumented = [
        name
        for name, node in public_definitions(path)
        if not name.endswith("__init__")
        and isinstance(node, (Function, ast.ClassDef))
        and not ast.get_docstring(node)
        and not (isinstance(node, Function) and (is_setter(node) or is_overload(node)))
    ]
    if is_public(path) and not ast.get_docstring(tree_of(path)):
        undocumented.append("the module")
    assert not undocumented, f"no docstring: {undocumented}"


@each_file
def test_all_that_is_public_is_annotated(path: Path) -> None:
    missing = {
        name: gaps
        for name, node in public_definitions(path)
        if isinstance(node, Function) and (gaps := missing_annotations(node))
    }
    assert not missing, f"no annotation: {missing}"


@each_file
def test_warnings_are_never_silenced_for_the_user(path: Path) -> None:
    """Global settings are the user's: a filter inside `catch_warnings` is the only one allowed."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(r"warnings\.(filterwarnings|simplefilter)\(", text):
        line_start = text.rfind("\n", 0, match.start()) + 1
        inside = text.rfind("catch_warnings", 0, line_start)
        assert inside >= 0, "warnings are filtered outside of warnings.catch_warnings()"


@pytest.mark.parametrize("name", [n for n in driftwell.__all__ if not n.startswith("__")])
def test_every_name_of_the_top_level_has_an_example_that_runs(name: str) -> None:
    thing = getattr(driftwell, name)
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    assert ">>>" in (inspect.getdoc(thing) or ""), f"driftwell.{name} has no example"


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter, which must end well."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy_or_optional() -> None:
    loaded = set(run_python("import driftwell, sys; print(*sys.modules)").split())
    before = set(run_python("import torch, sys; print(*sys.modules)").split())
    assert not (loaded - before) & NOT_AT_IMPORT


def test_every_room_imports_without_the_optional_packages() -> None:
    """All modules load with plotting, bundled-data, picture and page packages hidden."""
    names = [
        "driftwell." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in FILES
        if path.name not in {"__init__.py", "__main__.py"}
    ]
    hidden = ["matplotlib", "sklearn", "scipy", "PIL", "rich", "onnx", "hypothesis", "pytest"]
    run_python(
        "import sys, importlib\n"
        f"sys.modules.update(dict.fromkeys({hidden!r}))\n"
        f"[importlib.import_module(name) for name in {names!r}]"
    )


def test_the_command_line_answers_help_without_torch() -> None:
    said = run_python(
        "import sys\n"
        "from driftwell.cli.main import main\n"
        "sys.argv = ['driftwell', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    assert said.splitlines()[-1] == "False"


def test_importing_everything_leaves_the_global_settings_of_torch_alone() -> None:
    names = [
        "driftwell." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in FILES
        if path.name not in {"__init__.py", "__main__.py"}
    ]
    settings = (
        "(torch.get_rng_state().sum().item(), torch.get_default_dtype(),"
        " torch.get_float32_matmul_precision(), torch.get_num_threads(),"
        " torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())"
    )
    said = run_python(
        "import torch, importlib, random, warnings\n"
        f"before = {settings}, random.getstate(), list(warnings.filters)\n"
        f"[importlib.import_module(name) for name in {names!r}]\n"
        f"print(before == ({settings}, random.getstate(), list(warnings.filters)))"
    )
    assert said.strip() == "True"


@pytest.mark.parametrize("room", sorted(p.name for p in SOURCE.iterdir() if p.is_dir()))
def test_every_room_has_a_line_that_says_what_it_is(room: str) -> None:
    if room.startswith("__"):
        pytest.skip("a cache")
    module = importlib.import_module(f"driftwell.{room}")
    assert module.__doc__
