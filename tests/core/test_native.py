"""Compiled kernels: built once, shared, and never missed when they cannot be had."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from driftwell.core import native

KERNEL = "core/noise.c"
compiled_only = pytest.mark.skipif(
    native.load(KERNEL) is None, reason=f"no compiled kernel: {native.status().reason}"
)

PROBE = """
import sys, torch
from driftwell.core import native, noise
w = noise.words((1, 4), seed=0, purpose=0, chains=1, step=0)[0].tolist()
how = ""
if "only_noise" not in sys.argv:
    from driftwell.models.langevin.kernels import langevin_steps
    x, how = langevin_steps(torch.ones(2, 3), torch.zeros(3, 3), torch.zeros(3), steps=1,
                            step_size=0.5, temperature=0.0, seed=0, first_step=0, chains=2)
    assert x.tolist() == [[0.5] * 3] * 2
try:
    runtimes = len({l.split()[-1] for l in open("/proc/self/maps") if "libgomp" in l})
except OSError:
    runtimes = 0
print(noise.backend(), how, [hex(i) for i in w], native.status().reason, runtimes, sep="|")
"""
ANSWER = "['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']"


def start(cache: Path, *, only_noise: bool = False, **environment: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("DRIFTWELL_NATIVE", "CC")}
    env |= {"DRIFTWELL_CACHE": str(cache), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", PROBE, *(["only_noise"] if only_noise else [])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> list[str]:
    """What the probe printed; it must end well and be silent about its kernels."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    fields = out.strip().split("|")
    assert fields[2] == ANSWER
    return fields


def test_switched_off_means_eager(tmp_path: Path) -> None:
    backend, how, _, reason, _ = finish(start(tmp_path, DRIFTWELL_NATIVE="0"))
    assert (backend, how) == ("eager", "eager")
    assert "DRIFTWELL_NATIVE=0" in reason
    assert list(tmp_path.iterdir()) == []


def test_no_compiler_means_eager(tmp_path: Path) -> None:
    backend, how, _, reason, _ = finish(start(tmp_path, PATH=""))
    assert (backend, how) == ("eager", "eager")
    assert "no C compiler found" in reason


@compiled_only
def test_a_compiler_that_fails_means_eager(tmp_path: Path) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'broken-cc: error: no space left' >&2\nexit 1\n")
    broken.chmod(0o755)
    backend, how, _, reason, _ = finish(start(tmp_path / "cache", CC=str(broken)))
    assert (backend, how) == ("eager", "eager")
    assert "no space left" in reason


def build_here(flags: tuple[str, ...] | None = None) -> tuple[Path, ctypes.CDLL]:
    """What `load` does for a kernel that this process has not asked for yet."""
    status = native.status(KERNEL)
    assert status.compiler is not None
    runtime = native._openmp_runtime()
    return native._open_or_build(
        native.PACKAGE / KERNEL, status.compiler, status.flags if flags is None else flags, runtime
    )


@compiled_only
def test_processes_that_build_at_the_same_time_share_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they, like torch, use one OpenMP runtime: two would spin against each other."""
    racing = [start(tmp_path, only_noise=True) for _ in range(2)]
    for process in racing:
        backend, *_, runtimes = finish(process)
        assert backend == "native"
        assert runtimes in ("0", "1")
    (built,) = tmp_path.iterdir()
    before = built.stat().st_mtime_ns
    monkeypatch.setenv("DRIFTWELL_CACHE", str(tmp_path))
    assert build_here()[0] == built
    assert built.stat().st_mtime_ns == before


@compiled_only
def test_a_damaged_file_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTWELL_CACHE", str(tmp_path))
    path, _ = build_here()
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        part = tmp_path / "part"
        part.write_bytes(damaged)  # moved into place: the good file is in use by this process
        part.replace(path)
        assert build_here()[0] == path
        content = path.read_bytes()
        assert len(content) > 4096
        assert hashlib.sha256(content[:-32]).digest() == content[-32:]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@compiled_only
def test_a_folder_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("DRIFTWELL_CACHE", str(in_the_way / "cache"))
    path, _ = build_here()
    assert path.is_file()
    assert not path.is_relative_to(tmp_path)


@compiled_only
@pytest.mark.parametrize("extra", [(), ("-mavx2", "-mfma")], ids=["plain", "avx2"])
def test_narrower_instruction_sets_give_the_same_noise(
    extra: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extra and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    monkeypatch.setenv("DRIFTWELL_CACHE", str(tmp_path))
    _, narrow = build_here((*native._OPTIMISE, *extra))
    wide = native.load(KERNEL)
    assert wide is not None
    chains, elements = torch.tensor([0, 7, 2**32 - 1]), 1003
    for name, dtype in (("words", torch.int64), ("uniform_f32", torch.float32),
                        ("normal_f32", torch.float32), ("normal_f64", torch.float64)):  # fmt: skip
        made = []
        for library in (narrow, wide):
            out = torch.empty(3, elements, dtype=dtype)
            getattr(library, f"driftwell_{name}")(
                ctypes.c_void_p(chains.data_ptr()), ctypes.c_int64(3), ctypes.c_int64(elements),
                ctypes.c_uint64(2**63 + 5), ctypes.c_uint32(9), ctypes.c_uint32(0x10203),
                ctypes.c_int(1), ctypes.c_void_p(out.data_ptr()),
            )  # fmt: skip
            made.append(out)
        tolerance = {torch.float32: 6e-7, torch.float64: 2e-15}.get(dtype, 0.0)
        if name.startswith("normal"):
            torch.testing.assert_close(made[0], made[1], rtol=tolerance, atol=0.0)
        else:
            assert torch.equal(made[0], made[1])


def test_a_source_that_is_not_there_is_a_reason_and_not_an_error() -> None:
    assert native.load("core/no_such_kernel.c") is None
    status = native.status("core/no_such_kernel.c")
    assert not status.available
    assert "no such source" in status.reason


@compiled_only
def test_status_says_how_a_kernel_was_built() -> None:
    status = native.status(KERNEL)
    assert status.available
    assert status.path is not None
    assert Path(status.path).is_file()
    assert "-O3" in status.flags


@compiled_only
def test_torchs_openmp_runtime_is_taken_and_no_other_packages() -> None:
    """scikit-learn brings its own libgomp: a kernel on that one would spin against torch."""
    pytest.importorskip("sklearn.cluster")
    runtime = native._openmp_runtime()
    if runtime is None:
        pytest.skip("torch brought no libgomp")
    assert runtime.startswith(str(Path(torch.__file__).parent))
