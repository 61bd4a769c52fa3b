"""Denoising digits by a convolutional learned proximal network: PSNR by loss, and its prior."""

from __future__ import annotations

import math
import sys

import torch
from timing import options, say_machine, table, write_results
from torch import Tensor

from driftwell.core.noise import Purpose, normal, permutation
from driftwell.data import load
from driftwell.models.proximal import LPN, Stage, train_denoiser

SIGMA, BATCH, HIDDEN, DEPTH = 0.2, 64, 16, 4
SEED = 0


def main(given: list[str] | None = None) -> int:
    chosen = options(__doc__, given=given)
    say_machine()
    train, test = load("digits", "train").images, load("digits", "test").images
    updates = 60 if chosen.quick else 6000 if chosen.long else 1000
    noise = normal(test.shape, seed=SEED, purpose=Purpose.PROBE, chains=len(test), step=0)
    noisy = test + SIGMA * noise
    mean = train.mean(0).expand_as(test)
    rows = [["noisy", _psnr(noisy, test), "", ""], ["mean image", _psnr(mean, test), "", ""]]
    measured = {"noisy": {"psnr": rows[0][1]}}
    for name, schedule in _schedules(updates, test[0].numel()).items():
        lpn = LPN((8, 8), hidden=HIDDEN, depth=DEPTH, seed=SEED)
        train_denoiser(lpn, lambda k: _batch(train, k), SIGMA, schedule, seed=SEED)
        with torch.no_grad():
            clean = lpn.prox(noisy)
        few = lpn.prior(torch.cat([test[:16], noisy[:16]]), tol=1e-3, max_steps=300)
        gap = float((few.value[16:] - few.value[:16]).mean())
        rows.append([name, _psnr(clean, test), gap, float(few.error.median())])
        measured[name] = {"psnr": rows[-1][1], "prior_gap": gap, "error": rows[-1][3]}
    head = ["by", "PSNR, dB", "R(noisy) - R(clean)", "error of f(y) = x"]
    print(table(f"digits 8x8, noise {SIGMA}, {updates} updates a network", head, rows))
    write_results("lpn_denoising", measured)
    return 0


def _schedules(updates: int, pixels: int) -> dict[str, tuple[Stage, ...]]:
    """l1, l2, and l1 followed by matching with gamma falling to the norm of half the noise."""
    wide = SIGMA * math.sqrt(pixels)
    part = updates // 4
    return {
        "LPN, l2": (Stage(math.inf, updates, 1e-2, 1e-4),),
        "LPN, l1": (Stage(None, updates, 1e-2, 1e-4),),
        "LPN, proximal matching": (
            Stage(None, 2 * part, 1e-2, 1e-3),
            Stage(wide, part, 1e-3),
            Stage(wide / 2, part, 1e-3, 1e-4),
        ),
    }


def _batch(images: Tensor, update: int) -> Tensor:
    rows = permutation(len(images), seed=SEED, purpose=Purpose.DATA, step=update)[:BATCH]
    return images[rows]


def _psnr(images: Tensor, truth: Tensor) -> float:
    return -10 * math.log10(float((images - truth).square().mean()))


if __name__ == "__main__":
    sys.exit(main())
