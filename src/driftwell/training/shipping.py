"""What runs ship: classifiers and Langevin machines as C, ONNX graphs and packed safetensors."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data import ImageSet
from driftwell.models.equilibrium.classifier import DEQClassifier
from driftwell.quantization.export.c import CReport, equilibrium_network, export_c
from driftwell.quantization.export.c.langevin import export_langevin_c
from driftwell.quantization.export.c.langevin_build import Picture
from driftwell.training.exporting import ExportWish, Shipped

if TYPE_CHECKING:
    from driftwell.training.model_run import ModelRun
    from driftwell.training.run import Run

CALIBRATION = 1000
"""Training images that the ranges of C's integers are taken from."""
COMPILING_SECONDS = 300


def ship_classifier(run: ModelRun, wish: ExportWish, x: Tensor, images: ImageSet) -> Shipped:
    """A deep equilibrium classifier of pixels.

    Args:
        run: the run.
        wish: what is asked.
        x: training images as the model takes them.
        images: the same in pixels.

    Raises:
        InvalidInput: a target that is not there.
    """
    if wish.target != "c":
        from driftwell.training.shipping_onnx import ship_model

        return ship_model(run, wish, x[:CALIBRATION])
    if not isinstance(run.model, DEQClassifier):
        raise InvalidInput(f"{run.path} does not hold an equilibrium classifier")
    network = equilibrium_network(
        run.model, mean=run.tensors["inputs.mean"], scale=float(run.tensors["inputs.scale"])
    )
    pixels = images.flat()[:CALIBRATION].float()
    report = export_c(network, wish.folder, calibration=pixels, name=wish.name)
    facts = _facts(report, wish.folder) | {
        "scores against the float model": f"{100 * report.error:.2f} % apart",
        "same class as the float model": f"{100 * report.agreement:.2f} % of {len(pixels)} images",
    }
    return Shipped((), facts, f"`make -C {wish.folder} && {wish.folder}/self_test` checks it there")


def ship_machine(run: Run, wish: ExportWish) -> Shipped:
    """A Langevin machine that samples images."""
    if wish.target != "c":
        from driftwell.training.shipping_onnx import ship_machine_onnx

        return ship_machine_onnx(run, wish)
    from driftwell.training.generate import with_step_size

    report = export_langevin_c(
        run.machine if run.quantized is None else run.quantized, wish.folder,
        recipe=with_step_size(run), picture=Picture(run.transform, run.height, run.width),
        layout=run.layout, name=wish.name, seed=wish.seed,
    )  # fmt: skip
    facts = _facts(report, wish.folder) | {
        "states against float chains of the same seed": f"{100 * report.error:.2f} % apart",
    }
    there = wish.folder
    return Shipped(
        (), facts, f"`make -C {there} && {there}/sample 1 64 digits.pgm` draws 64 images"
    )


def _facts(report: CReport, folder: Path) -> dict[str, str]:
    return {
        "read-only bytes (ROM)": f"{report.rom_bytes:,}",
        "bytes of buffers (RAM)": f"{report.ram_bytes:,}",
        "multiply-accumulates a run or step": f"{report.macs:,}",
        "vectors in the self-test": str(report.vectors),
        "self-test": _self_test(folder),
    }


def _self_test(folder: Path) -> str:
    """What became of compiling and running the folder's self-test here, in words."""
    compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        return "not run: no C compiler here"
    with tempfile.TemporaryDirectory() as place:
        program = str(Path(place, "self_test"))
        sources = sorted(str(file) for file in folder.glob("*.c"))
        command = [compiler, "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", *sources, "-lm"]
        try:
            for step in ([*command, "-o", program], [program]):
                subprocess.run(
                    step, check=True, capture_output=True, timeout=COMPILING_SECONDS, cwd=place
                )
        except (subprocess.SubprocessError, OSError) as error:
            return f"FAILED here ({error})"
    return f"passed here, compiled by {compiler} without a warning"
