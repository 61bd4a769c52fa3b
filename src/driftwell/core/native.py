"""Compiled kernels: C sources of the package, built at first use with the machine's C compiler.

A kernel is an optimisation with a tested fall-back: whatever goes wrong here (no compiler, a
folder that cannot be written, a damaged file) only means that `load` returns None and that
`status` says why. Environment: `DRIFTWELL_NATIVE=0` switches kernels off, `DRIFTWELL_CACHE`
names the folder of built kernels, `CC` the compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch  # loads the OpenMP runtime that kernels must share

PACKAGE = Path(__file__).resolve().parents[1]

_OPTIMISE = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    # a product and a sum may become one fused operation: faster and more exact
    "-ffp-contract=fast",
    # sqrt need not set errno, comparisons need not trap: both allow vector code. Nothing here
    # assumes finite numbers or reorders sums (-ffast-math would), so NaN and inf stay visible
    "-fno-math-errno",
    "-fno-trapping-math",
)
# the machine's own vector instructions; the built file never leaves it (see `_key`)
_THIS_MACHINE = "-march=native"
_THREADS = "-fopenmp"
_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class NativeStatus:
    """What `driftwell doctor` says about a compiled kernel."""

    available: bool
    compiler: str | None
    flags: tuple[str, ...]
    path: str | None
    reason: str


@dataclass(frozen=True)
class _Loaded:
    library: ctypes.CDLL | None
    status: NativeStatus


class _BuildFailed(Exception):
    """One attempt failed; the text says why."""


class _CompilerHangs(Exception):
    """No use in further attempts."""


_OFF = _Loaded(None, NativeStatus(False, None, (), None, "switched off by DRIFTWELL_NATIVE=0"))
_lock = threading.Lock()
_loaded: dict[str, _Loaded] = {}


def load(name: str) -> ctypes.CDLL | None:
    """The compiled library of a C source of the package, or None where there is none.

    Built once a machine and kept; later calls in a process cost a dictionary look-up.

    Args:
        name: path of the source inside the package, such as ``"core/noise.c"``.

    Example:
        >>> load("core/no_such_kernel.c") is None
        True
    """
    return _get(name).library


def status(name: str = "core/noise.c") -> NativeStatus:
    """How the kernel `name` was built, or why it was not.

    Example:
        >>> isinstance(status().reason, str)
        True
    """
    return _get(name).status


def takes(*tensors: torch.Tensor) -> bool:
    """Whether a kernel may read these: plain numbers on the processor, nothing recorded, traced,
    batched or differentiated by torch.

    Example:
        >>> takes(torch.zeros(2)), takes(torch.zeros(2, requires_grad=True))
        (True, False)
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    ):
        return False
    recording = torch.is_grad_enabled()
    return all(t.device.type == "cpu" and not (recording and t.requires_grad) for t in tensors)


def _get(name: str) -> _Loaded:
    if os.environ.get("DRIFTWELL_NATIVE", "") == "0":
        return _Loaded(
            None, NativeStatus(False, None, (), None, "switched off: DRIFTWELL_NATIVE=0")
        )
    found = _loaded.get(name)
    if found is None:
        with _lock:
            found = _loaded.get(name) or _obtain(name)
            _loaded[name] = found
    return found


def _obtain(name: str) -> _Loaded:
    source = PACKAGE / name
    compiler = _compiler()
    try:
        if not source.is_file():
            raise _BuildFailed(f"no such source in the package: {name}")
        if compiler is None:
            raise _BuildFailed("no C compiler found (looked for $CC, cc, gcc, clang)")
        if os.name != "posix":
            raise _BuildFailed(f"kernels are built on POSIX systems only, not on {os.name}")
        return _first_that_works(source, compiler)
    except (_BuildFailed, _CompilerHangs, OSError) as failure:
        return _Loaded(None, NativeStatus(False, compiler, (), None, str(failure)))


def _first_that_works(source: Path, compiler: str) -> _Loaded:
    """Try the fastest set of flags first; the last one asks for nothing special."""
    runtime = _openmp_runtime()
    threads = (_THREADS,) if runtime is not None else ()
    attempts = [(_THIS_MACHINE, *threads), (_THIS_MACHINE,), ()]
    reasons: list[str] = []
    for extra in dict.fromkeys(attempts):
        flags = (*_OPTIMISE, *extra)
        try:
            path, library = _open_or_build(source, compiler, flags, runtime)
        except (_BuildFailed, OSError) as failure:
            reasons.append(str(failure))
            continue
        how = "built" if _THREADS in flags else "built without threads (no OpenMP runtime shared)"
        return _Loaded(library, NativeStatus(True, compiler, flags, str(path), how))
    raise _BuildFailed(reasons[0])


def _open_or_build(
    source: Path, compiler: str, flags: tuple[str, ...], runtime: str | None
) -> tuple[Path, ctypes.CDLL]:
    file_name = f"{source.stem}-{_key(source, compiler, flags, runtime)}.so"
    reasons = []
    for folder in (_cache_folder, _temporary_folder):
        try:
            path = folder() / file_name
            if not _is_intact(path):
                _build(source, compiler, flags, runtime, path)
            return path, ctypes.CDLL(str(path))
        except (_BuildFailed, OSError) as failure:
            reasons.append(str(failure))
    raise _BuildFailed(reasons[-1])


def _build(
    source: Path, compiler: str, flags: tuple[str, ...], runtime: str | None, path: Path
) -> None:
    """Build beside `path` and move into place: other processes see a whole file or none."""
    with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as scratch:
        compiled, linked = Path(scratch, "kernel.o"), Path(scratch, "kernel.so")
        include = f"-I{PACKAGE / 'core'}"
        _run([compiler, *flags, include, "-c", str(source), "-o", str(compiled)])
        # linked without -fopenmp, against the very file torch has loaded: a second OpenMP
        # runtime would mean a second pool of threads, spinning against the first
        libraries = [runtime] if runtime is not None and _THREADS in flags else []
        _run([compiler, "-shared", str(compiled), *libraries, "-o", str(linked)])
        linked.write_bytes(_sealed(linked.read_bytes()))
        os.chmod(linked, 0o755)
        os.replace(linked, path)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise _CompilerHangs(f"{command[0]} took more than {_TIMEOUT_SECONDS} s") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise _BuildFailed(f"{command[0]} failed: {lines[0].strip()}")


def _sealed(content: bytes) -> bytes:
    """The file with its own digest at the end, where the loader does not look."""
    return content + hashlib.sha256(content).digest()


def _is_intact(path: Path) -> bool:
    """Whether the file is whole and this user's (or root's): loading a damaged one may crash."""
    try:
        if hasattr(os, "getuid") and path.stat().st_uid not in (0, os.getuid()):
            return False
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > 32 and _sealed(content[:-32]) == content


def _key(source: Path, compiler: str, flags: tuple[str, ...], runtime: str | None) -> str:
    """A name for the build: what goes in, what builds it, and the processor it is built for."""
    digest = hashlib.sha256()
    # a kernel may include any header of the package
    for file in (source, *sorted(PACKAGE.rglob("*.h"))):
        digest.update(file.read_bytes())
    about = os.stat(compiler)
    facts = (compiler, about.st_size, about.st_mtime_ns, flags, runtime, _processor())
    digest.update(repr(facts).encode())
    return digest.hexdigest()[:20]


@cache
def _processor() -> str:
    """What -march=native and the linker look at."""
    facts = [sys.platform, platform.machine()]
    # folders may be shared by systems whose C libraries differ
    if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {}):
        facts.append(str(os.confstr("CS_GNU_LIBC_VERSION")))
    try:
        wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            if line.startswith(wanted):
                facts.append(line)
    except OSError:
        facts.append(platform.processor())
    return "\n".join(facts)


def _compiler() -> str | None:
    chosen = os.environ.get("CC", "")
    for candidate in (chosen, "cc", "gcc", "clang"):
        found = shutil.which(candidate) if candidate else None
        if found is not None:
            return found
    return None


def _openmp_runtime() -> str | None:
    """The file of the GNU OpenMP runtime that torch brought into this process.

    Other packages (scikit-learn) bring one of their own, so torch's folder comes first.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    files = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    home = str(Path(torch.__file__).parent)  # with torch.libs beside it
    return min(files, key=lambda file: (not file.startswith(home), file), default=None)


def _cache_folder() -> Path:
    chosen = os.environ.get("DRIFTWELL_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if os.environ.get("DRIFTWELL_CACHE"):
        folder = Path(str(chosen))
    else:
        folder = (Path(chosen) if chosen else Path.home() / ".cache") / "driftwell"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@cache
def _temporary_folder() -> Path:
    """A private folder for this process, removed at its end."""
    holder = tempfile.TemporaryDirectory(prefix="driftwell-")
    _kept_alive.append(holder)
    return Path(holder.name)


_kept_alive: list[tempfile.TemporaryDirectory[str]] = []
