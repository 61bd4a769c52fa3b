"""Run folders and runs, by their functions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.models.langevin.annealing import noise_levels
from driftwell.models.langevin.generation import build_transform
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import PRESETS, preset
from driftwell.training.annealed import noise_level_of
from driftwell.training.config import DataConfig, RunConfig
from driftwell.training.generate import Wish, generate_images
from driftwell.training.images import held_out_images, training_images, with_absolute_paths
from driftwell.training.pictures import grid, write_pictures
from driftwell.training.run import load_run, train_run
from driftwell.training.run_folder import RunBusy, RunFolder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    images = np.random.default_rng(0).uniform(0.1, 0.9, (50, 4, 4))
    np.savez(path, images=images, labels=np.arange(50) % 3)
    recipe = replace(
        preset("yu2025-pcd"), chains=9, batch=8, langevin_steps=3, sample_steps=10,
        learning_rate=2e-3,
    )  # fmt: skip
    return RunConfig(DataConfig(str(path)), "yu2025-pcd", recipe, updates=7, checkpoint_every=3)


@pytest.fixture(scope="module")
def denoising(config: RunConfig) -> RunConfig:
    recipe = replace(
        preset("default"), hidden=6, batch=8, components=16, levels=20, sample_steps=40
    )
    return replace(config, preset="default", recipe=recipe)


@pytest.fixture(scope="module")
def run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(config, tmp_path_factory.mktemp("run") / "run").path


def same(a: Path, b: Path) -> bool:
    first, second = load_run(a).tensors, load_run(b).tensors
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


CHANGES: list[dict[str, Any]] = [
    {},
    {"free_phase": "rdm"},
    {"optimizer": "sgd", "shrink": 1e-4},
    {"free_phase": "none"},
    {"scaling": "plain", "decay": "cosine"},
    {"step_size": 0.0},
    {"label_scale": 1.0, "hidden": 3, "clamped_steps": 2},
    {"free_phase": "one-chain", "chains": 1, "burn_in": 1},
    {"learning": "denoising", "hidden": 6, "scaling": "components", "label_scale": 1.0},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: ",".join(c) or "pcd")
def test_stopping_anywhere_changes_nothing(
    config: RunConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = replace(config, recipe=replace(config.recipe, **changes))
    whole = train_run(config, tmp_path / "whole").path
    for stop in (1, 4, 6):
        part = tmp_path / f"part{stop}"
        train_run(replace(config, updates=stop), part)
        found = train_run(config, part, resume=True)
        assert (found.updates, found.reason) == (7, "finished")
        assert same(whole, part)
        metrics = [(p / "metrics.jsonl").read_bytes() for p in (whole, part)]
        assert metrics[0] == metrics[1]


def test_a_run_is_loaded_without_its_data(config: RunConfig, run: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.npz"
    gone.write_bytes(Path(config.data.source).read_bytes())
    path = train_run(replace(config, data=DataConfig(str(gone))), tmp_path / "run").path
    gone.unlink()
    loaded = load_run(path)
    assert (loaded.update, loaded.height, loaded.width, loaded.machine.n) == (7, 4, 4, 16)
    assert torch.equal(loaded.machine.J, loaded.tensors["machine.J"])
    assert torch.equal(loaded.machine.b, loaded.tensors["machine.b"])
    assert [line["update"] for line in loaded.metrics()] == [1, 2, 3, 4, 5, 6, 7]
    states = torch.zeros(3, 16)
    assert loaded.images(states).shape == (3, 4, 4)
    assert same(path, run), "the path of the data is no part of the result"


def test_what_a_checkpoint_notes(run: Path) -> None:
    meta = load_run(run).meta
    assert meta["data"]["images"] == 40
    assert meta["data"]["classes"] == [0, 1, 2]
    assert len(meta["data"]["fingerprint"]) == 64
    assert meta["transform"] == {"kind": "atanh", "clip": 0.97}
    assert (meta["seed"], meta["processes"], meta["warnings"]) == (0, 1, [])
    assert meta["elapsed_seconds"] > 0


def test_a_finished_run_is_not_touched(config: RunConfig, run: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for budget in (config, replace(config, updates=2), replace(config, updates=None, minutes=1e-9)):
        assert train_run(budget, run, resume=True).reason == "nothing to do"
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_a_run_that_was_killed_before_its_first_checkpoint(
    config: RunConfig, run: Path, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "run", config)
    folder.unlock()
    assert train_run(config, folder.path, resume=True).reason == "finished"
    assert same(folder.path, run)


@pytest.mark.parametrize("left", [[], [".config.toml.1.tmp"], ["checkpoints/"]])
def test_what_a_killed_creation_leaves_is_no_obstacle(
    config: RunConfig, tmp_path: Path, left: list[str]
) -> None:
    for name in left:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("")
    RunFolder.create(tmp_path, config).unlock()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "config.toml"]


def test_two_processes_never_train_in_one_folder(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", config)
    for words in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(RunBusy, match="another process is training"):
            train_run(config, folder.path, **words)
    assert (folder.path / "config.toml").is_file(), "and the first one loses nothing"
    folder.unlock()
    train_run(config, folder.path, overwrite=True)


def test_metrics_after_the_checkpoint_are_dropped(config: RunConfig, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", config)
    for update in (1, 2, 3):
        folder.append_metrics(update, {"loss": 0.5})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "lo')
    assert [line["update"] for line in folder.metrics()] == [1, 2, 3]
    folder.truncate_metrics(2)
    assert folder.metrics() == [{"update": 1, "loss": 0.5}, {"update": 2, "loss": 0.5}]
    folder.unlock()


def test_conditions_that_differ_are_told(config: RunConfig, tmp_path: Path) -> None:
    path = train_run(replace(config, updates=3), tmp_path / "run").path
    (note,) = (path / "checkpoints").glob("*3.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "threads": 99}))
    told: list[str] = []
    train_run(config, path, resume=True, note=told.append)
    assert told == [
        "resumed under other conditions (threads differ): results may differ from the unbroken "
        "run in the last digits"
    ]


def test_data_as_the_settings_name_them(config: RunConfig) -> None:
    assert len(training_images(config)) == 40
    assert len(held_out_images(config)) == 10
    whole = replace(config, data=replace(config.data, split="all", classes=(1,), resize=2))
    found = training_images(whole)
    assert (found.classes, found.height, found.width) == ((1,), 2, 2)
    assert len(training_images(replace(config, data=replace(config.data, limit=5)))) == 5
    few = replace(config, recipe=replace(config.recipe, data_limit=7))
    assert len(training_images(few)) == 7
    with pytest.raises(InvalidInput, match="limit asks for 41"):
        training_images(replace(config, data=replace(config.data, limit=41)))


def test_labels_from_a_file_of_their_own(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((40, 2, 2), 0.5))
    np.save(tmp_path / "y.npy", np.arange(40) % 2)
    data = DataConfig(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), (1,))
    train, held = (f(RunConfig(data)) for f in (training_images, held_out_images))
    assert train.classes == held.classes == (1,)
    assert len(train) + len(held) == 20
    with pytest.raises(InvalidInput, match="labels of its own"):
        training_images(RunConfig(DataConfig("digits", str(tmp_path / "y.npy"))))


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.full((10, 2, 2), 0.5))
    monkeypatch.chdir(tmp_path)
    data = with_absolute_paths(RunConfig(DataConfig("x.npy"))).data
    assert Path(data.source) == (tmp_path / "x.npy").resolve()
    assert with_absolute_paths(RunConfig()).data.source == "digits"


def test_image_number_i_is_the_same_whatever_the_number_of_images(run: Path) -> None:
    loaded = load_run(run)
    many = generate_images(loaded, Wish(300, seed=4))
    few = generate_images(loaded, Wish(5, seed=4))
    assert many.shape == (300, 4, 4)
    assert torch.allclose(many[:5], few, atol=1e-5)
    assert float(many.min()) >= 0.0
    assert float(many.max()) <= 1.0
    assert not torch.allclose(generate_images(loaded, Wish(5, seed=5)), few, atol=1e-2)


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        ("top", (slice(0, 2), slice(None))),
        ("bottom", (slice(2, 4), slice(None))),
        ("left", (slice(None), slice(0, 2))),
        ("right", (slice(None), slice(2, 4))),
    ],
)
def test_in_painting_keeps_the_part_that_is_masked(
    run: Path, tmp_path: Path, mask: str, kept: tuple[slice, slice]
) -> None:
    known = np.random.default_rng(1).uniform(0.2, 0.8, (2, 4, 4)).astype(np.float32)
    np.save(tmp_path / "known.npy", known)
    wish = Wish(6, clamp=str(tmp_path / "known.npy"), mask=mask)
    found = generate_images(load_run(run), wish).numpy()
    for i in range(6):
        np.testing.assert_allclose(found[i][kept], known[i % 2][kept], atol=1e-5)
    rest = np.ones((4, 4), bool)
    rest[kept] = False
    assert np.abs(found[0] - known[0])[rest].max() > 0.05


def test_a_mask_from_a_file(run: Path, tmp_path: Path) -> None:
    mask = np.zeros((1, 4, 4))
    mask[0, 1, 2] = 1.0
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "known.npy", np.full((1, 4, 4), 0.3))
    names = {"clamp": str(tmp_path / "known.npy"), "mask": str(tmp_path / "mask.npy")}
    found = generate_images(load_run(run), Wish(3, **names))  # type: ignore[arg-type]
    assert torch.allclose(found[:, 1, 2], torch.full((3,), 0.3), atol=1e-5)
    np.save(tmp_path / "mask.npy", np.zeros((1, 4, 4)))
    with pytest.raises(InvalidInput, match="keeps nothing"):
        generate_images(load_run(run), Wish(3, **names))  # type: ignore[arg-type]


def test_denoising_goes_down_in_energy(run: Path, tmp_path: Path) -> None:
    noisy = np.random.default_rng(2).uniform(0.1, 0.9, (4, 4, 4))
    np.save(tmp_path / "noisy.npy", noisy)
    loaded = load_run(run)
    images = generate_images(loaded, Wish(4, denoise=str(tmp_path / "noisy.npy"), steps=50))
    before, after = (
        loaded.machine.energy(loaded.transform.forward(torch.as_tensor(x).float()))
        for x in (noisy, images)
    )
    assert bool((after < before).all())


@pytest.fixture(scope="module", params=["contrastive", "denoising"])
def labelled(
    request: pytest.FixtureRequest,
    config: RunConfig,
    denoising: RunConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    chosen = denoising
    if request.param == "contrastive":
        chosen = replace(config, recipe=replace(config.recipe, label_scale=1.5, hidden=2,
                                                clamped_steps=1))  # fmt: skip
    return train_run(chosen, tmp_path_factory.mktemp("labelled") / "run").path


def test_images_of_one_class(labelled: Path) -> None:
    loaded = load_run(labelled)
    assert loaded.classes == (0, 1, 2)
    assert loaded.label_neurons == 3
    found = generate_images(loaded, Wish(5, label=1))
    assert found.shape == (5, 4, 4)
    assert not torch.equal(found, generate_images(loaded, Wish(5, label=2)))
    assert torch.equal(found, generate_images(loaded, Wish(5, label=1)))
    with pytest.raises(InvalidInput, match="did not learn class 7: it has 0, 1, 2"):
        generate_images(loaded, Wish(5, label=7))


def test_other_neurons_do_not_disturb_known_pixels(labelled: Path, tmp_path: Path) -> None:
    known = np.random.default_rng(1).uniform(0.2, 0.8, (1, 4, 4)).astype(np.float32)
    np.save(tmp_path / "known.npy", known)
    wish = Wish(3, clamp=str(tmp_path / "known.npy"), mask="left", label=0)
    found = generate_images(load_run(labelled), wish).numpy()
    np.testing.assert_array_equal(found[:, :, :2], np.repeat(known[:, :, :2], 3, axis=0))
    settled = generate_images(load_run(labelled), Wish(3, denoise=str(tmp_path / "known.npy")))
    assert settled.shape == (3, 4, 4)
    assert bool(torch.isfinite(settled).all())


def test_states_have_the_class_in_the_label_neurons(labelled: Path, config: RunConfig) -> None:
    loaded, images = load_run(labelled), training_images(config)
    states = loaded.states(images)
    assert states.shape == (len(images), loaded.machine.n)
    np.testing.assert_allclose(loaded.images(states), images.images, atol=1e-5)
    if loaded.layout.labels:
        code = states[:, loaded.layout.visible : loaded.layout.known]
        assert images.labels is not None
        assert torch.equal(code.argmax(1), images.labels)
        assert set(code.unique().tolist()) == {-1.5, 1.5}


def test_a_whitened_transform_is_stored_with_the_run(denoising: RunConfig, tmp_path: Path) -> None:
    denoising = replace(denoising, recipe=replace(denoising.recipe, components=5))
    path = train_run(denoising, tmp_path / "run").path
    loaded, images = load_run(path), training_images(denoising)
    fitted = build_transform(denoising.recipe, images.images)
    assert torch.equal(loaded.transform.forward(images.images), fitted.forward(images.images))


def test_the_noise_level_of_noisy_images_is_found(denoising: RunConfig, tmp_path: Path) -> None:
    """At 2 <E> / K = 1, which holds by construction for a Gaussian machine (J_vh = 0)."""
    path = train_run(replace(denoising, updates=1), tmp_path / "run").path
    loaded, images = load_run(path), training_images(denoising)
    machine = loaded.machine
    assert isinstance(machine, NoiseConditionalMachine)
    levels = noise_levels(machine, 20)
    u = loaded.states(images)
    for sigma in (levels[2], levels[9], levels[15]):
        noise = torch.randn(20, *u.shape, generator=torch.Generator().manual_seed(0))
        found = noise_level_of(machine, (u + sigma * noise).flatten(0, 1), levels)
        assert abs(levels.index(found) - levels.index(sigma)) <= 2


def test_an_old_run_keeps_its_recipe_when_its_preset_changes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_run(run).recipe
    file = run / "config.toml"
    text = file.read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("decay", "hidden ="))]
    assert len(kept) == len(text.splitlines()) - 2, "as if it were older than these settings"
    monkeypatch.setitem(PRESETS, "yu2025-pcd", replace(before, decay="cosine", chains=1))
    file.write_text("\n".join(kept))
    try:
        assert load_run(run).recipe == before
    finally:
        file.write_text(text)


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    images = torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(0))
    write_pictures(tmp_path / "a.npy", images)
    stored = np.load(tmp_path / "a.npy")
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, images.numpy())
    write_pictures(tmp_path / "a.png", images)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    page = grid(images)
    assert picture.shape == tuple(page.shape)
    # 3 columns, 2 rows, every image 16 times its size, with gaps of 4
    assert page.shape == (2 * (48 + 4) + 4, 3 * (32 + 4) + 4)
    assert torch.equal(page[4:52:16, 4:36:16], images[0])
    assert torch.equal(page[56:104:16, 40:72:16], images[4])
    for wrong in ("a.jpg", "no/a.png"):
        with pytest.raises((InvalidInput, RunFolderError)):
            write_pictures(tmp_path / wrong, images)
