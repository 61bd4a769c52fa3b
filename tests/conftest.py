"""What every test runs under: one thread, no screen, no network, and the folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

# Read when torch starts its threads. Two test processes share two cores, so each takes one thread;
# threads that wait must not spin on the core of the other process.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Root of the checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real data sets: DRIFTWELL_DATA, else `shared/data` beside the checkout, else skip.

    A folder that DRIFTWELL_DATA names and that is not there is an error and not a reason to skip.
    """
    named = os.environ.get("DRIFTWELL_DATA", "")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            pytest.fail(f"DRIFTWELL_DATA names {named!r}, which is not a folder")
        return folder
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data: set DRIFTWELL_DATA to the folder that holds mnist/ and the rest")
    return folder
