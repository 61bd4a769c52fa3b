/* What a Langevin step of the Neural Langevin Machine (arXiv:2506.23546) does besides products.
 *
 *   phi = tanh(x)    h = J phi    e = s (x - h - b)    g = J^T e
 *   F = -(e - (1 - phi^2) g)      x <- x + a F + c r xi
 *
 * a = step d, c = sqrt(2 step d) per neuron (d: preconditioner), r = sqrt(T) per chain;
 * xi = noise of step n ("em"), or the mean of the noises of steps n and n + 1 ("lm").
 */
#ifndef DRIFTWELL_CELLS_H
#define DRIFTWELL_CELLS_H

#include "philox.h"

enum { NO_NOISE = 0, EULER_MARUYAMA = 1, LEIMKUHLER_MATTHEWS = 2 };

/* mirrored by kernels.py; arrays over neurons are zero-padded to a multiple of 64 */
typedef struct {
    int64_t rows, n;
    const float *bias, *precision, *drift, *noise; /* b, s, a, c: (n,) */
    const float *heat;                             /* r: (rows,) */
    const uint8_t *free;                           /* 0 where clamped; null: nothing is */
    int64_t free_stride;                           /* 0: one mask for all chains */
    const int64_t *chains;
    uint64_t seed;
    int32_t purpose, scheme, onsager, threads;
} machine;

/* BLOCK consecutive numbers of one chain, at any address */
typedef struct {
    float *x, *phi, *e;
    const float *xi, *next; /* noise of step n, of step n + 1; "em" has the first only */
    void *product;          /* h, then g */
    uint16_t *narrow;       /* phi, then e, as bfloat16: what is multiplied if `half` */
    const uint8_t *free;
} cells;

INLINE f32v tanh_of(f32v x) {
    const u32v sign = (u32v)x & 0x80000000u;
    f32v a = (f32v)((u32v)x ^ sign);
    a = choose(a > 9.1f, splat(9.1f), a); /* where tanh rounds to 1; NaN stays NaN */
    /* e^2a - 1 = 2^k e^r - 1, |r| <= ln 2 / 2: no cancellation near 0 */
    const f32v t = a * 2.0f, magic = splat(0x1.8p23f);
    const f32v shifted = t * 1.44269504089f + magic, k = shifted - magic;
    const f32v r = t - k * 0.69314718056f;
    f32v p = splat(1.391871370e-03f); /* relative error of e^r - 1: 5e-8 */
    p = p * r + 8.357200148e-03f;
    p = p * r + 4.166662188e-02f;
    p = p * r + 1.666663083e-01f;
    p = p * r + 0.5f;
    p = p * (r * r) + r;
    const f32v power = (f32v)(((i32v)shifted - (i32v)magic + 127) << 23);
    const f32v grown = power * p + (power - 1.0f);
    return (f32v)((u32v)(grown / (grown + 2.0f)) | sign);
}

typedef uint16_t u16v __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef uint16_t u16u __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2)));

/* to the nearest bfloat16, ties to even; NaN stays NaN */
INLINE void store_narrow(uint16_t *p, f32v v) {
    const u32v bits = (u32v)v, rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const u32v kept = (u32v)choose(v != v, (f32v)(bits | 0x400000u), (f32v)rounded);
    *(u16u *)p = __builtin_convertvector(kept >> 16, u16v);
}

INLINE f32v load_product(const void *p, int64_t i, int half) {
    if (!half) return load((const float *)p + i);
    const u16v bits = *(const u16u *)((const uint16_t *)p + i);
    return (f32v)(__builtin_convertvector(bits, u32v) << 16);
}

INLINE stream noise_of(const machine *m, int64_t step) {
    const uint32_t tag = (uint32_t)(step >> 32) | (uint32_t)m->purpose << 8;
    return open_stream(m->seed, (uint32_t)step, tag);
}

/* phi = tanh(x) */
INLINE void enter_cells(int half, cells c) {
    for (int i = 0; i < BLOCK; i += LANES32) {
        const f32v phi = tanh_of(load(c.x + i));
        store(c.phi + i, phi);
        if (half) store_narrow(c.narrow + i, phi);
    }
}

/* e = s (x - h - b) */
INLINE void residual_cells(const machine *m, int half, int64_t at, cells c) {
    for (int i = 0; i < BLOCK; i += LANES32) {
        const f32v h = load_product(c.product, i, half);
        const f32v e = load(m->precision + at + i) * (load(c.x + i) - h - load(m->bias + at + i));
        store(c.e + i, e);
        if (half) store_narrow(c.narrow + i, e);
    }
}

/* x <- x + a ((1 - phi^2) g - e) + c r xi, clamped neurons excepted; phi = tanh(x) */
INLINE void update_cells(const machine *m, int half, int64_t at, float heat, cells c) {
    for (int i = 0; i < BLOCK; i += LANES32) {
        const f32v x = load(c.x + i), phi = load(c.phi + i), e = load(c.e + i);
        f32v y = -e;
        if (m->onsager) y = (1.0f - phi * phi) * load_product(c.product, i, half) - e;
        y = x + load(m->drift + at + i) * y;
        if (m->scheme != NO_NOISE) {
            f32v xi = load(c.xi + i);
            if (m->scheme == LEIMKUHLER_MATTHEWS) xi = (xi + load(c.next + i)) * 0.5f;
            y += load(m->noise + at + i) * heat * xi;
        }
        if (c.free != NULL) {
            i32v moves;
            for (int lane = 0; lane < LANES32; lane++) moves[lane] = -(c.free[i + lane] != 0);
            y = choose(moves, y, x);
        }
        const f32v new_phi = tanh_of(y);
        store(c.x + i, y);
        store(c.phi + i, new_phi);
        if (half) store_narrow(c.narrow + i, new_phi);
    }
}

#endif
