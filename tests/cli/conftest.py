"""The command line in processes of its own, without paying for an import of torch each time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Loads everything once, then forks a fresh process for each command it is told to run. A job may
# ask for a signal: so long after a file has so many lines.
SERVER = """
import json, os, resource, signal, sys, time, traceback
# a shell that started the tests in the background has Ctrl-C ignored, in all its children
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
import driftwell.cli.train, driftwell.cli.sample, driftwell.cli.doctor
from driftwell.cli.main import main
from driftwell.core import native
for source in native.PACKAGE.rglob("*.c"):
    native.load(source.relative_to(native.PACKAGE).as_posix())

torch.optim.Adam([torch.zeros(1)])  # the first one imports much of torch

def child(job):
    log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    os.environ.update(job["environment"])
    if job["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"],) * 2)
    try:
        status = main(job["arguments"])
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)

def lines(path):
    try:
        return open(path, "rb").read().count(b"\\n")
    except OSError:
        return 0

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    open(job["log"], "w").close()
    pids = []
    for environment in job["environments"]:
        pid = os.fork()
        if pid == 0:
            child({**job, "environment": environment})
        pids.append(pid)
    if job["signal"]:
        while lines(job["watch"]) < job["lines"] and os.waitid(
            os.P_PID, pids[0], os.WEXITED | os.WNOHANG | os.WNOWAIT
        ) is None:
            time.sleep(0.001)
        time.sleep(job["delay"])
        for pid in pids:
            os.kill(pid, job["signal"])
    found = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(found), flush=True)
"""


@dataclass
class Ended:
    """How a command ended: exit status (negative: the signal that killed it) and all it said."""

    status: int
    said: str


class CommandLine:
    """Runs `driftwell ARGUMENTS` in a fresh process."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )  # fmt: skip
        self.read()

    def read(self) -> str:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, "the server of processes died"
        return line

    def __call__(
        self,
        *arguments: object,
        signal: int = 0,
        watch: Path | None = None,
        lines: int = 0,
        delay: float = 0.0,
        largest_file: int = 0,
        processes: int = 1,
    ) -> Ended:
        environments: list[dict[str, str]] = [{}]
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
            environments = [
                {**meeting, "RANK": str(rank), "WORLD_SIZE": str(processes)}
                for rank in range(processes)
            ]
        job: dict[str, Any] = {
            "arguments": [str(a) for a in arguments], "environments": environments,
            "log": str(self.log), "signal": signal, "watch": str(watch), "lines": lines,
            "delay": delay, "largest_file": largest_file,
        }  # fmt: skip
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        statuses = json.loads(self.read())
        return Ended(max(statuses, key=abs), self.log.read_text(errors="replace"))

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=60)
        assert self.server.stdout is not None
        self.server.stdout.close()


@pytest.fixture(scope="session")
def driftwell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    if os.name != "posix":
        pytest.skip("processes are forked")
    command = CommandLine(tmp_path_factory.mktemp("log") / "said.txt")
    yield command
    command.close()


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of 4x4 with two classes: stripes across or along, at random places."""
    random = np.random.default_rng(0)
    images = np.full((60, 4, 4), 0.1, dtype=np.float32)
    labels = np.arange(60) % 2
    for image, label in zip(images, labels, strict=True):
        place = random.integers(4)
        if label:
            image[:, place] = 0.9
        else:
            image[place] = 0.9
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture
def small(stripes: Path) -> list[str]:
    """Options of a training of 16 neurons that takes a fraction of a second."""
    settings = {"chains": 12, "batch": 10, "langevin_steps": 3, "sample_steps": 20, "updates": 9}
    changes = [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
    return ["--data", str(stripes), "--preset", "yu2025-pcd", *changes, "--quiet"]
