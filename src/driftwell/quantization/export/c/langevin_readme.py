"""The README of an exported sampler."""

from __future__ import annotations

from driftwell.quantization.export.c.langevin_annealed import AnnealedProgram
from driftwell.quantization.export.c.langevin_build import SampledProgram


def readme_text(program: SampledProgram, name: str, rom: int, ram: int) -> str:
    """``README.md``: what it is, three commands, sizes, and how to call it."""
    annealed = isinstance(program, AnnealedProgram)
    kind = "noise-conditional Langevin machine" if annealed else "Neural Langevin Machine"
    bits = program.J_hv.bits if isinstance(program, AnnealedProgram) else program.J.bits
    shown = program.decoder is not None
    picture = f"    {name}_pixels(&chain, pixels);      /* grey values */\n" if shown else ""
    target = "picture.pgm" if shown else "states.txt"
    room = f"static uint8_t pixels[{name.upper()}_PIXELS];\n" if shown else ""
    classes = f"    ./sample 0 64 {target} 0    # of the first of {program.classes} classes\n"
    return f"""\
# {name}: a {kind} in integers

Written by driftwell. C99, no malloc, no float and no libm in the steps; Langevin noise from its
own counter-based generator (Philox4x32-10, Box-Muller in integers).

    make && ./self_test           # the states it was written with, to the bit
    ./sample 0 16                 # sixteen samples of seed 0 as {"text" if shown else "numbers"}
    ./sample 0 64 {target}     # sixty-four into a file
{classes if program.classes else ""}
| | |
|---|---|
| neurons in the state | {program.n} |
| bits of a coupling | {bits} |
| read-only memory | {rom} bytes |
| memory for one chain | {ram} bytes |
| multiply-accumulates a step | {program.macs} |
| steps a sample | {program.steps} |

```c
#include "{name}.h"

static {name}_chain chain; /* any number of chains share one machine */
{room}
void draw(uint64_t seed, uint32_t id)
{{
    {name}_start(&chain, seed, id, {name.upper()}_ANY_LABEL);
    for (int step = 0; step < {name.upper()}_STEPS; step++)
        {name}_step(&chain);
    {name}_finish(&chain);
{picture}}}
```

A state is `chain.x[i] * 2^-{program.fraction}`. Chain `id` of a `seed` is always the same sample,
whatever was drawn before it, and but for rounding the one that `driftwell sample` draws with that
seed. The functions share scratch memory: call them from one thread.
"""
