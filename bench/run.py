"""Run the benchmarks, each in a process of its own, and say which goals are met.

    make bench                                   all of them; image_quality takes most of an hour
    make bench ARGS="--skip image_quality"       the others, in a few minutes
    python bench/run.py --only langevin_step     one

Peers are installed into bench/.venv, once. Results go to bench/results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BENCHMARKS = (
    "imports",
    "noise",
    "langevin_step",
    "fixed_points",
    "fixed_point_solvers",
    "fixed_point_gradients",
    "low_bit_products",
    "quantized_langevin",
    "quantization_error",
    "samplers_quality",
    "image_quality",
)
THREADS = 2
PEERS = ("torchebm==0.8.9", "torchdeq==0.1.0", "torchao==0.18.0", "onnx", "onnxruntime==1.31.1")


def main() -> int:
    chosen = _options()
    names = [n for n in chosen.only or BENCHMARKS if n not in chosen.skip]
    python = _environment()
    failed, began = [], time.time()
    for name in names:
        print(f"\n{'=' * 16} {name} {'=' * (82 - len(name))}", flush=True)
        start = time.monotonic()
        done = subprocess.run(
            [str(python), str(HERE / f"{name}.py"), *_passed_on(chosen, name)],
            cwd=ROOT, env=_settings(),
        )  # fmt: skip
        print(f"({name} took {time.monotonic() - start:.0f} s)", flush=True)
        if done.returncode != 0:
            failed.append(name)
    _summarise(names, began)
    for name in failed:
        print(f"bench: {name} failed, see its messages above", file=sys.stderr)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    only = {"action": "append", "choices": BENCHMARKS, "default": [], "metavar": "NAME"}
    parser.add_argument("--only", **only, help="run this one; may be given again")
    parser.add_argument("--skip", **only, help="leave this one out; may be given again")
    parser.add_argument("--quick", action="store_true", help="a smoke test: figures mean nothing")
    parser.add_argument("--long", action="store_true", help="more repeats; two hours of training")
    parser.add_argument("--minutes", type=float, help="of training in image_quality, each (15)")
    parser.add_argument("--longest", type=float,
                        help="longest training of default in image_quality, seconds")  # fmt: skip
    parser.add_argument("--precision", choices=("highest", "medium"),
                        help="of torch's float32 products in image_quality (highest)")  # fmt: skip
    return parser.parse_args()


def _passed_on(chosen: argparse.Namespace, name: str) -> list[str]:
    flags = [f"--{flag}" for flag in ("quick", "long") if getattr(chosen, flag)]
    if name == "image_quality":
        for option in ("minutes", "longest", "precision"):
            if getattr(chosen, option) is not None:
                flags += [f"--{option}", str(getattr(chosen, option))]
    return flags


def _settings() -> dict[str, str]:
    """Two threads that wait instead of spin: another process then costs a share, not a factor."""
    threads = str(min(THREADS, os.cpu_count() or 1))
    return {
        **os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


# ---------------------------------------------------------------- the environment with the peers


def _environment() -> Path:
    """The interpreter to run in: bench/.venv's, or this one where that cannot be made."""
    folder = HERE / ".venv"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp, key = folder / ".set-up", _key()
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == key:
        return python
    print(f"bench: setting up {folder.relative_to(ROOT)} with driftwell and its peers", flush=True)
    if not python.exists():
        venv.create(folder, with_pip=True)
    why = _install(python, "torch", "numpy", "-e", ".[bench]")
    if why:
        print(f"bench: running in {sys.executable} instead, without peers, because {why}")
        return Path(sys.executable)
    why = _install(python, *PEERS)
    if why:
        print(f"bench: rows of peers are left out, because {why}")
        return python  # without a stamp, so that the next run tries again
    stamp.write_text(key, encoding="utf-8")
    return python


def _key() -> str:
    digest = hashlib.sha256(repr((PEERS, sys.version)).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _install(python: Path, *packages: str) -> str:
    """Install under the constraints, which pin torch; what went wrong, or nothing."""
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet",
         *shlex.split(os.environ.get("PIP_FLAGS", "")), "-c", "constraints.txt", *packages],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if "rror" in line]
    return f"pip could not install {' '.join(packages)}: {lines[-1] if lines else 'no message'}"


# ---------------------------------------------------------------- summary


def _summarise(names: list[str], began: float) -> None:
    """All goals of this run's benchmarks once more, from their result files."""
    lines = []
    for name in names:
        path = HERE / "results" / f"{name}.json"
        if not path.exists() or path.stat().st_mtime < began:
            continue
        for goal in json.loads(path.read_text(encoding="utf-8"))["goals"]:
            verdict = {True: "met", False: "NOT MET", None: "not measured"}[goal["met"]]
            value = "" if goal["value"] is None else f": {goal['value']:.3g}"
            lines.append((goal["met"], f"{verdict:>12}  {name}: {goal['goal']}{value}"))
    if lines:
        print(f"\n{'=' * 16} goals {'=' * 77}")
        print("\n".join(line for _, line in lines))
        print(f"{sum(met is True for met, _ in lines)} of {len(lines)} goals met")


if __name__ == "__main__":
    sys.exit(main())
