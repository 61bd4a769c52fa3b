"""The text of an integer Langevin sampler in C: header and source."""

from __future__ import annotations

from driftwell.quantization.export.c.arithmetic import ARITHMETIC_C
from driftwell.quantization.export.c.gaussian import GAUSSIAN_C, HIGH, LOW, SINE
from driftwell.quantization.export.c.langevin_annealed import AnnealedProgram
from driftwell.quantization.export.c.langevin_annealed_source import (
    annealed_code,
    annealed_constants,
)
from driftwell.quantization.export.c.langevin_build import SampledProgram
from driftwell.quantization.export.c.langevin_coupling import COUPLING_C, Coupling
from driftwell.quantization.export.c.langevin_pixels import TANH
from driftwell.quantization.export.c.langevin_program import RecurrentProgram
from driftwell.quantization.export.c.langevin_recurrent_source import (
    recurrent_code,
    recurrent_constants,
)
from driftwell.quantization.export.c.program import Constant
from driftwell.quantization.export.c.source import array_text

TANH_C = """\
/* tanh of a number in units of 2^-fraction, in units of 2^-15 */
static int32_t dw_tanh(int32_t x, int fraction)
{
    return dw_interpolate(dw_tanh_table, dw_saturate16(dw_shift_round(x, fraction - 12)));
}
"""


def constants(program: SampledProgram) -> tuple[Constant, ...]:
    """Every read-only array of the sampler."""
    shared = (
        Constant("dw_radius_low", LOW, "uint16_t"),
        Constant("dw_radius_high", HIGH, "uint16_t"),
        Constant("dw_sine", SINE, "uint16_t"),
        Constant("dw_tanh_table", TANH, "int16_t"),
    )
    own = annealed_constants(program) if isinstance(program, AnnealedProgram) else (
        recurrent_constants(program)
    )  # fmt: skip
    return (*shared, *own, *(program.decoder.constants() if program.decoder else ()))


def rom_bytes(program: SampledProgram) -> int:
    """Bytes of all read-only arrays."""
    return sum(constant.nbytes for constant in constants(program))


def chain_members(program: SampledProgram) -> dict[str, int]:
    """32-bit arrays of a chain and their lengths, beside its five numbers."""
    own = {"x": program.n, "noise": program.n}
    if isinstance(program, AnnealedProgram):
        own |= {"s": program.n, "q": program.n, "base": program.n, "current": program.hidden}
    return own


def scratch_members(program: SampledProgram) -> dict[str, tuple[str, int]]:
    """Arrays shared by all chains: type and length, widest type first."""
    n = program.n
    if isinstance(program, RecurrentProgram):
        return {"e": ("int32_t", n), "v": ("int32_t", n), "feedback": ("int32_t", n),
                "q": ("int16_t", n), "phi": ("int16_t", n)}  # fmt: skip
    h = program.hidden
    return {"e": ("int32_t", n), "v": ("int32_t", n), "hidden": ("int32_t", h),
            "q": ("int16_t", max(n, h, program.J_hk.columns)), "phi": ("int16_t", h)}  # fmt: skip


def ram_bytes(program: SampledProgram) -> int:
    """Bytes of one chain and of what all chains share."""
    chain = 8 + 4 * 4 + 4 * sum(chain_members(program).values())
    size = {"int32_t": 4, "int16_t": 2}
    scratch = sum(size[c_type] * length for c_type, length in scratch_members(program).values())
    return -(-chain // 8) * 8 + -(-scratch // 4) * 4


def header_text(program: SampledProgram, name: str) -> str:
    """``langevin.h``: sizes, the state of a chain, and five functions."""
    big, d = name.upper(), program.decoder
    arrays = [f"    int32_t {a}[{length}];" for a, length in chain_members(program).items()]
    picture = [] if d is None else [
        f"#define {big}_HEIGHT {d.height}",
        f"#define {big}_WIDTH {d.width}",
        f"#define {big}_PIXELS {d.pixels}",
    ]  # fmt: skip
    show = [] if d is None else [
        "",
        "/* grey values 0 .. 255 of a finished chain, row by row */",
        f"void {name}_pixels(const {name}_chain *chain, uint8_t *pixels);",
    ]  # fmt: skip
    return "\n".join([
        f"/* {name}: a Langevin machine sampled in integers, written by driftwell */",
        f"#ifndef {big}_H",
        f"#define {big}_H",
        "",
        "#include <stdint.h>",
        "",
        f"#define {big}_N {program.n}",
        f"#define {big}_STEPS {program.steps}",
        f"#define {big}_FRACTION {program.fraction} /* x is in units of 2^-{program.fraction} */",
        f"#define {big}_CLASSES {program.classes}",
        f"#define {big}_NO_LABEL (-1) /* of no class in particular */",
        f"#define {big}_ANY_LABEL (-2) /* a class drawn as often as it is in the training data */",
        *picture,
        "",
        "typedef struct {",
        "    uint64_t seed;",
        "    uint32_t id, step;",
        "    int32_t label, level;",
        *arrays,
        f"}} {name}_chain;",
        "",
        "/* bytes of read-only arrays; bytes of one chain and of what all chains share */",
        f"extern const uint32_t {name}_rom_bytes, {name}_ram_bytes;",
        "",
        "/* chain `id` of `seed` before its first step, of a class 0 .. CLASSES - 1 or as above */",
        f"void {name}_start({name}_chain *chain, uint64_t seed, uint32_t id, int32_t label);",
        "",
        f"/* one Langevin step; {big}_STEPS make a sample, {name}_finish ends it */",
        f"void {name}_step({name}_chain *chain);",
        f"void {name}_finish({name}_chain *chain);",
        *show,
        "",
        "#endif",
        "",
    ])  # fmt: skip


def source_text(program: SampledProgram, name: str) -> str:
    """``langevin.c``: arithmetic, noise, couplings, and the steps."""
    arrays = constants(program)
    members = [f"    {t} {a}[{length}];" for a, (t, length) in scratch_members(program).items()]
    rom = "\n    + ".join(f"sizeof {constant.name}" for constant in arrays)
    code = (
        annealed_code(program, name)
        if isinstance(program, AnnealedProgram)
        else recurrent_code(program, name)
    )
    return "\n".join([
        f'#include "{name}.h"',
        "",
        ARITHMETIC_C,
        *(array_text(constant) for constant in arrays),
        GAUSSIAN_C,
        TANH_C,
        COUPLING_C,
        *(c.declaration(both) for c, both in _couplings(program)),
        "static struct {",
        *members,
        "} dw_scratch;",
        "",
        f"const uint32_t {name}_rom_bytes = (uint32_t)({rom});",
        f"const uint32_t {name}_ram_bytes = (uint32_t)(sizeof dw_scratch + sizeof({name}_chain));",
        "",
        code,
        *([] if program.decoder is None else [program.decoder.code(name)]),
    ])  # fmt: skip


def _couplings(program: SampledProgram) -> list[tuple[Coupling, bool]]:
    pairs: list[tuple[Coupling, bool]] = []
    if isinstance(program, RecurrentProgram):
        pairs = [(program.J, True)]
    if isinstance(program, AnnealedProgram):
        pairs = [(program.J_hv, True), (program.J_vh, True),
                 (program.J_hk, False), (program.J_vk, False)]  # fmt: skip
    if program.decoder is not None and program.decoder.matrix is not None:
        pairs.append((program.decoder.matrix, False))
    return pairs
