"""The generated self-test: inputs, what the simulator makes of them, and a comparison."""

from __future__ import annotations

from torch import Tensor

from driftwell.quantization.export.c.program import C_TYPES, Constant, IntegerProgram
from driftwell.quantization.export.c.source import array_text


def self_test_text(program: IntegerProgram, inputs: Tensor, outputs: Tensor) -> str:
    """``self_test.c``: exit status 0 if every output agrees in every bit.

    Args:
        program: the network.
        inputs: integers (N, ...); steps one after the other if the network has a state.
        outputs: what `simulate` gives for them, (N, ...).
    """
    name, big = program.name, program.name.upper()
    into, out = (program.buffer(b) for b in (program.input, program.output))
    arrays = (
        Constant("inputs", inputs, C_TYPES[into.bits]),
        Constant("outputs", outputs, C_TYPES[out.bits]),
    )
    reset = f"    {name}_reset();\n" if program.state else ""
    return f"""\
#include "network.h"

#include <stdio.h>

#define VECTORS {len(inputs)}

{array_text(arrays[0])}
{array_text(arrays[1])}
int main(void)
{{
    int wrong = 0;
    static {C_TYPES[out.bits]} found[{big}_OUT_SIZE];
{reset}    for (int n = 0; n < VECTORS; n++) {{
        {name}_run(inputs + n * {big}_IN_SIZE, found);
        for (int i = 0; i < {big}_OUT_SIZE; i++)
            wrong += found[i] != outputs[n * {big}_OUT_SIZE + i];
    }}
    printf("{name}: %d vectors, %d outputs differ\\n", VECTORS, wrong);
    return wrong != 0;
}}
"""


MAKEFILE = """\
CFLAGS ?= -std=c99 -O2 -Wall -Wextra -Werror -pedantic

test: self_test
	./self_test

self_test: network.c network.h self_test.c
	$(CC) $(CFLAGS) -o $@ network.c self_test.c -lm

clean:
	rm -f self_test

.PHONY: test clean
"""
