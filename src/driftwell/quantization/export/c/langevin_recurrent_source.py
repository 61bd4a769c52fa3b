"""The steps of a Neural Langevin Machine in C."""

from __future__ import annotations

from driftwell.quantization.export.c.langevin_program import Factor, RecurrentProgram
from driftwell.quantization.export.c.program import Constant


def recurrent_constants(program: RecurrentProgram) -> tuple[Constant, ...]:
    """Couplings and biases."""
    return (*program.J.constants(), Constant("dw_b", program.b, "int32_t"))


def recurrent_code(program: RecurrentProgram, name: str) -> str:
    """`start`, `step` and `finish`."""
    text = AVERAGED_C if program.averaged else EULER_C
    first = program.labels_at
    filled = {
        "NAME": name, "BIG": name.upper(), "N": program.n, "F": program.fraction,
        "TOP": program.top, "DT": factor_text(program.dt), "KICK": factor_text(program.kick),
        "BIRTH": factor_text(program.birth), "NOISE": text,
    }  # fmt: skip
    held = LABELS_C if program.classes else UNLABELLED_C
    code = held + START_C + STEP_C
    if program.classes:
        filled |= {"FIRST": first, "VALUE": program.label_value}
    code = code.replace("@NOISE@", text)
    for key, value in filled.items():
        code = code.replace(f"@{key}@", str(value))
    return code


def factor_text(factor: Factor) -> str:
    """Multiplier and shift as two arguments."""
    return f"{factor[0]}, {factor[1]}"


LABELS_C = """\
/* whether neuron i holds a label and is not moved */
static int dw_held(const @NAME@_chain *chain, int32_t i)
{
    return chain->label >= 0 && i >= @FIRST@ && i < @FIRST@ + @BIG@_CLASSES;
}

static void dw_hold(@NAME@_chain *chain)
{
    int32_t i;
    for (i = 0; chain->label >= 0 && i < @BIG@_CLASSES; i++) {
        chain->x[@FIRST@ + i] = i == chain->label ? @VALUE@ : -@VALUE@;
    }
}

"""

UNLABELLED_C = """\
static int dw_held(const @NAME@_chain *chain, int32_t i)
{
    (void)chain;
    (void)i;
    return 0;
}

static void dw_hold(@NAME@_chain *chain)
{
    chain->label = -1;
}

"""

START_C = """\
void @NAME@_start(@NAME@_chain *chain, uint64_t seed, uint32_t id, int32_t label)
{
    int32_t i;
    chain->seed = seed;
    chain->id = id;
    chain->step = 0;
    chain->level = 0;
    chain->label = label >= 0 && label < @BIG@_CLASSES ? label : -1;
    dw_normals(seed, id, 0, 0, @N@, chain->x);
    for (i = 0; i < @N@; i++) {
        chain->x[i] = dw_requantize(chain->x[i], @BIRTH@);
    }
    dw_hold(chain);
    dw_normals(seed, id, 0, 256, @N@, chain->noise);
}

"""

STEP_C = """\
void @NAME@_step(@NAME@_chain *chain)
{
    int32_t *x = chain->x, i;
    for (i = 0; i < @N@; i++) {
        dw_scratch.phi[i] = (int16_t)dw_tanh(x[i], @F@);
        dw_scratch.q[i] = (int16_t)dw_shift_round((int32_t)dw_scratch.phi[i] * @TOP@, 15);
    }
    for (i = 0; i < @N@; i++) {
        const int64_t h = dw_onward(&dw_J, i, dw_scratch.q, 0);
        dw_scratch.e[i] = dw_saturate32(x[i] - h - dw_b[i]);
        dw_scratch.v[i] = dw_scratch.e[i];
    }
    dw_backward(&dw_J, dw_scratch.v, @TOP@, dw_scratch.q, dw_scratch.feedback);
@NOISE@    for (i = 0; i < @N@; i++) {
        const int64_t phi = dw_scratch.phi[i], slope = 32768 - dw_shift_round(phi * phi, 15);
        const int64_t pull = dw_shift_round(slope * dw_scratch.feedback[i], 15);
        const int32_t force = dw_saturate32(pull - dw_scratch.e[i]);
        const int64_t drift = dw_requantize(force, @DT@);
        if (!dw_held(chain, i)) {
            x[i] = dw_saturate32(x[i] + drift + dw_requantize(dw_scratch.v[i], @KICK@));
        }
    }
    chain->step++;
}

void @NAME@_finish(@NAME@_chain *chain)
{
    (void)chain; /* the state is the sample */
}
"""

AVERAGED_C = """\
    dw_normals(chain->seed, chain->id, chain->step + 1, 256, @N@, dw_scratch.v);
    for (i = 0; i < @N@; i++) { /* v: the sum of both; noise: that of the next step */
        const int32_t later = dw_scratch.v[i];
        dw_scratch.v[i] += chain->noise[i];
        chain->noise[i] = later;
    }
"""

EULER_C = """\
    dw_normals(chain->seed, chain->id, chain->step, 256, @N@, dw_scratch.v);
"""
