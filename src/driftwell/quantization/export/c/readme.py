"""The page that goes with a program in C: what it takes, what it costs, how to check it."""

from __future__ import annotations

from driftwell.quantization.export.c.arena import plan
from driftwell.quantization.export.c.program import C_TYPES, Buffer, IntegerProgram


def readme_text(program: IntegerProgram, vectors: int) -> str:
    """``README.md`` of a program."""
    name = program.name
    into, out = program.buffer(program.input), program.buffer(program.output)
    rows = [
        f"| {type(operation).__name__} | {operation.output} | {operation.macs} |"
        for operation in program.operations
    ]
    reset = f"- `{name}_reset()`: start a new sequence\n" if program.state else ""
    return f"""\
# {name}

A network in integers, as plain C99: no malloc, no mathematics library, no state but its own.

| | |
|---|---|
| read-only tables | {program.rom_bytes} bytes |
| memory | {plan(program).nbytes} bytes |
| multiply-accumulates a run | {program.macs} |

Code, a descriptor a layer and the caller's input and output come on top. `{name}_run_float` holds
{into.nbytes + out.nbytes} bytes more, if you call it.

- `{name}_run(in, out)`: integers to integers
- `{name}_run_float(in, out)`: values to values
{reset}
{_described("in", into)}
{_described("out", out)}

| operation | writes | multiply-accumulates |
|---|---|---|
{chr(10).join(rows)}

`make` compiles `self_test.c` and runs it: {vectors} vectors must agree in every bit.
"""


def _described(name: str, buffer: Buffer) -> str:
    shape = " x ".join(map(str, buffer.shape)) or "1"
    return (
        f"`{name}`: {buffer.size} `{C_TYPES[buffer.bits]}` ({shape}), "
        f"value = {buffer.scale:.9g} * (q - ({buffer.zero}))  "
    )
