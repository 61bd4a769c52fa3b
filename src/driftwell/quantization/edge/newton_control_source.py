"""The text of a predictive controller in C99, beside the network that `export_c` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from driftwell.quantization.edge.newton_control import (
    FLOOR,
    FRACTION,
    INSET,
    SLACK,
    ControlState,
    NewtonPredictiveControl,
)
from driftwell.quantization.edge.newton_control_kernel import CONTROL_C, HEAD_C

TOLERANCE = 1e-5
"""Of the self-test: |u in C - u in Python| as a share of the range of u."""


@final
@dataclass(frozen=True, eq=False)
class Replay:
    """What Python did, sample by sample, for the self-test.

    Attributes:
        states: before each of T samples.
        measured: y_k, (T,).
        ahead: r_{k+1} .. r_{k+N}, (T, N).
        inputs: u_k, (T,).
    """

    states: tuple[ControlState, ...]
    measured: Tensor
    ahead: Tensor
    inputs: Tensor


def control_texts(control: NewtonPredictiveControl, name: str, replay: Replay) -> dict[str, str]:
    """Header, source, self-test and Makefile of a controller, by file name.

    Args:
        control: what is written.
        name: prefix of all names; the network's is ``NAME_network``.
        replay: for the self-test.
    """
    return {
        "control.h": _header(control, name),
        "control.c": _source(control, name),
        "control_test.c": _test(control, name, replay),
        "Makefile": MAKEFILE,
    }


def ram_bytes(control: NewtonPredictiveControl) -> tuple[int, int]:
    """Bytes of the state that a caller holds, and of what control.c works in."""
    n, m, N, M = _sizes(control)
    return 4 * (n + max(m - 1, 1) + M), 4 * (2 * (n + m) + 2 * N * (1 + M) + M * M + 3 * M)


def _sizes(control: NewtonPredictiveControl) -> tuple[int, int, int, int]:
    model = control.model
    return model.outputs, model.inputs, control.horizon, control.control_horizon


def _header(control: NewtonPredictiveControl, name: str) -> str:
    n, m, N, M = _sizes(control)
    big = name.upper()
    return f"""\
/* {name}: predictive control by Newton's method, written by driftwell */
#ifndef {big}_CONTROL_H
#define {big}_CONTROL_H

#define {big}_OUTPUTS {n}  /* the last output and increments before it */
#define {big}_INPUTS {max(m - 1, 1)}   /* inputs it remembers */
#define {big}_HORIZON {N}
#define {big}_PLAN {M}     /* inputs it plans */

typedef struct {{
    float outputs[{big}_OUTPUTS], inputs[{big}_INPUTS], plan[{big}_PLAN];
}} {name}_state;

/* a plant that has rested at output y under input u */
void {name}_start({name}_state *state, float y, float u);

/* y: the output just measured; reference: the next {big}_HORIZON values it shall take.
   Gives the input to apply now. One call at a time: the memory it works in is static. */
float {name}_step({name}_state *state, float y, const float *reference);

#endif
"""


def _source(control: NewtonPredictiveControl, name: str) -> str:
    n, m, N, M = _sizes(control)
    low, high = control.bounds
    numbers = {
        "LOW": low, "HIGH": high, "INSET": INSET * (high - low), "MOVES": control.move_weight,
        "BARRIER": control.barrier, "FRACTION": FRACTION, "SLACK": SLACK,
        "FLOOR": FLOOR,
    }  # fmt: skip
    sizes = {"Y": n, "U": m, "N": N, "M": M, "STEPS": control.steps}
    defines = [f"#define {key} {value}" for key, value in sizes.items()]
    defines += [f"#define {key} {_number(value)}" for key, value in numbers.items()]
    return HEAD_C + "\n".join(defines) + "\n" + CONTROL_C.replace("NAME", name)


def _number(value: float) -> str:
    return f"({float(value)!r}f)"


def _test(control: NewtonPredictiveControl, name: str, replay: Replay) -> str:
    low, high = control.bounds
    return f"""\
#include "control.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#define SAMPLES {len(replay.measured)}

/* each from the state that Python had: outputs, inputs, plan */
static const {name}_state states[SAMPLES] = {{
{_rows(replay.states)}
}};
static const float measured[SAMPLES] = {{{_list(replay.measured)}}};
static const float inputs[SAMPLES] = {{{_list(replay.inputs)}}};
static const float ahead[SAMPLES][{control.horizon}] = {{
{",".join(chr(10) + "    {" + _list(row) + "}" for row in replay.ahead)}
}};

int main(void)
{{
    int wrong = 0;
    const clock_t began = clock();
    for (int k = 0; k < SAMPLES; k++) {{
        {name}_state state = states[k];
        const float u = {name}_step(&state, measured[k], ahead[k]);
        wrong += !(fabsf(u - inputs[k]) <= {_number(TOLERANCE * (high - low))});
    }}
    const double seconds = (double)(clock() - began) / CLOCKS_PER_SEC;
    printf("{name}: %d samples, %d inputs differ\\n", SAMPLES, wrong);
    fprintf(stderr, "%.3g us a sample\\n", 1e6 * seconds / SAMPLES);
    return wrong != 0;
}}
"""


def _rows(states: tuple[ControlState, ...]) -> str:
    rows = [
        ", ".join("{" + _list(part) + "}" for part in (s.outputs, s.inputs, s.plan)) for s in states
    ]
    return ",\n".join(f"    {{{row}}}" for row in rows)


def _list(values: Tensor) -> str:
    return ", ".join(f"{value!r}f" for value in values.float().flatten().tolist())


MAKEFILE = """\
CFLAGS ?= -std=c99 -O2 -Wall -Wextra -Werror -pedantic

test: self_test control_test
	./self_test
	./control_test

self_test: network.c network.h self_test.c
	$(CC) $(CFLAGS) -o $@ network.c self_test.c -lm

control_test: network.c network.h control.c control.h control_test.c
	$(CC) $(CFLAGS) -o $@ network.c control.c control_test.c -lm

clean:
	rm -f self_test control_test

.PHONY: test clean
"""
