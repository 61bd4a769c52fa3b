"""The steps of a noise-conditional machine in C."""

from __future__ import annotations

import torch

from driftwell.quantization.export.c.langevin_annealed import SHARE_BITS, UNIT, AnnealedProgram
from driftwell.quantization.export.c.langevin_recurrent_source import factor_text
from driftwell.quantization.export.c.program import Constant


def annealed_constants(program: AnnealedProgram) -> tuple[Constant, ...]:
    """Couplings, biases, variances and the table of levels."""
    levels = program.levels
    found = [
        *program.J_hv.constants(), *program.J_vh.constants(),
        *program.J_hk.constants(both=False), *program.J_vk.constants(both=False),
        Constant("dw_c", program.c, "int32_t"), Constant("dw_b", program.b, "int32_t"),
        Constant("dw_variance", program.variance, "int32_t"),
        Constant("dw_birth", program.birth, "int32_t"),
        Constant("dw_sigma2", torch.tensor([level.sigma2 for level in levels]), "int32_t"),
        Constant("dw_dt", torch.tensor([level.dt[0] for level in levels]), "int32_t"),
        Constant("dw_dt_shift", torch.tensor([level.dt[1] for level in levels]), "int8_t"),
        Constant("dw_kick", torch.tensor([level.kick[0] for level in levels]), "int32_t"),
        Constant("dw_kick_shift", torch.tensor([level.kick[1] for level in levels]), "int8_t"),
        Constant("dw_level_code", torch.tensor([level.code for level in levels]), "int8_t"),
    ]  # fmt: skip
    if program.quantiles:
        found.append(Constant("dw_quantiles", torch.tensor(program.quantiles), "uint32_t"))
    return tuple(found)


def annealed_code(program: AnnealedProgram, name: str) -> str:
    """`start`, `step` and `finish`, and what they need."""
    draw = DRAW_C if program.quantiles else DRAW_ONE_C
    code = draw.replace("@ONLY@", "0" if program.classes else "-1") + LEVEL_C + FORCE_C + STEP_C
    filled = {
        "NAME": name, "BIG": name.upper(), "N": program.n, "H": program.hidden,
        "CONTEXT": program.J_hk.columns, "CODE": len(program.levels[0].code),
        "CLASSES": program.classes, "F": program.fraction, "TOP": program.top, "UNIT": UNIT,
        "SB": program.scale_bits, "WS": program.fraction + program.scale_bits - UNIT,
        "QB": SHARE_BITS, "PER": program.per_level, "LAST": len(program.levels) - 1,
        "JUMP": factor_text(program.jump), "DRAWN": len(program.quantiles),
    }  # fmt: skip
    for key, value in filled.items():
        code = code.replace(f"@{key}@", str(value))
    return code


DRAW_ONE_C = """\
static int32_t dw_draw_label(uint64_t seed, uint32_t id)
{
    (void)seed;
    (void)id;
    return @ONLY@;
}

"""

DRAW_C = """\
/* a class, as often as it is in the training data */
static int32_t dw_draw_label(uint64_t seed, uint32_t id)
{
    uint32_t c[4];
    int32_t i, label = 0;
    c[0] = 0;
    c[1] = id;
    c[2] = 0;
    c[3] = 65536;
    dw_philox(c, (uint32_t)seed, (uint32_t)(seed >> 32));
    for (i = 0; i < @DRAWN@; i++) {
        label += (c[0] >> 9) >= dw_quantiles[i];
    }
    return label;
}

"""

LEVEL_C = """\
/* the largest whole number whose square is not above v */
static int32_t dw_root(uint64_t v)
{
    uint64_t root = 0, bit = (uint64_t)1 << 62;
    while (bit > v) {
        bit >>= 2;
    }
    for (; bit != 0; bit >>= 2) {
        const uint64_t trial = root + bit;
        root >>= 1;
        if (v >= trial) {
            v -= trial;
            root += bit;
        }
    }
    return (int32_t)root;
}

/* s = 1 / sqrt(lambda + sigma^2), q = sqrt(lambda) s, and what the context gives each neuron */
static void dw_enter_level(@NAME@_chain *chain, int32_t level)
{
    int32_t i;
    for (i = 0; i < @N@; i++) {
        const uint64_t total = (uint64_t)dw_variance[i] + (uint64_t)dw_sigma2[level];
        chain->s[i] = dw_root(((uint64_t)1 << 62) / total);
        chain->q[i] = dw_root(((uint64_t)dw_variance[i] << 30) / total);
    }
    for (i = 0; i < @CLASSES@; i++) {
        dw_scratch.q[i] = i == chain->label ? 127 : 0;
    }
    for (i = 0; i < @CODE@; i++) {
        dw_scratch.q[@CLASSES@ + i] = dw_level_code[level * @CODE@ + i];
    }
    for (i = 0; i < @H@; i++) {
        const int64_t h = dw_onward(&dw_J_hk, i, dw_scratch.q, 0);
        chain->current[i] = dw_saturate32(dw_c[i] + h);
    }
    for (i = 0; i < @N@; i++) {
        const int64_t h = dw_onward(&dw_J_vk, i, dw_scratch.q, 0);
        chain->base[i] = dw_saturate32(dw_b[i] + h);
    }
    chain->level = level;
}

"""

FORCE_C = """\
/* dw_scratch.v = -dE/dx in units of 2^-@UNIT@ */
static void dw_force(@NAME@_chain *chain)
{
    const int32_t *s = chain->s, *q = chain->q;
    int32_t *e = dw_scratch.e, *v = dw_scratch.v, *hidden = dw_scratch.hidden, i;
    int shift;
    for (i = 0; i < @N@; i++) {
        e[i] = dw_saturate32(dw_shift_round((int64_t)chain->x[i] * s[i], @WS@));
        v[i] = (int32_t)dw_shift_round((int64_t)e[i] * q[i], @QB@);
    }
    shift = dw_to_grid(v, @N@, @TOP@, dw_scratch.q);
    for (i = 0; i < @H@; i++) {
        const int64_t h = dw_onward(&dw_J_hv, i, dw_scratch.q, shift);
        dw_scratch.phi[i] = (int16_t)dw_tanh(dw_saturate32(chain->current[i] + h), @UNIT@);
    }
    for (i = 0; i < @H@; i++) {
        dw_scratch.q[i] = (int16_t)dw_shift_round((int32_t)dw_scratch.phi[i] * @TOP@, 15);
    }
    for (i = 0; i < @N@; i++) {
        const int64_t h = dw_onward(&dw_J_vh, i, dw_scratch.q, 0);
        const int64_t p = dw_saturate32(chain->base[i] + h);
        e[i] = dw_saturate32(e[i] - dw_shift_round(p * q[i], @QB@));
        v[i] = (int32_t)dw_shift_round((int64_t)e[i] * q[i], @QB@);
    }
    dw_backward(&dw_J_vh, v, @TOP@, dw_scratch.q, hidden);
    for (i = 0; i < @H@; i++) {
        const int64_t phi = dw_scratch.phi[i], slope = 32768 - dw_shift_round(phi * phi, 15);
        hidden[i] = (int32_t)dw_shift_round(hidden[i] * slope, 15);
    }
    dw_backward(&dw_J_hv, hidden, @TOP@, dw_scratch.q, v);
    for (i = 0; i < @N@; i++) {
        const int64_t pull = dw_shift_round((int64_t)v[i] * q[i], @QB@);
        const int64_t net = dw_saturate32(pull - e[i]);
        v[i] = dw_saturate32(dw_shift_round(net * s[i], @SB@));
    }
}

"""

STEP_C = """\
void @NAME@_start(@NAME@_chain *chain, uint64_t seed, uint32_t id, int32_t label)
{
    int32_t i;
    chain->seed = seed;
    chain->id = id;
    chain->step = 0;
    chain->level = -1;
    chain->label = label >= 0 && label < @CLASSES@ ? label : -1;
    if (label == @BIG@_ANY_LABEL) {
        chain->label = dw_draw_label(seed, id);
    }
    dw_normals(seed, id, 0, 0, @N@, chain->x);
    for (i = 0; i < @N@; i++) {
        chain->x[i] = dw_saturate32(dw_shift_round((int64_t)chain->x[i] * dw_birth[i], 16));
    }
    dw_normals(seed, id, 0, 256, @N@, chain->noise);
}

void @NAME@_step(@NAME@_chain *chain)
{
    const uint32_t after = chain->step / @PER@u;
    const int32_t level = after > @LAST@u ? @LAST@ : (int32_t)after;
    int32_t i, *later = dw_scratch.e;
    if (chain->level != level) {
        dw_enter_level(chain, level);
    }
    dw_force(chain);
    dw_normals(chain->seed, chain->id, chain->step + 1, 256, @N@, later);
    for (i = 0; i < @N@; i++) {
        const int64_t drift = dw_requantize(dw_scratch.v[i], dw_dt[level], dw_dt_shift[level]);
        const int32_t noise = chain->noise[i] + later[i];
        chain->x[i] = dw_saturate32(
            chain->x[i] + drift + dw_requantize(noise, dw_kick[level], dw_kick_shift[level]));
        chain->noise[i] = later[i];
    }
    chain->step++;
}

void @NAME@_finish(@NAME@_chain *chain)
{
    int32_t i;
    if (chain->level != @LAST@) {
        dw_enter_level(chain, @LAST@);
    }
    dw_force(chain);
    for (i = 0; i < @N@; i++) { /* the posterior mean of the clean datum */
        chain->x[i] = dw_saturate32((int64_t)chain->x[i] + dw_requantize(dw_scratch.v[i], @JUMP@));
    }
}
"""
