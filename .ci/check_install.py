"""Try driftwell as a plain install has it: its own interpreter, no extras, no checkout.

Run with the interpreter of the environment the wheel was installed into, from an empty folder.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(sys.executable).parent
SAMPLE = """
import torch
import driftwell as dw

energy = lambda z: 0.5 * z.square().sum(-1)
sampler = dw.Langevin(step_size=0.2)
chains = dw.sample(energy, torch.zeros(64, 3), steps=200, sampler=sampler, seed=1)
assert chains.z.shape == (64, 3) and chains.z.isfinite().all()
assert 0.5 < chains.z.var().item() < 1.6, chains.z.var()
point = dw.fixed_point(lambda z: 0.5 * z.cos(), torch.zeros(4, 2))
assert (0.5 * point.z.cos() - point.z).abs().max() < 1e-4
machine = dw.NeuralLangevinMachine(8)
print("sampled, settled, and built a machine of 8 neurons")
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command and show it with what it says."""
    print(
        "$", " ".join(Path(word).name if "/" in word else word.split("\n")[0] for word in command)
    )
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=300
    )
    print((done.stdout + done.stderr).rstrip())
    return done


def succeeds(*command: str) -> None:
    """Run a command that must end well."""
    done = run(*command)
    if done.returncode:
        sys.exit(f"check_install: exit status {done.returncode}")


def refuses(*command: str, naming: str) -> None:
    """Run a command that must fail with a sentence naming something, and not with a traceback."""
    done = run(*command)
    said = done.stdout + done.stderr
    if not done.returncode or "Traceback" in said or naming not in said:
        sys.exit(f"check_install: expected a sentence naming {naming!r}, status not 0")


def main(checkout: str) -> None:
    """Check the install against the checkout it was built from, which it must not be using."""
    package = importlib.util.find_spec("driftwell")
    if package is None or package.origin is None or package.origin.startswith(checkout + "/src"):
        sys.exit("check_install: driftwell is not the installed one")
    for extra in ("sklearn", "matplotlib", "scipy", "pytest", "torchvision"):
        if importlib.util.find_spec(extra):
            sys.exit(f"check_install: a plain install brought {extra}")
    print(f"driftwell {version('driftwell')}, torch {version('torch')}")
    driftwell = str(HERE / "driftwell")
    succeeds(sys.executable, "-c", "import driftwell")
    succeeds(driftwell, "--help")
    succeeds(driftwell, "doctor")
    succeeds(driftwell, "claims", "list")
    succeeds(sys.executable, "-c", SAMPLE)
    refuses(
        driftwell,
        "train",
        "nlm",
        "--data",
        "digits",
        "--updates",
        "1",
        "--out",
        "run",
        naming="demo",
    )
    if Path("run").exists():
        sys.exit("check_install: a refused command left its folder behind")


if __name__ == "__main__":
    main(sys.argv[1])
