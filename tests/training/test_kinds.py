"""Kinds of runs beside the Langevin machine: trained, stopped, resumed and read back alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.ring import save_ring

from driftwell.cli.parser import MODELS
from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.core.results import FixedPoint
from driftwell.training.config import DataConfig, RunConfig
from driftwell.training.gradient_trainer import GradientTrainer, decayed
from driftwell.training.images import held_out_images
from driftwell.training.kinds import KINDS, find_kind
from driftwell.training.kinds.deq import DEQRecipe, standardised
from driftwell.training.kinds.lpn import LPNRecipe, psnr
from driftwell.training.kinds.settings import GRADIENTS, SOLVERS
from driftwell.training.run import load_run, train_run
from driftwell.training.run_folder import RunFolder

SMALL: dict[str, dict[str, Any]] = {
    "deq": {"width": 8, "batch": 8, "updates": 7},
    "lpn": {"hidden": 8, "depth": 2, "batch": 8, "updates": 7, "stages": 2, "pretrain": 0.4},
    "ignn": {"width": 4, "updates": 7, "kappa": 0.8},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of 4x4 with a bright row (class 0) or column (class 1)."""
    random = np.random.default_rng(0)
    pixels, labels = random.uniform(0.0, 0.3, (60, 4, 4)), np.arange(60) % 2
    for image, label in zip(pixels, labels, strict=True):
        place = random.integers(4)
        image[(slice(None), place) if label else (place, slice(None))] += 0.6
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    np.savez(path, images=pixels, labels=labels)
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ring of 20 nodes in the form of the citation graphs: two halves, two classes."""
    return save_ring(tmp_path_factory.mktemp("graph") / "ring.npz")


@pytest.fixture
def config(request: pytest.FixtureRequest, images: Path, graph: Path) -> RunConfig:
    name = request.param
    kind = find_kind(name)
    recipe = replace(kind.preset("default"), **SMALL[name])
    source = graph if name == "ignn" else images
    return RunConfig(DataConfig(str(source)), recipe=recipe, model=name, updates=7)


each_kind = pytest.mark.parametrize("config", SMALL, indirect=True)


def same(a: Path, b: Path) -> bool:
    first, second = (RunFolder.open(p).latest_good_checkpoint().tensors for p in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_command_line_names_every_kind() -> None:
    assert tuple(MODELS) == KINDS
    assert [find_kind(name).name for name in KINDS] == list(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_every_preset_is_kept_by_a_settings_file(name: str, tmp_path: Path) -> None:
    kind, file = find_kind(name), tmp_path / "config.toml"
    assert "default" in kind.presets
    for preset in kind.presets:
        data = DataConfig(kind.sources[0])
        config = RunConfig(data, preset, kind.preset(preset), model=name, seed=3)
        file.write_text(config.to_toml())
        assert RunConfig.read(file) == config
    assert RunConfig.from_values({"model": name}, "").data.source == kind.sources[0]


@each_kind
def test_stopping_anywhere_changes_nothing(config: RunConfig, tmp_path: Path) -> None:
    whole = train_run(config, tmp_path / "whole").path
    for stop in (1, 4, 6):
        part = tmp_path / f"part{stop}"
        train_run(replace(config, updates=stop), part)
        found = train_run(config, part, resume=True)
        assert (found.updates, found.reason) == (7, "finished")
        assert same(whole, part)
        metrics = [(p / "metrics.jsonl").read_bytes() for p in (whole, part)]
        assert metrics[0] == metrics[1]


@each_kind
def test_another_seed_is_another_run(config: RunConfig, tmp_path: Path) -> None:
    one = train_run(config, tmp_path / "one").path
    again = train_run(config, tmp_path / "again").path
    other = train_run(replace(config, seed=1), tmp_path / "other").path
    assert same(one, again)
    assert not same(one, other)


@each_kind
def test_a_run_is_loaded_without_its_data(config: RunConfig, tmp_path: Path) -> None:
    path = train_run(config, tmp_path / "run").path
    moved = replace(config, data=DataConfig(str(tmp_path / "gone.npz")))
    (path / "config.toml").write_text(moved.to_toml())
    loaded = config.kind.load(path)
    assert (loaded.update, loaded.config.model) == (7, config.model)
    assert [line["update"] for line in loaded.metrics()] == [1, 2, 3, 4, 5, 6, 7]
    assert not loaded.model.training
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, loaded.tensors[f"model.{name}"])
    with pytest.raises(RunFolderError, match=f"holds a run of {config.model}, and this is done"):
        load_run(path)


@each_kind
def test_data_that_changed_are_noticed(config: RunConfig, tmp_path: Path) -> None:
    source = tmp_path / "data.npz"
    source.write_bytes(Path(config.data.source).read_bytes())
    config = replace(config, data=DataConfig(str(source)), updates=2)
    path = train_run(config, tmp_path / "run").path
    arrays = dict(np.load(source))
    key = "x_data" if "x_data" in arrays else "images"
    if key == "images":
        arrays[key] = 0.5 * arrays[key]
    else:  # the rows are divided by their sums, so that another word is needed
        arrays["x_indices"] = 1 - arrays["x_indices"]
    np.savez(source, **arrays)
    with pytest.raises(RunFolderError, match="have changed since this run began"):
        train_run(replace(config, updates=4), path, resume=True)


def test_a_run_without_a_model_in_its_settings_is_one_of_the_langevin_machine() -> None:
    assert RunConfig.from_values({"seed": 1}, "").model == "nlm"
    assert RunConfig.from_values({"seed": 1}, "").recipe == find_kind("nlm").preset("default")


def test_a_recipe_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a run of deq needs a DEQRecipe, got Recipe"):
        RunConfig(model="deq")
    with pytest.raises(InvalidInput, match="unknown model 'dqe', did you mean 'deq'"):
        RunConfig(model="dqe")


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("deq", {"bound": 1.0}, "bound must lie below 1"),
        ("deq", {"solver": "andersen"}, "solver must be one of"),
        ("deq", {"gradient": "none"}, "gradient must be one of"),
        ("deq", {"noise": -1.0}, "noise must not be negative"),
        ("deq", {"learning_rate": 0.0}, "learning_rate must be positive"),
        ("deq", {"batch": 0}, "batch must be at least 1"),
        ("ignn", {"kappa": 1.0}, "kappa must lie between 0 and 1"),
        ("ignn", {"dropout": 1.0}, "dropout must lie in"),
        ("lpn", {"layers": "fourier"}, "layers must be one of dense, convolution"),
        ("lpn", {"pretrain": 1.0}, "pretrain must lie in"),
        ("lpn", {"updates": 3, "stages": 3}, "leave an update to each of the 3 stages"),
        ("lpn", {"sigma": 0.0}, "sigma must be positive"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    kind: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=f"recipe: .*{sentence}"):
        replace(find_kind(kind).preset("default"), **changes)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("config", ["deq"], indirect=True)
def test_every_solver_trains_the_same_classifier(
    config: RunConfig, tmp_path: Path, solver: str
) -> None:
    losses = []
    for place, name in (("a", solver), ("b", "anderson")):
        recipe = replace(config.recipe, solver=name, tol=1e-6, max_steps=200)
        path = train_run(replace(config, recipe=recipe, updates=3), tmp_path / place).path
        losses.append([line["loss"] for line in config.kind.load(path).metrics()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("config", ["deq"], indirect=True)
def test_every_gradient_learns(config: RunConfig, tmp_path: Path, gradient: str) -> None:
    recipe = replace(config.recipe, gradient=gradient, updates=30, batch=24)
    path = train_run(replace(config, recipe=recipe, updates=30), tmp_path / "run").path
    metrics = config.kind.load(path).metrics()
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]


@pytest.mark.parametrize("config", ["deq"], indirect=True)
def test_a_classifier_learns_bars(config: RunConfig, tmp_path: Path) -> None:
    recipe = replace(config.recipe, updates=120, width=16, batch=24)
    path = train_run(replace(config, recipe=recipe, updates=120), tmp_path / "run").path
    loaded, held_out = config.kind.load(path), held_out_images(config)
    logits, found = loaded.model(standardised(loaded, held_out))
    assert isinstance(found, FixedPoint)
    assert float((logits.argmax(1) == held_out.labels).double().mean()) > 0.9
    assert bool((found.status == 0).all())
    assert [line["unsolved"] for line in loaded.metrics()] == [0.0] * 120


def test_the_digits_are_learned(tmp_path: Path) -> None:
    """The card of the demo: at least 97 % of held-out digits, every solve converged."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    recipe = DEQRecipe(updates=200, learning_rate=5e-3)
    config = RunConfig(recipe=recipe, model="deq")
    path = train_run(config, tmp_path / "run").path
    loaded, held_out = config.kind.load(path), held_out_images(config)
    logits, found = loaded.model(standardised(loaded, held_out))
    assert float((logits.argmax(1) == held_out.labels).double().mean()) >= 0.97
    assert bool((found.status == 0).all())
    assert {line["unsolved"] for line in loaded.metrics()} == {0.0}


@pytest.mark.slow
def test_five_thousand_mnist_images_teach_94_percent(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-alike of peers' training: width 128, minutes on a processor, no solve failing."""
    monkeypatch.setenv("DRIFTWELL_DATA", str(data_folder))
    config = RunConfig(DataConfig("mnist", limit=5000), recipe=DEQRecipe(), model="deq")
    trained = train_run(config, tmp_path / "run")
    loaded, held_out = config.kind.load(trained.path), held_out_images(config)
    logits, found = loaded.model(standardised(loaded, held_out))
    assert float((logits.argmax(1) == held_out.labels).double().mean()) >= 0.94
    assert bool((found.status == 0).all())
    assert {line["unsolved"] for line in loaded.metrics()} == {0.0}


def test_solves_that_fail_are_told(images: Path, tmp_path: Path) -> None:
    recipe = DEQRecipe(width=8, batch=8, max_steps=1, updates=3, tol=1e-6)
    told: list[str] = []
    config = RunConfig(DataConfig(str(images)), recipe=recipe, model="deq", updates=3)
    path = train_run(config, tmp_path / "run", note=told.append).path
    assert any("did not reach their tolerance" in sentence for sentence in told)
    assert config.kind.load(path).meta["warnings"]


@pytest.mark.parametrize("config", ["lpn"], indirect=True)
def test_a_denoiser_learns_to_denoise(config: RunConfig, tmp_path: Path) -> None:
    recipe = replace(config.recipe, updates=400, hidden=32, batch=24, learning_rate=1e-2)
    path = train_run(replace(config, recipe=recipe, updates=400), tmp_path / "run").path
    loaded, clean = config.kind.load(path), held_out_images(config).flat()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = clean + recipe.sigma * noise
    better = psnr(loaded.model.prox(noisy).detach(), clean) - psnr(noisy, clean)
    assert float(better.mean()) > 2.0


def test_the_stages_of_a_denoiser_follow_one_another() -> None:
    stages = LPNRecipe(updates=100, pretrain=0.4, stages=3, gamma=0.5, sigma=0.2).schedule(64)
    assert [stage.updates for stage in stages] == [40, 20, 20, 20]
    assert stages[0].gamma is None
    assert [stage.gamma for stage in stages[1:]] == pytest.approx([3.2, 1.6, 0.8])


@pytest.mark.parametrize("config", ["ignn"], indirect=True)
def test_a_graph_is_learned_from_few_of_its_nodes(config: RunConfig, tmp_path: Path) -> None:
    recipe = replace(config.recipe, updates=60, dropout=0.2)
    path = train_run(replace(config, recipe=recipe, updates=60), tmp_path / "run").path
    metrics = config.kind.load(path).metrics()
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert metrics[-1]["validation"] == 1.0
    rows = config.kind.load(path).model.weight().abs().sum(1)
    assert float(rows.max()) <= 0.8 + 1e-6


class _Quadratic:
    """1/2 |w - 1|^2."""

    def __init__(self, module: torch.nn.Linear) -> None:
        self.module, self.constrained = module, 0

    def loss(self, index: int) -> tuple[torch.Tensor, dict[str, float], int]:
        return 0.5 * (self.module.weight - 1.0).square().sum(), {"index": float(index)}, 1

    def constrain(self) -> None:
        self.constrained += 1

    def warnings(self) -> list[str]:
        return ["one"]


def test_a_trainer_makes_the_steps_of_adam() -> None:
    ours, theirs = (torch.nn.Linear(3, 1, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    objective = _Quadratic(ours)
    trainer = GradientTrainer(ours, objective, rate=lambda index: 0.1 / (1 + index))
    optimizer = torch.optim.AdamW(theirs.parameters(), weight_decay=0.0)
    for index in range(5):
        metrics = trainer.update(index)
        assert list(metrics) == ["loss", "index"]
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + index)
        optimizer.zero_grad()
        (0.5 * (theirs.weight - 1.0).square().sum()).backward()
        optimizer.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert (objective.constrained, trainer.warnings()) == (5, ["one"])


def test_rates_fall_along_half_a_cosine() -> None:
    assert [decayed(2.0, "constant", 3)(i) for i in (0, 9)] == [2.0, 2.0]
    assert decayed(2.0, "cosine", 4)(1) == pytest.approx(1.0 + 2**-0.5)


def test_tensors_of_another_model_are_refused() -> None:
    module = torch.nn.Linear(3, 1)
    trainer = GradientTrainer(module, _Quadratic(module), rate=lambda index: 0.1)
    with pytest.raises(InvalidInput, match="does not hold a Linear of these settings"):
        trainer.restore({"model.weight": torch.zeros(2, 2)})
