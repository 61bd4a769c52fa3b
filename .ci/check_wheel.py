"""Compare a wheel with the source tree: everything of the package is in it, and nothing else is."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"


def main(wheel: str) -> int:
    """Print what is missing or strange; 0 when nothing is."""
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if not name.endswith("/")}
    metadata = {name for name in shipped if ".dist-info/" in name}
    expected = {
        path.relative_to(SOURCE).as_posix()
        for path in (SOURCE / "driftwell").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".so", ".pyc"}
    }
    faults = [f"missing: {name}" for name in sorted(expected - shipped)]
    faults += [f"strange: {name}" for name in sorted(shipped - metadata - expected)]
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        faults.append("missing: the licence")
    for fault in faults:
        print(f"  FAULT {Path(wheel).name}: {fault}")
    sources = sum(name.endswith((".c", ".h")) for name in shipped)
    print(f"{Path(wheel).name}: {len(shipped)} files, {sources} of them C sources")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
