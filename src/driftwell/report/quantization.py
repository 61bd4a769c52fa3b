"""What quantizing did to a run: tables for the terminal, figures and a section for the page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from driftwell.core.errors import DriftwellError
from driftwell.report.parts import Plate, Table, number, plate
from driftwell.report.quantization_figures import (
    before_and_after,
    layer_errors,
    quality_against_bits,
)
from driftwell.report.rounding import measured, spaced
from driftwell.training.quantization_plan import QuantizationPlan
from driftwell.training.quantized_run import NOTED, PICTURES, QuantizedWeights, Scores

WIDTHS = (8, 4, 3, 2)
"""Bits at which the quality of a run is measured for its page."""
_HEADS = {"aai": "AAI", "e2": "E2", "psnr": "PSNR (dB)"}
_SEEN = {"nlm": "the states its own chains visit", "ignn": "the whole graph"}
_SHIPPED = {"nlm": "c", "deq": "c", "lpn": "onnx", "ignn": "safetensors"}


def layer_table(layers: Sequence[dict[str, Any]]) -> Table:
    """One row a weight: bits, errors of the output, clipped weights and bytes.

    Example:
        >>> layer = {"name": "W", "bits": 4, "error": 0.1, "rounded": 0.2, "clip": 0.0,
        ...          "weights": 64, "nbytes": 40, "float_bytes": 256}
        >>> layer_table([layer]).rows
        (('W', '4', '0.1000', '0.2000', '0.00 %', '64', '256', '40'),)
    """
    rows = tuple(
        (
            layer["name"], str(layer["bits"]), number(layer["error"], 4),
            number(layer["rounded"], 4), f"{100 * layer['clip']:.2f} %", f"{layer['weights']:,}",
            f"{layer['float_bytes']:,}", f"{layer['nbytes']:,}",
        )
        for layer in layers
    )  # fmt: skip
    head = ("", "bits", "error", "if rounded", "clipped", "weights", "bytes before", "after")
    return Table(
        "weights", rows, head,
        "error: of the layer's output over the states that calibrated it, relative; if rounded: "
        "with plain rounding",
    )  # fmt: skip


def score_table(scores: Sequence[dict[str, Any]]) -> Table:
    """Quality against bits, one row a bit width.

    Example:
        >>> score_table([{"bits": 32, "accuracy": 0.98}, {"bits": 2, "accuracy": 0.9}]).rows
        (('float', '0.98'), ('2', '0.9'))
    """
    names = [name for name in scores[0] if name != "bits" and not name.endswith("_error")]
    rows = tuple(
        (
            "float" if row["bits"] >= 16 else str(row["bits"]),
            *(_with_error(row, name) for name in names),
        )
        for row in scores
    )
    return Table("quality against bits", rows, ("bits", *(_HEADS.get(n, n) for n in names)))


def _with_error(row: Mapping[str, Any], name: str) -> str:
    return measured(row[name], row.get(f"{name}_error"))


def scores_of(plan: QuantizationPlan, note: Callable[[str], None]) -> Scores:
    """A measure of (run, quantized weights): the float model, the plan's bits, and `WIDTHS`."""

    def scored(run: Any, made: QuantizedWeights) -> list[dict[str, Any]]:
        kind = run.config.kind
        rows = [{"bits": 32, **kind.scores(run, None)}]
        widths = sorted({plan.bits, *WIDTHS} if plan.format == "uniform" else {plan.bits})[::-1]
        for bits in widths:
            try:
                small = made if bits == plan.bits else kind.quantized(run, replace(plan, bits=bits))
                rows.append({"bits": bits, **kind.scores(run, small)})
            except DriftwellError as error:
                note(f"no quality at {bits} bits: {error}")
        return rows

    return scored


def draw_quantization(run: Any) -> dict[str, Plate]:
    """Figures of a quantized run by name; none of any other.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    noted = run.meta.get(NOTED)
    if noted is None:
        return {}
    plates = [plate(
        "layer-errors", layer_errors(noted["layers"]),
        "Relative output error of every quantized weight.",
        "Error of a layer's output over the states that calibrated it, |X(W − Q)ᵀ| / |XWᵀ|, "
        "against rounding every weight to the nearest level of the format's own grid.",
    )]  # fmt: skip
    if noted["scores"]:
        plates.append(plate(
            "quality-bits", quality_against_bits(noted["scores"]),
            "Quality of the model against the bits of a weight.",
            "Measured when this run was quantized, with the same method at every width; bars and "
            "band: one standard error of the score itself, the same held-out data throughout.",
        ))  # fmt: skip
    before, after = (run.tensors.get(f"{PICTURES}{part}") for part in ("before", "after"))
    if before is not None and after is not None:
        plates.append(plate(
            "before-after", before_and_after(before / 255.0, after / 255.0, noted["plan"]["bits"]),
            "Pictures by the float model, by the quantized one, and their difference.",
            "The same noise and seed. Chains part after many steps even where the law is the "
            "same: what counts is whether the middle row looks drawn from the same set.",
        ))  # fmt: skip
    return {each.name: each for each in plates}


@final
@dataclass(frozen=True)
class QuantizationSection:
    """What the page says of the quantization.

    Attributes:
        lead: how it was done, in a sentence.
        tables: layers, scores, and what was left in float.
        plates: names of its figures.
    """

    lead: str
    tables: tuple[Table, ...]
    plates: tuple[str, ...] = ("layer-errors", "quality-bits", "before-after")


def quantization_section(run: Any) -> QuantizationSection | None:
    """What the page of a quantized run says about that; None for any other run."""
    noted = run.meta.get(NOTED)
    if noted is None:
        return None
    plan, layers = noted["plan"], noted["layers"]
    activations = noted.get("activations", plan["activations"])
    before, after = (sum(layer[key] for layer in layers) for key in ("float_bytes", "nbytes"))
    seen = _SEEN.get(run.config.model, f"{plan['samples']} training images")
    lead = (
        f"{plan['bits']} bits a weight in the format {plan['format']}, one scale per {plan['per']}"
        f"{' of ' + str(plan['group_size']) if plan['group_size'] else ''}, codes chosen by "
        f"{plan['method']} on {seen}: {spaced(before)} bytes of weights became "
        f"{spaced(after)}, {before / after:.1f} times fewer. Products take "
        f"{'integers of 8 bits' if activations == 'int8' else 'float states'}."
    )
    tables = [layer_table(layers)]
    if noted["scores"]:
        tables.append(score_table(noted["scores"]))
    tables += skipped_table(noted["skipped"])
    return QuantizationSection(lead, tuple(tables))


def skipped_table(skipped: Mapping[str, str]) -> list[Table]:
    """What was left in float and why, if anything was.

    Example:
        >>> skipped_table({}), skipped_table({"head": "as asked"})[0].rows
        ([], (('head', 'as asked'),))
    """
    if not skipped:
        return []
    return [Table("left in float", tuple(skipped.items()), ("", "because"))]


def quantize_commands(run: Any) -> list[tuple[str, str]]:
    """Commands that made and that ship a quantized run; none for any other."""
    noted = run.meta.get(NOTED)
    if noted is None:
        return []
    plan, folder = noted["plan"], shlex.quote(str(run.path))
    words = ["driftwell quantize", shlex.quote(noted["source"]), f"--bits {plan['bits']}"]
    words += [f"--method {plan['method']}", f"--format {plan['format']}", f"--per {plan['per']}"]
    words += [f"--group-size {plan['group_size']}"] if plan["group_size"] else []
    words += [f"--activations {plan['activations']}", f"--samples {plan['samples']}"]
    words += [f"--seed {plan['seed']}", f"--out {folder}"]
    target = _SHIPPED[run.config.model]
    return [
        ("quantizes the run it was made of", " ".join(words)),
        (f"ships it as {target}", f"driftwell export {folder} --to {target} --out shipped"),
    ]
