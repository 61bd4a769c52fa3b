"""The self-test of an exported sampler, and how to build it."""

from __future__ import annotations

import torch
from torch import Tensor

from driftwell.quantization.export.c.langevin_annealed import AnnealedProgram
from driftwell.quantization.export.c.langevin_build import SampledProgram
from driftwell.quantization.export.c.langevin_drawing import filled_text
from driftwell.quantization.export.c.langevin_program import ChainStates
from driftwell.quantization.export.c.langevin_source import (
    ram_bytes,
    rom_bytes,
)
from driftwell.quantization.export.c.program import Constant
from driftwell.quantization.export.c.source import array_text

NO_LABEL, ANY_LABEL = -1, -2
TEST_SPAN = 100


def checksum(x: Tensor) -> Tensor:
    """FNV-1a over the numbers of each row, int64 (B,) of 32 bits.

    Example:
        >>> checksum(torch.tensor([[0], [-1]])).tolist()
        [84696351, 4193493326]
    """
    h = torch.full((len(x),), 2166136261)
    for column in x.T & 0xFFFFFFFF:
        h = ((h ^ column) * 16777619) & 0xFFFFFFFF
    return h


def asked_labels(program: SampledProgram, chains: int) -> Tensor:
    """Classes asked of the self-test's chains: none, drawn ones and given ones in turn."""
    i = torch.arange(chains)
    if not program.classes:
        return torch.full_like(i, NO_LABEL)
    given = torch.where(i % 3 == 1, i % program.classes, NO_LABEL)
    return torch.where(i % 3 == 2, ANY_LABEL, given)


def self_test_text(program: SampledProgram, name: str, seed: int, vectors: int) -> str:
    """``self_test.c``: exit status 0 if `vectors` states agree in every bit, and the pixels."""
    span = program.steps if isinstance(program, AnnealedProgram) else min(program.steps, TEST_SPAN)
    count = max(1, vectors // span)
    ids, labels = torch.arange(count), asked_labels(program, count)
    chains = start_labelled(program, seed, ids, labels)
    sums = []
    for _ in range(span):
        chains = program.step(chains)
        sums.append(checksum(chains.x))
    final = program.finish(chains)
    sums.append(checksum(final))
    if program.decoder is not None:
        sums.append(checksum(program.decoder.decode(final[:, : program.decoder.visible])))
    table = Constant("expected", torch.stack(sums, dim=1), "uint32_t")
    filled = {
        "NAME": name, "BIG": name.upper(), "CHAINS": count, "SPAN": span, "ROW": len(sums),
        "SEED": seed, "ROM": rom_bytes(program), "RAM": ram_bytes(program),
        "LABELS": ", ".join(str(int(label)) for label in labels),
        "EXPECTED": array_text(table).replace(",", "u,"),
    }  # fmt: skip
    shown = program.decoder is not None
    text = SELF_TEST.replace("@PIXELS@", PIXELS_TEST if shown else "")
    text = text.replace("@DECLARE@", PIXELS_DECLARED if shown else "")
    return filled_text(text, filled)


def start_labelled(program: SampledProgram, seed: int, ids: Tensor, labels: Tensor) -> ChainStates:
    """Chains with given labels, `ANY_LABEL` drawn as the machine draws them."""
    if isinstance(program, AnnealedProgram):
        labels = torch.where(labels == ANY_LABEL, program.draw_labels(seed, ids), labels)
    return program.start(seed, ids, labels.clamp(min=NO_LABEL))


def makefile_text(name: str) -> str:
    """``Makefile``: `make`, `make test`."""
    return filled_text(MAKEFILE, {"NAME": name})


PIXELS_DECLARED = """\
    static uint8_t pixels[@BIG@_PIXELS];
    uint32_t sum;
    int32_t i;
"""

PIXELS_TEST = """\
        @NAME@_pixels(&chain, pixels);
        sum = 2166136261u;
        for (i = 0; i < @BIG@_PIXELS; i++) {
            sum = (sum ^ pixels[i]) * 16777619u;
        }
        wrong += sum != expected[c * @ROW@ + @SPAN@ + 1];
"""

SELF_TEST = """\
#include "@NAME@.h"

#include <stdio.h>

#define CHAINS @CHAINS@
#define SPAN @SPAN@

/* FNV-1a of each state of each chain, of what it ends as, and of the picture */
@EXPECTED@
static const int32_t labels[CHAINS] = {@LABELS@};

static uint32_t checksum(const int32_t *x)
{
    uint32_t sum = 2166136261u;
    int32_t i;
    for (i = 0; i < @BIG@_N; i++) {
        sum = (sum ^ (uint32_t)x[i]) * 16777619u;
    }
    return sum;
}

int main(void)
{
    static @NAME@_chain chain;
@DECLARE@    int32_t c, step, wrong = 0;
    for (c = 0; c < CHAINS; c++) {
        @NAME@_start(&chain, @SEED@u, (uint32_t)c, labels[c]);
        for (step = 0; step < SPAN; step++) {
            @NAME@_step(&chain);
            if (checksum(chain.x) != expected[c * @ROW@ + step]) {
                if (wrong++ == 0) {
                    printf("first difference: chain %d, step %d\\n", (int)c, (int)step);
                }
            }
        }
        @NAME@_finish(&chain);
        wrong += checksum(chain.x) != expected[c * @ROW@ + SPAN];
@PIXELS@    }
    if (@NAME@_rom_bytes != @ROM@u || @NAME@_ram_bytes != @RAM@u) {
        printf("memory: %lu and %lu bytes, the report says @ROM@ and @RAM@\\n",
               (unsigned long)@NAME@_rom_bytes, (unsigned long)@NAME@_ram_bytes);
        wrong++;
    }
    printf("@NAME@: %d states of %d chains, %d differ\\n", CHAINS * SPAN, CHAINS, (int)wrong);
    return wrong != 0;
}
"""

MAKEFILE = """\
CFLAGS ?= -std=c99 -O2 -Wall -Wextra -Werror -pedantic

all: self_test sample

test: self_test
	./self_test

self_test: @NAME@.c @NAME@.h self_test.c
	$(CC) $(CFLAGS) -o $@ @NAME@.c self_test.c

sample: @NAME@.c @NAME@.h draw/sample.c
	$(CC) $(CFLAGS) -o $@ @NAME@.c draw/sample.c

clean:
	rm -f self_test sample

.PHONY: all test clean
"""
