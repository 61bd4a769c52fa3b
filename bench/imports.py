"""How long `import driftwell` and `driftwell --help` take, each in processes of their own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from timing import at_most, options, say_goals, say_machine, table, write_results

_IMPORT = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import driftwell
end = time.perf_counter()
driftwell.sample
last = time.perf_counter()
print(middle - start, end - middle, last - middle)
"""


def main(given: list[str] | None = None) -> int:
    chosen = options(__doc__, given=given)
    say_machine()
    runs = 3 if chosen.quick else (41 if chosen.long else 15)
    command = _command()
    _import_times()  # byte code is written, files are read into memory
    imports, helps, starts = [], [], []
    for _ in range(runs):
        imports.append(_import_times())
        helps.append(_wall([*command, "--help"]))
        starts.append(_wall([sys.executable, "-c", "pass"]))
    torch_, ours, first_use = ([row[i] for row in imports] for i in range(3))
    columns = {
        "import torch": torch_,
        "import driftwell, after torch": ours,
        "the same and driftwell.sample, its first use": first_use,
        "driftwell --help, whole process": helps,
        "python -c pass, whole process": starts,
    }
    rows = [[name, statistics.median(t), min(t), max(t)] for name, t in columns.items()]
    print(table(f"seconds, {runs} processes each", ["what", "median", "best", "worst"], rows))
    goals = [
        at_most("import driftwell adds < 0.15 s to import torch", statistics.median(ours), 0.15),
        at_most("driftwell --help in < 0.3 s", statistics.median(helps), 0.3),
    ]
    say_goals(goals)
    write_results("imports", {"seconds": columns}, goals)
    return 0


def _command() -> list[str]:
    """The installed script of this environment, else the module."""
    script = Path(sys.executable).with_name("driftwell")
    return [str(script)] if script.exists() else [sys.executable, "-m", "driftwell"]


def _import_times() -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True
    )
    return [float(word) for word in done.stdout.split()]


def _wall(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
