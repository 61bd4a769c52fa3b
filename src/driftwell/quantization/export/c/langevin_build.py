"""From a trained Langevin machine to its integer program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.data import Transform
from driftwell.models.langevin.annealing import noise_levels
from driftwell.models.langevin.kinds import Machine
from driftwell.models.langevin.machine import NeuralLangevinMachine
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.langevin.presets import Recipe
from driftwell.models.langevin.trainer import Layout
from driftwell.quantization.export.c.arithmetic import quantize_multiplier
from driftwell.quantization.export.c.gaussian import NORMAL_BITS
from driftwell.quantization.export.c.langevin_annealed import (
    CONTEXT_TOP,
    UNIT,
    AnnealedProgram,
    Level,
)
from driftwell.quantization.export.c.langevin_coupling import Coupling, coupling
from driftwell.quantization.export.c.langevin_pixels import Decoder, decoder
from driftwell.quantization.export.c.langevin_program import (
    RecurrentProgram,
    fraction_for,
    kick_factor,
)
from driftwell.quantization.formats import Quantized, Uniform
from driftwell.quantization.langevin import (
    QuantizedLangevinMachine,
    QuantizedNoiseConditionalMachine,
    SharedCouplings,
)
from driftwell.sampling import largest_curvature

SampledProgram: TypeAlias = RecurrentProgram | AnnealedProgram
Samplable: TypeAlias = Machine | QuantizedLangevinMachine | QuantizedNoiseConditionalMachine

DEVIATIONS = 8.0  # states farther out than so many standard deviations are cut off
MOST_FRACTION = 20
MOST_STATE_FRACTION = 24


@final
@dataclass(frozen=True)
class Picture:
    """How the visible neurons are shown.

    Attributes:
        transform: between images and visible states.
        height: of an image.
        width: of an image.

    Example:
        >>> from driftwell.data import AtanhScaling
        >>> Picture(AtanhScaling(), 8, 8).height
        8
    """

    transform: Transform
    height: int
    width: int


def langevin_program(
    machine: Samplable,
    recipe: Recipe,
    *,
    bits: int = 8,
    activation_bits: int = 8,
    couplings: Mapping[str, Quantized] | None = None,
    picture: Picture | None = None,
    layout: Layout | None = None,
) -> SampledProgram:
    """The sampler of a machine in integers, as its recipe samples it.

    Args:
        machine: `NeuralLangevinMachine`, `NoiseConditionalMachine`, or one of `quantize_langevin`,
            whose codes and biases are taken as they are.
        recipe: gives sampler, step size, number of steps and noise levels.
        bits: of a coupling, 1 to 8, rounded to nearest on a symmetric grid a row.
        activation_bits: of rates and residuals where they enter products, 4 to 12.
        couplings: matrices that are quantized already, by parameter name (``J``, or ``J_hv`` and
            ``J_vh``); those that are missing are rounded.
        picture: how samples are shown; None: states only.
        layout: which neurons are visible and which hold the label; None: all are visible.

    Raises:
        InvalidInput: another kind of machine, parameters that are not finite, or settings that
            do not fit integers.

    Example:
        >>> machine = NeuralLangevinMachine(4, seed=0)
        >>> program = langevin_program(machine, Recipe(sampler="langevin", sample_steps=20))
        >>> x = program.sample(seed=1, ids=torch.arange(3))
        >>> program.values(x).shape
        torch.Size([3, 4])
    """
    given = integer_couplings(machine) | dict(couplings or {})
    machine = float_machine(machine)
    if not isinstance(machine, NeuralLangevinMachine | NoiseConditionalMachine):
        raise InvalidInput(
            "integers are written for NeuralLangevinMachine and NoiseConditionalMachine, "
            f"not for {type(machine).__name__}"
        )
    if not 4 <= activation_bits <= 12:
        raise InvalidInput(f"activation_bits must be 4 to 12, got {activation_bits}")
    for name, tensor in machine.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"{name} of the machine is not finite: train it again")
    rounded = _Rounding(machine, bits, 2 ** (activation_bits - 1) - 1, given)
    with torch.no_grad():
        if isinstance(machine, NoiseConditionalMachine):
            return _annealed(machine, recipe, rounded, picture)
        return _recurrent(machine, recipe, rounded, picture, layout or Layout(machine.n))


def float_machine(machine: Samplable) -> Machine:
    """The machine itself, or that of a quantized one's decoded couplings."""
    if isinstance(machine, QuantizedLangevinMachine | QuantizedNoiseConditionalMachine):
        return machine.decoded()
    return machine


def integer_couplings(machine: Samplable) -> dict[str, Quantized]:
    """Codes of a quantized machine by parameter name, none of a float one."""
    if isinstance(machine, QuantizedLangevinMachine):
        return {"J": machine.couplings.packed.unpack()}
    if isinstance(machine, QuantizedNoiseConditionalMachine):
        parts = machine.couplings.items()
        return {n: c.packed.unpack() for n, c in parts if isinstance(c, SharedCouplings)}
    return {}


@final
@dataclass(frozen=True, eq=False)
class _Rounding:
    """How the machine's matrices become integers."""

    machine: Machine
    bits: int
    top: int
    given: Mapping[str, Quantized]

    def __post_init__(self) -> None:
        parameters = dict(self.machine.named_parameters())
        for name, quantized in self.given.items():
            if name not in parameters or quantized.shape != tuple(parameters[name].shape):
                there = ", ".join(n for n in parameters if n.startswith("J"))
                raise InvalidInput(
                    f"{name} of shape {quantized.shape} is no coupling of this machine: "
                    f"it has {there}"
                )

    def matrix(self, name: str, unit: float, *, bits: int | None = None) -> Coupling:
        w = dict(self.machine.named_parameters())[name].detach()
        how = Uniform(bits or self.bits, symmetric=True, per="channel")
        codes = self.given.get(name) or how.encode(w.double())
        made = coupling(f"dw_{name}", codes, unit)
        if getattr(self.machine, "zero_diagonal", False) and bool(made.integers.diag().any()):
            made = coupling(f"dw_{name}", codes, unit, hollow=True)
        made.check_sums(max(self.top, CONTEXT_TOP))
        return made

    def decoded(self, name: str) -> Tensor:
        """The float matrix, for bounds."""
        return dict(self.machine.named_parameters())[name].detach().double()


def _recurrent(
    machine: NeuralLangevinMachine,
    recipe: Recipe,
    rounded: _Rounding,
    picture: Picture | None,
    layout: Layout,
) -> RecurrentProgram:
    if layout.n != machine.n:
        raise InvalidInput(f"a layout of {layout.n} neurons does not fit {machine.n}")
    J, b, T = rounded.decoded("J"), machine.b.detach().double(), machine.temperature
    reach = J.abs().sum(dim=1).amax() + b.abs().amax() + DEVIATIONS * max(1.0, math.sqrt(T))
    f = fraction_for(float(reach), MOST_FRACTION)
    averaged, dt = recipe.sampler == "langevin", step_size(machine, recipe)
    return RecurrentProgram(
        n=machine.n, fraction=f, top=rounded.top, steps=recipe.sample_steps,
        classes=layout.labels, averaged=averaged,
        decoder=_decoder(picture, layout.visible, f),
        J=rounded.matrix("J", 2.0**f / rounded.top), b=_fixed(b, f),
        dt=quantize_multiplier(dt), kick=kick_factor(dt, T, averaged, f),
        birth=quantize_multiplier(2.0 ** (f - NORMAL_BITS)), labels_at=layout.visible,
        label_value=round(recipe.label_scale * 2.0**f),
    )  # fmt: skip


def _annealed(
    machine: NoiseConditionalMachine, recipe: Recipe, rounded: _Rounding, picture: Picture | None
) -> AnnealedProgram:
    sigmas = noise_levels(machine, recipe.levels)
    per_level = recipe.sample_steps // len(sigmas)
    if per_level < 1:
        raise InvalidInput(
            f"annealing needs a step at each of its {len(sigmas)} noise levels, "
            f"got {recipe.sample_steps} steps"
        )
    variance = machine.variance.double()
    widest = float(variance.max()) + machine.sigma_max**2
    f = fraction_for(DEVIATIONS * math.sqrt(widest), MOST_STATE_FRACTION)
    v = min(30, 2 * ((31 - math.ceil(math.log2(widest))) // 2))
    if round(sigmas[-1] ** 2 * 2.0**v) < 64:
        raise InvalidInput(
            f"noise levels from {sigmas[0]:.3g} to {sigmas[-1]:.3g} span more than 32 bits hold: "
            "raise noise_low"
        )
    context, phi = 1.0 / CONTEXT_TOP, 2.0**UNIT / rounded.top
    return AnnealedProgram(
        n=machine.n, fraction=f, top=rounded.top, steps=recipe.sample_steps,
        classes=machine.labels, averaged=True, decoder=_decoder(picture, machine.n, f),
        J_hv=rounded.matrix("J_hv", 1.0), J_vh=rounded.matrix("J_vh", phi),
        J_hk=rounded.matrix("J_hk", 2.0**UNIT * context, bits=8),
        J_vk=rounded.matrix("J_vk", 2.0**UNIT * context, bits=8),
        c=_fixed(machine.c, UNIT), b=_fixed(machine.b, UNIT),
        variance=_fixed(variance, v), variance_bits=v,
        birth=_fixed((variance + machine.sigma_max**2).sqrt(), f),
        levels=tuple(_level(machine, recipe, sigma, v, f) for sigma in sigmas),
        per_level=per_level, jump=quantize_multiplier(sigmas[-1] ** 2 * 2.0 ** (f - UNIT)),
        quantiles=_quantiles(machine),
    )  # fmt: skip


def _level(machine: NoiseConditionalMachine, recipe: Recipe, sigma: float, v: int, f: int) -> Level:
    dt = recipe.level_step * sigma**2
    code = machine._level_code(machine.variance.new_tensor([sigma]))[0].double()
    return Level(
        sigma2=round(sigma**2 * 2.0**v), dt=quantize_multiplier(dt * 2.0 ** (f - UNIT)),
        kick=kick_factor(dt, 1.0, True, f),
        code=tuple(int(k) for k in (code * CONTEXT_TOP).round()),
    )  # fmt: skip


def _quantiles(machine: NoiseConditionalMachine) -> tuple[int, ...]:
    """Where r = (k + 1/2) 2^-23 passes from one class to the next, in k."""
    if not machine.labels:
        return ()
    edges = (machine.frequency.cumsum(0) / machine.frequency.sum())[:-1].double()
    return tuple(math.floor(float(edge) * 2.0**23 - 0.5) + 1 for edge in edges)


def step_size(machine: NeuralLangevinMachine, recipe: Recipe) -> float:
    """dt; an automatic one as `driftwell sample` finds it, at 256 fixed start states."""
    if recipe.step_size:
        return recipe.step_size
    start = machine.initial_state(256, seed=0)
    return recipe.make_sampler().fraction / largest_curvature(machine, start)


def _decoder(picture: Picture | None, visible: int, fraction: int) -> Decoder | None:
    if picture is None:
        return None
    size = (picture.height, picture.width)
    return decoder(picture.transform, size, visible, fraction)


def _fixed(x: Tensor, fraction: int) -> Tensor:
    """Nearest integers in units of 2^-fraction."""
    return (x.detach().double() * 2.0**fraction).round().to(torch.int64)
