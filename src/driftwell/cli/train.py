"""`driftwell train`: settings from a file and from options, then `train_run`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from driftwell.cli.progress import Bar, in_words
from driftwell.cli.settings import info, note, use_machine
from driftwell.core.errors import InvalidInput
from driftwell.core.world import World
from driftwell.training.config import RunConfig, parse_setting, read_values
from driftwell.training.run import Trained, train_run
from driftwell.training.run_folder import RunFolder
from driftwell.training.signals import StopOnSignal

# options that say the same as a key of the settings file
_SAME_NAMES = (
    "data", "labels", "classes", "resize", "limit", "split", "preset", "seed", "updates",
    "minutes", "checkpoint_every", "device", "threads", "precision",
)  # fmt: skip
_BUDGET = ("updates", "minutes")


def run(options: argparse.Namespace) -> int:
    """Train or resume; the exit status."""
    given = settings_given(options)
    if options.out is None and "out" not in given:
        raise InvalidInput("--out is missing: name the run folder (see `driftwell train --help`)")
    out = Path(given.pop("out", options.out)).expanduser()
    config = _resumed(given, out) if options.resume else RunConfig.from_values(given, "")
    machine = use_machine(config.threads, config.precision)
    world = World.from_environment()
    try:
        trained = _train(options, config, out, world, machine)
    finally:
        world.leave()
    return trained


def settings_given(options: argparse.Namespace) -> dict[str, Any]:
    """Keys and values from --config and the options, the options winning.

    Raises:
        InvalidInput: a file or a --set that cannot be used.
    """
    given: dict[str, Any] = {}
    if options.config is not None:
        path = Path(options.config).expanduser()
        given = {"model": options.model, **read_values(path)}
        if given["model"] != options.model:
            raise InvalidInput(
                f"{path} has settings of {given['model']}, not of {options.model}: say "
                f"`driftwell train {given['model']}`, or give another file"
            )
        out = given.pop("out", None)
        # names and types are checked here, where the file can still be named
        RunConfig.from_values(given, str(path))
        if out is not None:
            given["out"] = out
    flags = {k: v for k in _SAME_NAMES if (v := getattr(options, k)) is not None}
    if any(name in flags for name in _BUDGET):
        for name in _BUDGET:
            given.pop(name, None)
    if "preset" in flags and flags["preset"] != given.get("preset"):
        given.pop("recipe", None)  # changes of another preset mean nothing here
    given |= flags
    given["model"] = options.model
    if options.out is not None:
        given["out"] = options.out
    changes = dict(parse_setting(text, options.model) for text in options.changes)
    if changes:
        given["recipe"] = {**given.get("recipe", {}), **changes}
    return given


def _resumed(given: dict[str, Any], out: Path) -> RunConfig:
    """The run's own settings with the budget that was given; nothing else may differ."""
    stored = RunFolder.open(out).config
    if stored.model != given["model"]:
        raise InvalidInput(
            f"{out} holds a run of {stored.model}, not of {given['model']}: go on with "
            f"`driftwell train {stored.model} --out {out} --resume`, or name another folder"
        )
    now = stored.to_values()
    for key, value in given.items():
        if key in _BUDGET or key == "recipe":
            continue
        if key in ("data", "labels") and Path(str(value)).expanduser().exists():
            value = str(Path(str(value)).expanduser().resolve())
        if value != now.get(key):
            raise InvalidInput(
                f"only the budget may change with --resume: {key} is {now.get(key)!r} in {out}, "
                f"not {value!r}; leave it out, or start a new run"
            )
    for key, value in given.get("recipe", {}).items():
        if value != now["recipe"].get(key):
            raise InvalidInput(
                f"only the budget may change with --resume: {key} is {now['recipe'].get(key)!r} "
                f"in {out}, not {value!r}; leave it out, or start a new run"
            )
    return stored.with_budget(given.get("updates"), given.get("minutes"))


def _train(
    options: argparse.Namespace, config: RunConfig, out: Path, world: World, machine: str
) -> int:
    quiet = options.quiet or not world.leader
    bar = Bar("training", config.budget_updates, "updates", quiet=quiet, minutes=config.minutes)
    how = f"go on with `driftwell train {config.model} --out {shlex.quote(str(out))} --resume`"
    first = True

    def on_update(done: int, seconds: float, metrics: dict[str, float]) -> None:
        nonlocal first
        if first:
            if not quiet:
                info(
                    options, f"training {config.model}, preset {config.preset}, in {out}: {machine}"
                )
            bar.begin(done - 1, seconds)
            first = False
        bar.show(done, in_words(metrics))

    # torchrun forwards Ctrl-C a second time
    with bar, StopOnSignal(patient=world.size > 1) as stop:
        try:
            trained = train_run(
                config, out, resume=options.resume, overwrite=options.overwrite, world=world,
                on_update=on_update, note=note, interrupted=stop,
            )  # fmt: skip
        except KeyboardInterrupt:
            note(f"stopped at once, the last checkpoint is kept; {how}")
            raise
    if not quiet:
        info(options, _sentence(trained, config))
    if trained.reason == "interrupted":
        if world.leader:
            note(f"stopped after update {trained.updates}, all is saved; {how}")
        return 128 + (stop.received or 2)
    return 0


def _sentence(trained: Trained, config: RunConfig) -> str:
    if trained.reason == "nothing to do":
        budget = (
            f"{config.budget_updates} updates"
            if config.minutes is None
            else f"{config.minutes:g} minutes"
        )
        return (
            f"{trained.path} is finished: {trained.updates} updates in {trained.seconds:.1f} s, "
            f"and the budget is {budget}; raise --updates or --minutes to train on"
        )
    return (
        f"{trained.reason}: {trained.updates} updates in {trained.seconds:.1f} s, in {trained.path}"
    )
