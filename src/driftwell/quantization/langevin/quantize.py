"""From a trained Langevin machine to a quantized one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.noise_conditional import Condition, NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe, preset
from driftwell.quantization.formats import Format, Quantized, Uniform
from driftwell.quantization.langevin.annealed_moments import AnnealedMoments, annealed_states
from driftwell.quantization.langevin.centred import Centred
from driftwell.quantization.langevin.machine import Activations, QuantizedLangevinMachine
from driftwell.quantization.langevin.noise_conditional import (
    COUPLINGS,
    QuantizedNoiseConditionalMachine,
)
from driftwell.quantization.langevin.shared_couplings import fits
from driftwell.quantization.langevin.visited_moments import (
    check_states,
    visited_moments,
    visited_states,
)
from driftwell.quantization.post_training.cascade import GPTQThenCOMQ
from driftwell.quantization.post_training.comq import COMQ
from driftwell.quantization.post_training.gptq import GPTQ
from driftwell.quantization.post_training.method import Method
from driftwell.quantization.post_training.output_error import output_error
from driftwell.quantization.post_training.round_to_nearest import RoundToNearest

Machine: TypeAlias = NeuralLangevinMachine | NoiseConditionalMachine
QuantizedAny: TypeAlias = QuantizedLangevinMachine | QuantizedNoiseConditionalMachine

METHODS: dict[str, Method] = {
    "rtn": RoundToNearest(),
    "rtn-clip": RoundToNearest(clip="output"),
    "gptq": GPTQ(),
    "comq": COMQ(),
    "gptq+comq": GPTQThenCOMQ(),
}
_COMPARED = 4096  # states over which forces are compared


@final
@dataclass(frozen=True)
class CouplingsReport:
    """What quantizing did to one matrix.

    Attributes:
        name: of the parameter.
        shape: of the matrix.
        bits: a number.
        error: relative error of the joint objective, |D G^(1/2)| / |J G^(1/2)|.
        clipped: share of the numbers beyond the outermost levels.
        nbytes: of codes and scales.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    error: float
    clipped: float
    nbytes: int


@final
@dataclass(frozen=True, eq=False)
class QuantizedMachine:
    """A quantized machine and what quantizing did.

    Attributes:
        machine: to be sampled from.
        couplings: one report a matrix.
        force_error: root mean square of F^ - F over that of F, over the states.
        states: how many states calibrated it.
    """

    machine: QuantizedAny
    couplings: tuple[CouplingsReport, ...]
    force_error: float
    states: int


def quantize_langevin(
    machine: Machine,
    bits: int = 4,
    *,
    method: str | Method = "gptq+comq",
    format: Format | None = None,
    states: Tensor | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    activations: Activations = "int8",
) -> QuantizedMachine:
    """A Langevin machine with couplings of `bits` bits, calibrated on the states of its chains.

    Each matrix is chosen for the error of the force, in which it stands twice (see
    `visited_moments` and `annealed_moments`); biases take back what rounding does on average.

    Args:
        machine: `NeuralLangevinMachine` or `NoiseConditionalMachine`, trained.
        bits: of a coupling, 1 to 8. Those from context neurons, a few columns, keep 8.
        method: ``"rtn"``, ``"rtn-clip"``, ``"gptq"``, ``"comq"``, ``"gptq+comq"`` or a `Method`.
        format: levels; None takes the better of affine and centred ones, with a scale a row.
        states: calibration states (S, N) of a `NeuralLangevinMachine`; None runs its chains.
        recipe: how a `NoiseConditionalMachine` is sampled; None is that of the default preset.
        seed: of the chains.
        activations: of the steps of a `NeuralLangevinMachine`, ``"int8"`` or ``"float"``.

    Raises:
        InvalidInput: bits, a method or states that cannot be.

    Example:
        >>> made = quantize_langevin(NeuralLangevinMachine(16, seed=0), bits=6, method="rtn")
        >>> made.machine.couplings.bits, made.force_error < 0.1
        (6, True)
    """
    chosen = method_named(method)
    if isinstance(machine, NoiseConditionalMachine):
        return _annealed(machine, bits, chosen, format, recipe or preset("default"), seed)
    states = visited_states(machine, seed=seed) if states is None else states
    check_states(states, machine.n)
    moments = visited_moments(machine, states)
    J, b, learned = machine.J.detach(), machine.b.detach(), machine.b.requires_grad
    gram = moments.gram(J, bias=learned)
    coded = _coded(J, gram, chosen, format, bits)
    small = QuantizedLangevinMachine(
        coded.pack(), b, machine.temperature, machine.zero_diagonal, activations
    )
    if learned:
        with torch.no_grad():
            small.b.add_((J - small.J) @ moments.rates)
    report = _report("J", J, small.J, coded, gram)
    rows = states[:: max(1, len(states) // _COMPARED)]
    error = _relative(machine.force(rows), small.force(rows))
    return QuantizedMachine(small, (report,), error, len(states))


def _annealed(
    machine: NoiseConditionalMachine, bits: int, method: Method, format: Format | None,
    recipe: Recipe, seed: int,
) -> QuantizedMachine:  # fmt: skip
    visited = annealed_states(machine, recipe, seed=seed)
    moments = AnnealedMoments(machine)
    for u, x in visited:
        moments.add(u, x)
    coded, grams = {}, moments.grams()
    for name in COUPLINGS:
        J, inner = getattr(machine, name).detach(), name in ("J_hv", "J_vh")
        width = bits if inner else max(bits, 8)
        coded[name] = _coded(J, grams[name], method, format if inner else None, width)
    small = QuantizedNoiseConditionalMachine(machine, {n: q.pack() for n, q in coded.items()})
    with torch.no_grad():
        small.b.add_((machine.J_vh - small.integers("J_vh").values) @ moments.rates)
    reports = tuple(
        _report(n, getattr(machine, n).detach(), small.integers(n).values, coded[n], grams[n])
        for n in COUPLINGS
    )
    return QuantizedMachine(small, reports, _score_error(machine, small, visited), moments.count)


def _coded(J: Tensor, gram: Tensor, method: Method, format: Format | None, bits: int) -> Quantized:
    """The codes of least cost on the format, or on the better of two."""
    if format is not None:
        formats: tuple[Format, ...] = (format,)
    elif bits > 7:
        formats = (Uniform(bits, symmetric=True),)  # affine integers would need nine bits
    else:
        formats = (Centred(bits), Uniform(bits))
    made = [method.quantize(J, gram, each) for each in formats]
    made = [each for each in made if fits(each.grid)] or made
    return min(made, key=lambda each: output_error(J, each.decode(), gram))


def _report(
    name: str, J: Tensor, decoded: Tensor, coded: Quantized, gram: Tensor
) -> CouplingsReport:
    low, high = coded.grid.bounds()
    half = 0.5 * coded.grid.scale
    outside = (J < low - half) | (J > high + half)
    return CouplingsReport(
        name, (J.shape[0], J.shape[1]), coded.grid.bits, output_error(J, decoded, gram),
        float(outside.double().mean()), coded.pack().nbytes,
    )  # fmt: skip


def _score_error(
    machine: NoiseConditionalMachine,
    small: QuantizedNoiseConditionalMachine,
    visited: list[tuple[Tensor, Condition]],
) -> float:
    """Relative error of sigma F over all levels."""
    ours = [x[0][:, None] * small.gradient(u, x) for u, x in visited]
    exact = [x[0][:, None] * machine.gradient(u, x).detach() for u, x in visited]
    return _relative(torch.cat(exact), torch.cat(ours))


def _relative(exact: object, found: object) -> float:
    if not isinstance(exact, Tensor) or not isinstance(found, Tensor):
        raise InvalidInput("a machine's state is one tensor")
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def method_named(method: str | Method) -> Method:
    """The method of a name, or one given, with zeros kept among whole numbers.

    Raises:
        InvalidInput: no such name.

    Example:
        >>> method_named("gptq").act_order
        True
    """
    if not isinstance(method, Method):
        if method not in METHODS:
            raise InvalidInput(f"no method {method!r}: there are {', '.join(METHODS)}")
        method = METHODS[method]
    if isinstance(method, COMQ) and method.fit == "zero":
        return replace(method, fit="whole zero")
    if isinstance(method, GPTQThenCOMQ) and method.then.fit == "zero":
        return replace(method, then=replace(method.then, fit="whole zero"))
    return method
