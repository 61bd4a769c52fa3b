"""`python -m driftwell`, which torchrun needs: the same as the command `driftwell`."""

from __future__ import annotations

import sys

from driftwell.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
