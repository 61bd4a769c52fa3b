"""`driftwell doctor`: what is installed, what is fast here, and what falls back."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from driftwell.cli.settings import use_machine
from driftwell.core import native
from driftwell.quantization.execution import kernels as low_bit_kernels
from driftwell.training.checkpoint import versions

# importable name -> (distribution, extra, what it is for)
_OPTIONAL = {
    "matplotlib": ("matplotlib", "plot", "figures and the report"),
    "sklearn": ("scikit-learn", "demo", "the bundled digits"),
    "PIL": ("pillow", "", "picture files"),
    "rich": ("rich", "", "progress bars and tables"),
    "jinja2": ("jinja2", "", "the report's page"),
    "onnx": ("onnx", "onnx", "exports to ONNX"),
    "onnxruntime": ("onnxruntime", "onnx", "checks of exported graphs"),
    "scipy": ("scipy", "dev", "tests only"),
}
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni")


def run(options: argparse.Namespace) -> int:
    """Print what was found; the exit status, always 0."""
    use_machine(options.threads)
    found = examine()
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    _print(found)
    return 0


def examine() -> dict[str, Any]:
    """What is installed and what this machine offers, as plain values.

    Example:
        >>> "low_bit_products" in examine()
        True
    """
    found: dict[str, Any] = {
        "versions": {**versions(), "system": platform.platform()},
        "torch": _torch(),
        "processor": _processor(),
        "kernels": _kernels(),
        "low_bit_products": _low_bit_products(),
        "optional": _optional(),
        "data": _data(),
    }
    found["advice"] = _advice(found)
    return found


def _torch() -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.backends.mps.is_available():
        device = "mps"
    return {
        "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only",
        "best_device": device,
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available(),
        "waiting_threads": os.environ.get("OMP_WAIT_POLICY", "unset").lower(),
    }


def _processor() -> dict[str, Any]:
    text = ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        pass
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "name": fields.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        **{flag: flag in flags for flag in _FLAGS},
    }


def _kernels() -> dict[str, Any]:
    sources = sorted(p.relative_to(native.PACKAGE).as_posix() for p in native.PACKAGE.rglob("*.c"))
    found = {}
    for name in sources:
        status = native.status(name)
        found[name] = {
            "available": status.available, "compiler": status.compiler,
            "flags": list(status.flags), "path": status.path, "reason": status.reason,
        }  # fmt: skip
    return found


def _low_bit_products() -> list[dict[str, Any]]:
    """Every kernel for packed weights, with what its self-test says here."""
    return [
        {"name": k.name, "activations": k.activations, "available": k.available, "why": k.why}
        for k in low_bit_kernels()
    ]


def _optional() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (distribution, extra, purpose) in _OPTIONAL.items():
        there: str | None = None
        if find_spec(name) is not None:
            try:
                there = version(distribution)
            except PackageNotFoundError:
                there = "unknown version"
        found[distribution] = {"version": there, "extra": extra, "purpose": purpose}
    return found


def _data() -> dict[str, Any]:
    folder = os.environ.get("DRIFTWELL_DATA", "")
    root = Path(folder).expanduser() if folder else None
    sets = {
        "mnist": ("mnist",),
        "fashion": ("fashion-mnist", "fashion"),
        "cora, citeseer": ("planetoid",),
    }
    return {
        "DRIFTWELL_DATA": folder or None,
        "digits": find_spec("sklearn") is not None,
        **{
            name: root is not None and any((root / f).is_dir() for f in folders)
            for name, folders in sets.items()
        },
    }


def _advice(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, kernel in found["kernels"].items():
        if not kernel["available"]:
            lines.append(
                f"{name} is not compiled ({kernel['reason']}): its work is done by torch, with "
                "the same results to rounding but several times slower; install a C compiler"
            )
    for name, package in found["optional"].items():
        if package["version"] is None:
            extra = f"driftwell[{package['extra']}]" if package["extra"] else name
            lines.append(f"{name} is missing ({package['purpose']}): pip install '{extra}'")
    cpu, onednn = found["processor"], found["torch"]["onednn"]
    if onednn and "AMD" in str(cpu["name"]):
        lines.append(
            "on AMD processors --precision medium may be about twice as fast as the default at "
            "the same accuracy: compare both with `driftwell measure`"
        )
    if cpu["avx512_bf16"] or cpu["amx_bf16"]:
        lines.append("this processor has bfloat16 products: --precision bfloat16 is fast here")
    if found["data"]["DRIFTWELL_DATA"] is None:
        lines.append(
            "DRIFTWELL_DATA is not set: --data mnist, fashion, cora and citeseer have no folder to "
            "read (nothing is ever downloaded)"
        )
    return lines


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(show_header=False, box=None)
    table.add_row("versions", ", ".join(f"{k} {v}" for k, v in found["versions"].items()))
    table.add_row("torch", _pairs(found["torch"]))
    table.add_row("processor", _pairs(found["processor"]))
    for name, kernel in found["kernels"].items():
        flags = " ".join(kernel["flags"])
        how = (
            f"{kernel['reason']} by {kernel['compiler']} {flags}"
            if kernel["available"]
            else (f"not available: {kernel['reason']}")
        )
        table.add_row("kernel", escape(f"{name}: {how}"))
    for low in found["low_bit_products"]:
        works = "works" if low["available"] else "not used"
        words = f"{low['name']} ({low['activations']}): {works}, {low['why']}"
        table.add_row("low bits", escape(words))
    for name, package in found["optional"].items():
        table.add_row("package", f"{name} {package['version'] or 'missing'} ({package['purpose']})")
    table.add_row("data", _pairs(found["data"]))
    console.print(table)
    for line in found["advice"]:
        console.print(f"- {escape(line)}")


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{_spaced(key)} {_word(value)}" for key, value in values.items())


def _spaced(key: str) -> str:
    return key.replace("_", " ") if key.islower() else key


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else str(value)
