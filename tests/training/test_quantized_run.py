"""A quantized run: small, read back bit for bit, and made without harm to any other."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.tiny_runs import SETTINGS, UPDATES, digest, open_run, train_tiny
from torch import Tensor

import driftwell.training.quantized_run as quantized_run
from driftwell.core.errors import DriftwellError, InvalidInput, RunFolderError
from driftwell.models.graph import IGNN
from driftwell.models.proximal import LPN
from driftwell.quantization.formats import Binary, Ternary, Uniform
from driftwell.quantization.langevin import QuantizedLangevinMachine
from driftwell.training.checkpoint import latest_checkpoint, save_checkpoint
from driftwell.training.images import training_images
from driftwell.training.kinds.deq import standardised
from driftwell.training.kinds.ignn import graph_of
from driftwell.training.quantization_plan import FORMATS, METHODS, QuantizationPlan
from driftwell.training.quantized_run import NOTED, QuantizedRun, quantize_run
from driftwell.training.run import train_run
from driftwell.training.run_folder import RunFolder

PLAN = QuantizationPlan(bits=4)
each = pytest.mark.parametrize("name", SETTINGS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    return {name: train_tiny(place, name) for name in SETTINGS}


@pytest.fixture(scope="module")
def made(runs: dict[str, Path]) -> dict[str, QuantizedRun]:
    """Each run at 4 bits, the Langevin machine of "pcd" with int8 states as the command line."""
    found = {}
    for name, run in runs.items():
        plan = replace(PLAN, activations="int8" if name in ("nlm", "pcd") else "float")
        found[name] = quantize_run(run, run.with_name(f"small-{name}"), plan)
    return found


def answers(name: str, run: Any, model: Any) -> Tensor:
    """What a run is for: pictures, logits, or denoised images, by its model or another."""
    kind = run.config.kind
    if name in ("nlm", "pcd"):
        return kind.previews(run, model, 8)
    chosen = run.model if model is None else model.model
    with torch.no_grad():
        if isinstance(chosen, IGNN):
            return chosen(graph_of(run.config))[0]
        images = training_images(run.config)
        if isinstance(chosen, LPN):
            return chosen.prox(images.images.reshape(-1, *chosen.shape))
        return chosen(standardised(run, images))[0]


def tensors_of(path: Path) -> dict[str, Tensor]:
    return load_file(path / "checkpoints" / f"update-{UPDATES:010d}.safetensors")


# --- what is written ----------------------------------------------------------------------------


@each
def test_it_is_read_back_bit_for_bit(
    name: str, runs: dict[str, Path], made: dict[str, QuantizedRun]
) -> None:
    _, before = open_run(runs[name])
    _, after = open_run(made[name].path)
    kept = answers(name, before, made[name].weights)
    assert torch.equal(kept, answers(name, after, None))
    whole = answers(name, before, None)
    assert not torch.equal(kept, whole), "four bits are not thirty-two"
    assert float((kept - whole).norm() / whole.norm()) < 0.25
    assert after.update == UPDATES
    assert after.metrics() == before.metrics()


@each
def test_the_original_run_stays_as_it_is(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    before = digest(runs[name])
    quantize_run(runs[name], tmp_path / "small", PLAN)
    assert digest(runs[name]) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small"]
    copied = digest(tmp_path / "small")
    for file in ("config.toml", "metrics.jsonl"):
        assert copied[file] == before[file]
    assert len(copied) == 4, "settings, metrics, and one checkpoint of two files"


@each
def test_the_checkpoint_is_really_small(
    name: str, runs: dict[str, Path], made: dict[str, QuantizedRun]
) -> None:
    before, after = tensors_of(runs[name]), tensors_of(made[name].path)
    assert not any(key.startswith(("optimizer.", "chains")) for key in after)
    codes = [t for t in after.values() if t.dtype == torch.uint8]
    layers = made[name].weights.layers
    # rows are whole bytes, and no matrix here has an odd number of columns at 4 bits
    assert sum(t.numel() for t in codes) == sum(x.bits * x.weights // 8 for x in layers)
    sizes = [sum(t.nbytes for t in tensors.values()) for tensors in (before, after)]
    assert sizes[1] < sizes[0] * 0.6
    assert made[name].nbytes < made[name].float_bytes
    assert made[name].float_bytes == sum(4 * layer.weights for layer in layers)


@pytest.mark.parametrize("bits", range(1, 9))
def test_b_bits_are_b_bits(bits: int, runs: dict[str, Path], tmp_path: Path) -> None:
    plan = QuantizationPlan(bits=bits, method="rtn-clip")
    made = quantize_run(runs["deq"], tmp_path / "small", plan)
    for shape, key in (((8, 16), "U"), ((8, 8), "W_0"), ((2, 8), "V")):
        codes = next(t for k, t in tensors_of(made.path).items() if k.endswith("data")
                     and tuple(t.shape) == (shape[0], math.ceil(shape[1] * bits / 8)))  # fmt: skip
        assert codes.dtype == torch.uint8, key
    _, after = open_run(made.path)
    _, before = open_run(runs["deq"])
    assert torch.equal(answers("deq", before, made.weights), answers("deq", after, None))


def test_more_bits_are_closer_and_care_is_better_than_rounding(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    errors = []
    for bits in (2, 4, 8):
        layers = quantize_run(runs["deq"], tmp_path / f"{bits}", replace(PLAN, bits=bits))
        errors.append(sum(layer.error for layer in layers.weights.layers))
        assert all(layer.error <= layer.rounded for layer in layers.weights.layers)
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 10


@pytest.mark.parametrize(
    ("format", "bits", "values"),
    [("binary", 1, 2), ("ternary", 2, 3), ("power-of-two", 3, 8), ("power-of-sqrt-two", 4, 16),
     ("nf", 4, 16), ("symmetric", 3, 8)],
)  # fmt: skip
def test_every_format_is_kept(
    format: str, bits: int, values: int, runs: dict[str, Path], tmp_path: Path
) -> None:
    plan = QuantizationPlan(bits=bits, format=format, method="rtn", per="channel")
    made = quantize_run(runs["deq"], tmp_path / "small", plan)
    _, before = open_run(runs["deq"])
    _, after = open_run(made.path)
    assert torch.equal(answers("deq", before, made.weights), answers("deq", after, None))
    assert max(len(row.unique()) for row in after.model.U) <= values


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_carried_out(method: str, runs: dict[str, Path], tmp_path: Path) -> None:
    made = quantize_run(runs["deq"], tmp_path / "small", replace(PLAN, method=method))
    assert all(0.0 < layer.error < 0.3 for layer in made.weights.layers)
    assert latest_checkpoint(made.path / "checkpoints").meta[NOTED]["plan"]["method"] == method


def test_groups_of_columns_have_their_own_scale(runs: dict[str, Path], tmp_path: Path) -> None:
    plan = QuantizationPlan(bits=4, per="group", group_size=4)
    made = quantize_run(runs["deq"], tmp_path / "small", plan)
    scales = {tuple(t.shape) for k, t in tensors_of(made.path).items() if k.endswith("scale")}
    assert {(8, 4), (8, 2), (2, 2)} <= scales
    _, before = open_run(runs["deq"])
    _, after = open_run(made.path)
    assert torch.equal(answers("deq", before, made.weights), answers("deq", after, None))


@pytest.mark.parametrize("name", ["pcd", "nlm"])
def test_couplings_serve_two_products_and_take_evenly_spaced_levels_without_groups(
    name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    for plan, sentence in (
        (QuantizationPlan(per="group", group_size=4), "take --per channel"),
        (QuantizationPlan(format="binary", bits=1), "take --format uniform or symmetric"),
        (QuantizationPlan(format="nf", bits=4), "take --format uniform or symmetric"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            quantize_run(runs[name], tmp_path / "small", plan)
    assert list(tmp_path.iterdir()) == []
    for plan in (QuantizationPlan(format="symmetric"), QuantizationPlan(per="tensor")):
        made = quantize_run(runs[name], tmp_path / "small", plan, overwrite=True)
        _, after = open_run(made.path)
        _, before = open_run(runs[name])
        assert torch.equal(answers(name, before, made.weights), answers(name, after, None))


@pytest.mark.parametrize("activations", ["int8", "float"])
def test_chains_run_on_the_codes(activations: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    plan = replace(PLAN, activations=activations)
    made = quantize_run(runs["pcd"], tmp_path / "small", plan)
    _, after = open_run(made.path)
    assert isinstance(after.sampled, QuantizedLangevinMachine)
    assert after.sampled.activations == activations
    assert torch.equal(after.machine.J, after.sampled.decoded().J)
    _, before = open_run(runs["pcd"])
    assert torch.equal(answers("pcd", before, made.weights), answers("pcd", after, None))


def test_a_seed_gives_the_same_file_and_another_one_other_data(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    plan = replace(PLAN, samples=10, bits=3)
    for name in ("deq", "pcd"):
        files = []
        for i, seed in enumerate((5, 5, 6)):
            made = quantize_run(runs[name], tmp_path / f"{name}{i}", replace(plan, seed=seed))
            files.append(digest(made.path)[f"checkpoints/update-{UPDATES:010d}.safetensors"])
        assert files[0] == files[1] != files[2], name


def test_scores_and_pictures_are_kept_for_the_page(runs: dict[str, Path], tmp_path: Path) -> None:
    made = quantize_run(
        runs["nlm"], tmp_path / "small", PLAN, scores=lambda run, weights: [{"bits": 32, "x": 1.0}]
    )
    found = latest_checkpoint(made.path / "checkpoints")
    assert found.meta[NOTED]["scores"] == [{"bits": 32, "x": 1.0}]
    before, after = (found.tensors[f"pictures.{part}"] for part in ("before", "after"))
    assert before.shape == after.shape == (16, 4, 4)
    assert before.dtype == torch.uint8
    _, run = open_run(runs["nlm"])
    shown = run.config.kind.previews(run, None, 16)
    assert torch.equal(before, (255 * shown).round().to(torch.uint8))


# --- what is refused ----------------------------------------------------------------------------


@each
def test_it_is_not_trained_further_and_not_quantized_twice(
    name: str, made: dict[str, QuantizedRun], tmp_path: Path
) -> None:
    path = made[name].path
    before = digest(path)
    config = replace(RunFolder.open(path).config, updates=UPDATES + 5)
    with pytest.raises(RunFolderError, match="holds quantized weights, which cannot be trained"):
        train_run(config, path, resume=True)
    with pytest.raises(InvalidInput, match="is quantized already: quantize the run it was made of"):
        quantize_run(path, tmp_path / "twice", PLAN)
    assert not (tmp_path / "twice").exists()
    assert digest(path) == before


def test_it_does_not_replace_its_own_source(runs: dict[str, Path]) -> None:
    before = digest(runs["deq"])
    for out in (runs["deq"], runs["deq"] / ".." / "deq"):
        with pytest.raises(InvalidInput, match="is the run itself"):
            quantize_run(runs["deq"], out, PLAN, overwrite=True)
    assert digest(runs["deq"]) == before


def test_a_run_that_is_there_is_replaced_only_on_request(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "small"
    quantize_run(runs["deq"], out, PLAN)
    before = digest(out)
    with pytest.raises(RunFolderError, match="already holds a run"):
        quantize_run(runs["deq"], out, replace(PLAN, bits=2))
    assert digest(out) == before
    quantize_run(runs["deq"], out, replace(PLAN, bits=2), overwrite=True)
    assert latest_checkpoint(out / "checkpoints").meta[NOTED]["plan"]["bits"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small"]


def test_a_folder_of_somebody_else_is_left_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="not a run folder, so it is left alone"):
        quantize_run(runs["deq"], tmp_path, PLAN, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("moment", ["save_checkpoint", "swap_in"])
def test_a_failure_at_the_last_moment_loses_nothing(
    moment: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deep" / "small"
    quantize_run(runs["deq"], out, PLAN)
    before = digest(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    place = RunFolder if moment == "save_checkpoint" else quantized_run
    monkeypatch.setattr(place, moment, full)
    for folder in (out, tmp_path / "other" / "small"):
        with pytest.raises(RunFolderError, match="cannot be written: No space left"):
            quantize_run(runs["deq"], folder, replace(PLAN, bits=2), overwrite=True)
    assert digest(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["small"]


def test_a_run_in_training_is_not_replaced(runs: dict[str, Path], tmp_path: Path) -> None:
    out = Path(shutil.copytree(runs["deq"], tmp_path / "busy"))
    busy = RunFolder.open(out)
    busy.lock()
    before = digest(out)
    try:
        with pytest.raises(RunFolderError, match="another process is training in"):
            quantize_run(runs["deq"], out, PLAN, overwrite=True)
    finally:
        busy.unlock()
    assert digest(tmp_path / "busy") == before
    assert [p.name for p in tmp_path.iterdir()] == ["busy"]


@pytest.mark.parametrize("name", ["pcd", "nlm", "deq", "lpn", "ignn"])
def test_weights_that_are_not_numbers_are_named(
    name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(runs[name], tmp_path / name))
    found = latest_checkpoint(run / "checkpoints")
    weights = {key: t.clone() for key, t in found.tensors.items()}
    for key, t in weights.items():
        if key.startswith(("model.", "machine.", "sampled.")) or key in ("J", "b"):
            t.reshape(-1)[0] = math.nan
    save_checkpoint(run / "checkpoints", UPDATES, weights, found.meta)
    with pytest.raises(DriftwellError, match=r"not finite|variance must be"):
        quantize_run(run, tmp_path / "small", PLAN)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("name", ["deq", "lpn", "ignn"])
def test_data_that_are_gone_are_named(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs[name], tmp_path / name))
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("-data.npz", "-gone.npz"))
    with pytest.raises(InvalidInput, match=r"gone\.npz"):
        quantize_run(run, tmp_path / "small", PLAN)


def test_machines_need_no_data(runs: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["pcd"], tmp_path / "pcd"))
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("-data.npz", "-gone.npz"))
    assert quantize_run(run, tmp_path / "small", PLAN).path.is_dir()


def test_a_packed_checkpoint_that_is_damaged_or_of_another_model_says_so(
    made: dict[str, QuantizedRun], tmp_path: Path
) -> None:
    for name in ("deq", "pcd"):
        run = Path(shutil.copytree(made[name].path, tmp_path / name))
        file = run / "checkpoints" / f"update-{UPDATES:010d}.safetensors"
        content = file.read_bytes()
        for damaged in (content[:-9], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
            file.write_bytes(damaged)
            with pytest.raises(RunFolderError, match=r"no checkpoint in .* is good"):
                open_run(run)
        found = latest_checkpoint(made[name].path / "checkpoints")
        for broken in (
            {k: t for k, t in found.tensors.items() if not k.endswith("scale")},
            {k: t[..., :1] if t.dtype == torch.uint8 else t for k, t in found.tensors.items()},
        ):
            save_checkpoint(run / "checkpoints", UPDATES, broken, found.meta)
            with pytest.raises(RunFolderError, match="does not hold this kind of model"):
                open_run(run)
        other = {k: v for k, v in found.meta[NOTED].items() if k not in ("weights", "couplings")}
        save_checkpoint(run / "checkpoints", UPDATES, found.tensors, found.meta | {NOTED: other})
        with pytest.raises(RunFolderError, match="does not hold this kind of model"):
            open_run(run)


# --- the plan -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "gtpq"}, "no method 'gtpq': did you mean 'gptq'?"),
        ({"format": "unifrom"}, "no format 'unifrom': did you mean 'uniform'?"),
        ({"activations": "int4"}, "no activations 'int4'"),
        ({"samples": 0}, "at least one sample, not 0"),
        ({"format": "binary"}, "binary weights are stored in 1 bit, not 8: give --bits 1"),
        ({"format": "ternary", "bits": 1}, "stored in 2 bits, not 1: give --bits 2"),
        ({"bits": 0}, "bits"),
        ({"bits": 9}, "bits"),
        ({"bits": 9, "format": "nf"}, "bits"),
        ({"per": "group"}, "group"),
        ({"per": "channel", "group_size": 4}, "group"),
        ({"per": "group", "group_size": 0}, "group"),
        ({"per": "rows"}, "rows"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_at_once(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        QuantizationPlan(**changes)
    assert sentence in str(caught.value)


def test_every_format_of_a_plan_is_one() -> None:
    bits = {"binary": 1, "ternary": 2}
    for name in FORMATS:
        assert QuantizationPlan(bits=bits.get(name, 4), format=name).to_format().bits == (
            bits.get(name, 4)
        )
    assert QuantizationPlan().to_format() == Uniform(8)
    assert QuantizationPlan(bits=1, format="binary").to_format() == Binary("channel")
    assert QuantizationPlan(bits=2, format="ternary").to_format() == Ternary("channel")
    assert json.loads(json.dumps(PLAN.to_json())) == PLAN.to_json()
    assert QuantizationPlan(**PLAN.to_json()) == PLAN


def test_training_a_machine_does_not_wait_for_the_quantization_to_be_imported() -> None:
    code = "import sys, driftwell.cli.train; sys.exit('driftwell.quantization' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
