"""Keyed normal numbers against torch's own generator: millions a second."""

from __future__ import annotations

import sys

import torch
from timing import Variant, duration, interleave, options, say_machine, table, write_results

from driftwell.core import noise

SHAPES = ((256, 64), (256, 784), (256, 1296))
EAGER, NATIVE, TORCH = "driftwell, eager torch", "driftwell, compiled", "torch normal_"


def main(given: list[str] | None = None) -> int:
    chosen = options(__doc__, given=given)
    say_machine()
    rows, measured = [], {}
    for shape in SHAPES:
        found = interleave(_variants(shape), seconds=duration(chosen, 4.0, 0.2), least=5)
        rates = {name: 1e-6 / each.median for name, each in found.items()}
        best = {name: 1e-6 / each.best for name, each in found.items()}
        rows += [
            [f"{shape[0]} x {shape[1]}", name, rate, best[name], rate / rates[TORCH]]
            for name, rate in rates.items()
        ]
        measured["x".join(map(str, shape))] = {"median": rates, "best": best}
    head = ["shape", "by", "M/s, median", "M/s, best", "of torch's"]
    print(table("standard normal numbers, float32", head, rows))
    if noise.backend() != "native":
        print("the compiled generator is not available here: see `driftwell doctor`")
    write_results("noise", {"million_per_second": measured})
    return 0


def _variants(shape: tuple[int, int]) -> list[Variant]:
    out = torch.empty(shape)
    generator = torch.Generator().manual_seed(0)

    def keyed(backend: noise.Backend) -> torch.Tensor:
        return noise.normal(
            shape, seed=1, purpose=noise.Purpose.DYNAMICS, chains=shape[0], step=7, out=out,
            backend=backend,
        )  # fmt: skip

    work = float(out.numel())
    variants = [
        Variant(TORCH, lambda: out.normal_(generator=generator), work),
        Variant(EAGER, lambda: keyed("eager"), work),
    ]
    if noise.backend() == "native":
        variants.insert(0, Variant(NATIVE, lambda: keyed("native"), work))
    return variants


if __name__ == "__main__":
    sys.exit(main())
