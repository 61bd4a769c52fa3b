"""What runs ship as ONNX graphs and as packed safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.models.equilibrium.classifier import DEQClassifier
from driftwell.models.proximal import LPN
from driftwell.quantization.export.onnx import OnnxReport, export_onnx
from driftwell.quantization.export.onnx.equilibrium import SettledClassifier
from driftwell.quantization.export.onnx.langevin import AnnealedStep, LangevinStep
from driftwell.quantization.export.onnx.report import LARGEST
from driftwell.quantization.export.onnx.runtime import run_session, session_of
from driftwell.quantization.export.safetensors import export_safetensors
from driftwell.quantization.formats import save_packed
from driftwell.quantization.langevin import (
    QuantizedLangevinMachine,
    QuantizedNoiseConditionalMachine,
)
from driftwell.training.exporting import ExportWish, Shipped
from driftwell.training.quantized_machine import packed_couplings
from driftwell.training.quantized_run import NOTED

if TYPE_CHECKING:
    from driftwell.training.model_run import ModelRun
    from driftwell.training.run import Run

CHECKED = 1000
"""Rows that a graph is compared with the model on."""
EXAMPLE, CHAINS, STEPS = 8, 64, 100
"""Rows of the example of a graph's inputs; chains, and their steps, that a step is checked on."""


def ship_model(run: ModelRun, wish: ExportWish, x: Tensor) -> Shipped:
    """A trained network, quantized or not, as ONNX; a quantized one as safetensors.

    Args:
        run: the run.
        wish: what is asked.
        x: inputs as the model takes them, two or more.

    Raises:
        InvalidInput: a model that the format cannot carry.
        MissingExtra: the packages of the extra ``onnx`` are not installed.
    """
    if wish.target == "safetensors":
        return _model_file(run, wish)
    if wish.target != "onnx":
        raise InvalidInput(f"a run of {run.config.model} has no form in {wish.target}: take onnx")
    x = x[:CHECKED]
    model: Any = run.model
    if isinstance(model, DEQClassifier):
        mean, scale = run.tensors["inputs.mean"], run.tensors["inputs.scale"]

        def scored(pixels: Tensor) -> tuple[Tensor, Tensor]:
            logits, found = model((pixels - mean.to(pixels)) / scale.to(pixels))
            return logits, found.steps

        pixels = x * scale.to(x) + mean.to(x)
        report = export_onnx(
            SettledClassifier(model, mean=mean, scale=scale), [pixels[:EXAMPLE]], wish.folder,
            name=wish.name, test_inputs=[pixels], reference=scored, input_names=["pixels"],
            output_names=["logits", "steps"],
        )  # fmt: skip
        return _graph(report, "takes pixels in [0, 1], a row an image, and gives logits")
    if isinstance(model, LPN):
        report = export_onnx(
            model.eval(), [x[:EXAMPLE]], wish.folder, name=wish.name, test_inputs=[x],
            input_names=["noisy"], output_names=["denoised"],
        )  # fmt: skip
        return _graph(report, "takes noisy images and gives denoised ones", classes=False)
    raise InvalidInput(
        f"{run.path} holds a run of {run.config.model}, whose sparse products over a graph have no "
        "ONNX form here: take --to safetensors"
    )


def ship_machine_onnx(run: Run, wish: ExportWish) -> Shipped:
    """A quantized Langevin machine: one step as a graph, or its codes as safetensors.

    Raises:
        InvalidInput: a float machine.
        MissingExtra: the packages of the extra ``onnx`` are not installed.
    """
    if run.quantized is None:
        raise InvalidInput(
            f"{run.path} is not quantized: `driftwell quantize {run.path} --bits 4 --out OUT` "
            "first, and export that"
        )
    if wish.target == "safetensors":
        return _machine_file(run, wish)
    step: LangevinStep | AnnealedStep
    names = ["x", "noise", "step_size"]
    x = run.machine.initial_state(CHAINS, seed=wish.seed)
    given = [x, _noise(x, wish.seed, 0), x.new_full((CHAINS,), _step_size(run))]
    if isinstance(run.quantized, QuantizedLangevinMachine):
        step = LangevinStep(run.quantized, run.transform, run.layout.visible)
    else:
        step = AnnealedStep(run.quantized, run.transform)
        names += ["sigma", "labels"]
        level = x.new_full((CHAINS,), run.quantized.sigma_max)
        given += [level, x.new_zeros(CHAINS, run.quantized.labels)]
    report = export_onnx(
        step, given, wish.folder, name=wish.name, input_names=names, output_names=["next", "shown"]
    )
    apart = _chains_apart(step, report.path, given, wish.seed)
    facts = {f"states after {STEPS} steps with the same noise": f"{100 * apart:.2f} % apart"}
    about = (
        "is one step of a chain: x, normal noise, step_size"
        f"{', sigma, one-hot labels' if len(names) > 3 else ''} in; the next x and its picture out"
    )
    return _graph(report, about, facts, classes=False)


def _chains_apart(step: nn.Module, path: Path, given: list[Tensor], seed: int) -> float:
    """Relative distance of chains in the graph from chains in torch, both fed the same noise."""
    session = session_of(path)
    x, y = given[0], given[0]
    with torch.no_grad():
        for n in range(1, STEPS + 1):
            noise = _noise(x, seed, n)
            x = run_session(session, [x, noise, *given[2:]])[0]
            y = step(y, noise, *given[2:])[0]
    return float((x - y).norm() / y.norm())


def _step_size(run: Run) -> float:
    from driftwell.training.generate import with_step_size

    if isinstance(run.quantized, QuantizedNoiseConditionalMachine):
        return run.recipe.level_step * run.quantized.sigma_max**2
    return float(with_step_size(run).step_size)


def _noise(like: Tensor, seed: int, step: int) -> Tensor:
    return normal(
        tuple(like.shape), seed=seed, purpose=Purpose.DYNAMICS, chains=len(like), step=step,
        dtype=like.dtype,
    )  # fmt: skip


def _graph(
    report: OnnxReport, about: str, facts: dict[str, str] | None = None, *, classes: bool = True
) -> Shipped:
    words = report.words()
    if not classes:
        del words[LARGEST]
    return Shipped(
        (report.path, report.path.parent / "report.json"), {**words, **(facts or {})},
        f"{report.path} {about}; `onnxruntime.InferenceSession` runs it, report.json says how well",
    )  # fmt: skip


def _model_file(run: ModelRun, wish: ExportWish) -> Shipped:
    path = wish.folder / f"{wish.name}.safetensors"
    size = export_safetensors(run.model, path, _notes(run))
    return _packed_file(path, size, "load_safetensors(model, path)")


def _machine_file(run: Run, wish: ExportWish) -> Shipped:
    small = run.quantized
    if small is None:
        raise InvalidInput(f"{run.path} is not quantized")
    path, packed = wish.folder / f"{wish.name}.safetensors", packed_couplings(small)
    extra = {k: v for k, v in small.decoded().state_dict().items() if k not in packed}
    held = {f"transform.{k}": v for k, v in _state(run.transform).items()}
    notes = {**_notes(run), "transform": run.transform.to_config()}
    save_packed(path, packed, extra | held, notes)
    return _packed_file(path, path.stat().st_size, "load_packed(path)")


def _packed_file(path: Path, size: int, reader: str) -> Shipped:
    return Shipped((path,), {"size": f"{size:,} bytes"}, f"`{reader}` of driftwell reads {path}")


def _notes(run: ModelRun | Run) -> dict[str, Any]:
    """Settings and data of the run, as plain values."""
    noted: dict[str, Any] = run.meta.get(NOTED, {})
    about = {
        "model": run.config.model, "update": run.update, "data": run.meta.get("data"),
        "plan": noted.get("plan"),
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def _state(transform: Any) -> dict[str, Tensor]:
    return dict(transform.state_dict()) if isinstance(transform, nn.Module) else {}
