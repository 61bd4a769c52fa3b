"""The text of a program in C: header and source, the same bytes for the same program."""

from __future__ import annotations

import re

from driftwell.quantization.export.c.arena import members, plan, pointers
from driftwell.quantization.export.c.arithmetic import ARITHMETIC_C
from driftwell.quantization.export.c.program import (
    C_TYPES,
    Buffer,
    Constant,
    IntegerProgram,
    flattened,
)

WIDTH = 100


def header_text(program: IntegerProgram) -> str:
    """``network.h``: sizes, scales and the functions a caller uses."""
    name, big = program.name, program.name.upper()
    into, out = program.buffer(program.input), program.buffer(program.output)
    lines = [
        f"/* {name}: a network in integers, written by driftwell; value = scale * (q - zero) */",
        f"#ifndef {big}_H",
        f"#define {big}_H",
        "",
        "#include <stdint.h>",
        "",
        *_described(f"{big}_IN", into),
        *_described(f"{big}_OUT", out),
        "",
        f"/* one {'step' if program.state else 'run'} on integers; needs no stack to speak of */",
        f"void {name}_run(const {C_TYPES[into.bits]} *in, {C_TYPES[out.bits]} *out);",
        "",
        "/* the same on values: quantizes, runs, and gives back values */",
        f"void {name}_run_float(const float *in, float *out);",
        "",
    ]
    if program.state:
        lines += [
            "/* forget all that was run: call it before the first step of a sequence */",
            f"void {name}_reset(void);",
            "",
        ]
    return "\n".join([*lines, "#endif", ""])


def source_text(program: IntegerProgram) -> str:
    """``network.c``: arithmetic, the functions of its layers, their numbers, and the run."""
    arena = plan(program)
    where = pointers(program, arena)
    into, out = program.buffer(program.input), program.buffer(program.output)
    operations = flattened(program.operations)
    kernels = dict.fromkeys(text for operation in operations for text in operation.kernels)
    declarations = dict.fromkeys(
        line for operation in operations for line in operation.declarations()
    )
    held = members(program, arena)
    memory = ["static struct {", *(f"    {line}" for line in held), "} memory;", ""]
    statements = [line for operation in program.operations for line in operation.code(where)]
    parts = [
        '#include "network.h"',
        "",
        "#include <stddef.h>",
        "",
        *needed((ARITHMETIC_C, *kernels), statements),
        *(array_text(constant) for constant in program.constants()),
        *declarations,
        "",
        *(memory if held else ()),
        f"void {program.name}_run(const {C_TYPES[into.bits]} *in, {C_TYPES[out.bits]} *out)",
        "{",
        *(f"    {line}" for line in statements),
        "}",
        "",
        float_run_text(program, into, out),
    ]
    if program.state:
        parts += [_reset_text(program)]
    return "\n".join(parts)


def needed(texts: tuple[str, ...], statements: list[str]) -> list[str]:
    """The functions among `texts` that the statements call, directly or not, and all types.

    A function that nothing calls is a warning to some compilers.
    """
    blocks = [block for text in texts for block in re.split(r"\n\n(?=\S)", text.strip())]
    kept: list[str] = []
    called = "\n".join(statements)
    for block in reversed(blocks):
        name = re.search(r"^static .*?(dw_\w+)\(", block, re.MULTILINE)
        if name is None or re.search(rf"\b{name.group(1)}\(", called):
            kept.append(block + "\n")
            called += block
    return kept[::-1]


def array_text(constant: Constant) -> str:
    """A read-only array with its numbers, a hundred characters a line."""
    numbers = [_number(int(value), constant.c_type) for value in constant.values.reshape(-1)]
    lines, line = [], "   "
    for number in numbers:
        if len(line) + len(number) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {number},"
    lines.append(line)
    body = "\n".join(lines)
    return f"static const {constant.c_type} {constant.name}[{len(numbers)}] = {{\n{body}\n}};\n"


def float_run_text(program: IntegerProgram, into: Buffer, out: Buffer) -> str:
    """The function that takes and gives values; rounds to nearest, halves to even."""
    name, big = program.name, program.name.upper()
    low, high = -(2 ** (into.bits - 1)), 2 ** (into.bits - 1) - 1
    return f"""\
/* nearest integer of x within the bits of the input; halves to even, not-a-number to 0 */
static {C_TYPES[into.bits]} nearest(float x)
{{
    double q = (double)x / {big}_IN_SCALE, part;
    int32_t whole;
    if (!(q == q))
        q = 0.0;
    if (q < {low - into.zero}.0)
        q = {low - into.zero}.0;
    if (q > {high - into.zero}.0)
        q = {high - into.zero}.0;
    whole = (int32_t)q;
    part = q - whole;
    if (part > 0.5 || (part >= 0.5 && whole % 2 != 0))
        whole++;
    if (part < -0.5 || (part <= -0.5 && whole % 2 != 0))
        whole--;
    return ({C_TYPES[into.bits]})(whole + {big}_IN_ZERO);
}}

void {name}_run_float(const float *in, float *out)
{{
    static {C_TYPES[into.bits]} from[{big}_IN_SIZE];
    static {C_TYPES[out.bits]} to[{big}_OUT_SIZE];
    for (int32_t i = 0; i < {big}_IN_SIZE; i++)
        from[i] = nearest(in[i]);
    {name}_run(from, to);
    for (int32_t i = 0; i < {big}_OUT_SIZE; i++)
        out[i] = (float)({big}_OUT_SCALE * (to[i] - {big}_OUT_ZERO));
}}
"""


def _described(name: str, buffer: Buffer) -> list[str]:
    shape = " x ".join(map(str, buffer.shape)) or "1"
    return [
        f"#define {name}_SIZE {buffer.size} /* {shape} */",
        f"#define {name}_SCALE {buffer.scale!r}",
        f"#define {name}_ZERO ({buffer.zero})",
    ]


def _number(value: int, c_type: str) -> str:
    """A literal that every compiler takes: -2^31 has none."""
    return "INT32_MIN" if c_type == "int32_t" and value == -(2**31) else str(value)


def _reset_text(program: IntegerProgram) -> str:
    lines = []
    for buffer in program.state:
        lines += [
            f"    for (int32_t i = 0; i < {buffer.size}; i++)",
            f"        memory.{buffer.name}[i] = {buffer.zero};",
        ]
    return "\n".join([f"void {program.name}_reset(void)", "{", *lines, "}", ""])
