"""The page of a Neural Langevin Machine: what its template is filled with."""

from __future__ import annotations

import math
import shlex
import tomllib

from driftwell.core.papers import papers_of
from driftwell.report.measurements import Measurements
from driftwell.report.parts import OVERLAP, Plate
from driftwell.report.quantization import quantization_section, quantize_commands
from driftwell.report.readings import readings
from driftwell.report.rounding import measured
from driftwell.report.style import colour_variables
from driftwell.report.templates import environment
from driftwell.training.run import Run
from driftwell.training.run_folder import CONFIG


def render(run: Run, found: Measurements, plates: dict[str, Plate]) -> str:
    """HTML of the report.

    Args:
        run: the run.
        found: its measurements.
        plates: of `draw`.
    """
    engine = environment()
    config = tomllib.loads((run.path / CONFIG).read_text(encoding="utf-8"))
    recipe = config.pop("recipe", {})
    page: str = engine.get_template("page.html.j2").render(
        title=_title(run),
        run=run, found=found, plates=plates, readings=readings(found), measured=measured,
        neurons=len(found.spectrum.eigenvalues),
        pixelwise=not hasattr(run.transform, "components"),
        labels=0 if found.by_class is None else len(found.by_class),
        hidden=getattr(run.machine, "hidden", run.recipe.hidden),
        classes=", ".join(map(str, found.train.classes)),
        papers=papers_of(run.machine),
        comparison=_comparison_rows(found), chains=_chain_rows(run, found),
        quantized=quantization_section(run), config=config, recipe=recipe, versions=_versions(run),
        warnings=[*run.meta.get("warnings", []), *([run.warning] if run.warning else []),
                  *([OVERLAP] if found.overlap else [])],
        commands=[*quantize_commands(run), *_commands(run, found)],
        light=colour_variables(dark=False), dark=colour_variables(dark=True),
    )  # fmt: skip
    return page


def _title(run: Run) -> str:
    classes = run.config.data.classes
    chosen = f", classes {', '.join(map(str, classes))}" if classes else ""
    return f"Neural Langevin Machine on {run.meta['data']['name']}{chosen}"


def _comparison_rows(found: Measurements) -> list[dict[str, str]]:
    """Rows of the table: measure, generated, floor, Gaussian, what it means."""
    names = {
        "aai": ("AAI", "0; ¼: always told apart"),
        "accuracy_real": ("Acc real", "½; near 1: variety is missing"),
        "accuracy_generated": ("Acc generated", "½; near 0: copies; near 1: a cloud of its own"),
        "e2": ("E2", "the floor; squared error of covariances"),
        "energy_distance": ("Energy distance", "the floor; 0 for equal laws"),
        "nearest_median": ("Distance to training", "the floor; median to the nearest image"),
        "copied": ("Share of copies", "0.01: nearer than 99 % of held-out images"),
    }
    rows = []
    for key, (name, aim) in names.items():
        cells = {
            which: measured(row[key], row.get(f"{key}_error"))
            for which, row in found.two_sample.items() if which != "size"
        }  # fmt: skip
        rows.append({"name": name, "aim": aim, **cells})
    return rows


def _chain_rows(run: Run, found: Measurements) -> list[dict[str, str]]:
    own, got = found.diagnostics, found.likelihood
    name, _, settings = found.sampler.partition(", ")
    numbers = {key: float(value) for key, value in own.items() if key != "backend"}
    rows = [
        ("Virial", measured(numbers["virial"], numbers["virial_error"]), "1 at equilibrium"),
        ("Split R-hat", measured(numbers["rhat"]), "1 when chains agree; below 1.1"),
        ("Effective sample size", measured(numbers["ess"], digits=4),
         f"of {found.samples} chains, " + ("going on at the lowest level" if found.trace.levels
         else "over the second half of their steps")),
        ("MALA acceptance at the visited states", measured(numbers["acceptance"]),
         "near 1: the step size biases little"),
        ("Energy of chains, E / N", measured(found.trace.energy[-1]),
         "hidden neurons: images have no energy of their own" if math.isnan(found.energy_train) else
         f"training {measured(found.energy_train)}, held out {measured(found.energy_held_out)}"),
        ("Sampler", name, f"{settings}, {found.sample_steps} steps, {own['backend']}"),
    ]  # fmt: skip
    and_label = " and label" if run.layout.labels else ""
    if got is not None:
        rows += [
            (f"Held-out log-likelihood, nats per image{and_label}",
             measured(got.value, got.standard_error),
             f"training {measured(got.train, digits=4)}, noise around the mean image "
             f"{measured(got.noise, digits=4)}"),
            ("log Z, nats", measured(got.log_partition, got.log_partition_error),
             f"annealed importance sampling, {got.effective_chains:.0f} effective chains"),
        ]  # fmt: skip
    if found.gap is not None:
        rows.append((
            "Persistent against fresh chains", measured(found.gap.distance),
            f"0 for the same law; floor {measured(found.gap.floor)}",
        ))  # fmt: skip
    return [{"name": name, "value": value, "aim": aim} for name, value, aim in rows]


def _versions(run: Run) -> dict[str, str]:
    meta = run.meta
    kept = {key: meta[key] for key in ("noise", "threads", "processes") if key in meta}
    return {k: str(v) for k, v in {**meta.get("versions", {}), **kept}.items()}


def _commands(run: Run, found: Measurements) -> list[tuple[str, str]]:
    folder = shlex.quote(str(run.path))
    data = run.config.data
    words = ["driftwell train nlm", f"--data {shlex.quote(data.source)}"]
    if data.classes:
        words.append(f"--classes {','.join(map(str, data.classes))}")
    words += [f"--preset {run.config.preset}", f"--updates {run.update}",
              f"--seed {run.config.seed}", f"--out {folder}"]  # fmt: skip
    same = f"{folder} -n {found.samples} --seed {found.seed}"
    return [
        ("trains it (all settings: config.toml)", " ".join(words)),
        ("the same, from the settings file", f"driftwell train nlm --config {folder}/{CONFIG} "
         "--out ANOTHER"),
        ("prints every number here", f"driftwell measure {same} --json"),
        ("writes this page", f"driftwell report {same}"),
        ("more samples", f"driftwell sample {folder} -n 64 --out samples.png"),
    ]  # fmt: skip
