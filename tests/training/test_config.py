"""Settings: the same in a file, on the command line and in a run folder."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftwell.cli.parser import parse
from driftwell.cli.train import settings_given
from driftwell.core.errors import InvalidInput, RunFolderError
from driftwell.models.langevin.presets import PRESETS, Recipe, preset
from driftwell.training import toml
from driftwell.training.config import (
    KEYS,
    DataConfig,
    RunConfig,
    change_recipe,
    parse_setting,
)

values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
    st.lists(st.integers(0, 99)),
)
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(names, values), st.dictionaries(names, values))
def test_our_toml_is_read_back_by_the_standard_library(
    flat: dict[str, object], table: dict[str, object]
) -> None:
    flat.pop("recipe", None)
    assert tomllib.loads(toml.dumps({**flat, "recipe": table})) == {**flat, "recipe": table}


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_keeps_all_of_its_settings(name: str, tmp_path: Path) -> None:
    config = RunConfig(
        DataConfig('a "path" \\ of\ttabs', None, (1, 3, 6), 14, 100, "all"),
        name, replace(preset(name), learning_rate=1e-7), 2**63 - 1, None, 2.5, 50, "cpu", 2,
        "medium",
    )  # fmt: skip
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml())
    assert RunConfig.read(file) == config


def test_the_recipe_is_stored_in_full() -> None:
    """So that a preset may get better without changing old runs."""
    stored = tomllib.loads(RunConfig().to_toml())["recipe"]
    assert set(stored) == {f.name for f in fields(Recipe)}


def test_a_seed_beyond_63_bits_survives() -> None:
    config = RunConfig(seed=2**64 - 1)
    assert RunConfig.from_values(tomllib.loads(config.to_toml()), "").seed == 2**64 - 1


def test_every_option_has_its_key_and_every_key_its_option() -> None:
    options = vars(parse(["train", "nlm"]))
    only_options = {
        "command", "model", "out", "config", "changes", "resume", "overwrite", "quiet"
    }  # fmt: skip
    assert set(options) - only_options == set(KEYS) - {"schema", "model", "recipe"}


def test_options_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'data = "mnist"\nclasses = [1, 3]\nseed = 4\nminutes = 5\nout = "there"\n'
        "[recipe]\nchains = 10\nbatch = 7\n"
    )
    words = ["train", "nlm", "--config", str(file), "--seed", "9", "--updates", "20",
             "--set", "chains=11"]  # fmt: skip
    given_ = settings_given(parse(words))
    assert given_.pop("out") == "there"
    config = RunConfig.from_values(given_, "")
    assert config.data == DataConfig("mnist", classes=(1, 3))
    assert (config.seed, config.updates, config.minutes) == (9, 20, None)
    assert (config.recipe.chains, config.recipe.batch) == (11, 7)


def test_a_run_folders_settings_are_a_settings_file(tmp_path: Path) -> None:
    config = RunConfig(seed=3, updates=7, recipe=replace(Recipe(), chains=5), preset="yu2025-pcd")
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml())
    given_ = settings_given(parse(["train", "nlm", "--config", str(file)]))
    assert RunConfig.from_values(given_, "") == config


def test_the_default_budget_is_the_recipes_length() -> None:
    assert RunConfig().budget_updates == RunConfig().recipe.updates
    assert RunConfig(updates=5).budget_updates == 5
    assert RunConfig(minutes=1.0).budget_updates is None
    assert RunConfig(updates=5).with_budget(None, 2.0).budget_updates is None
    assert RunConfig(updates=5).with_budget(None, None).budget_updates == 5


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("sede", 1, "unknown key 'sede', did you mean 'seed'"),
        ("seed", "1", "seed must be a whole number"),
        ("seed", 1.0, "seed must be a whole number"),
        ("minutes", "x", "minutes must be a number"),
        ("classes", ["1"], "classes must be a list of whole numbers"),
        ("data", 3, "data must be text"),
        ("recipe", {"chians": 3}, "unknown setting of the recipe 'chians', did you mean 'chains'"),
        ("recipe", {"bias": 1}, "bias must be true or false"),
        ("recipe", {"gain": -1}, "gain must not be negative"),
    ],
)
def test_a_bad_key_is_named_with_its_file(key: str, value: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=r"run\.toml: ") as caught:
        RunConfig.from_values({key: value}, "run.toml")
    assert sentence in str(caught.value)


def test_another_schema_is_not_guessed_at() -> None:
    with pytest.raises(RunFolderError, match="schema version 0"):
        RunConfig.from_values({"schema": 0}, "run.toml")


def test_whole_numbers_serve_as_numbers() -> None:
    changed = change_recipe(Recipe(), {"gain": 1}, "")
    assert changed.gain == 1.0
    assert isinstance(changed.gain, float)
    assert RunConfig.from_values({"minutes": 2}, "").minutes == 2


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("chains=5", ("chains", 5)),
        ("learning-rate = 1e-3", ("learning_rate", 1e-3)),
        ("bias=False", ("bias", False)),
        ("scaling=plain", ("scaling", "plain")),
    ],
)
def test_settings_on_the_command_line_are_typed(text: str, setting: tuple[str, object]) -> None:
    assert parse_setting(text) == setting
