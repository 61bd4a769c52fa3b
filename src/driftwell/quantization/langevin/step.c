/* Langevin steps of a quantized Neural Langevin Machine: both products in 8-bit integers.
 *
 *   J = diag(r) Q, Q integers in [-128, 127]
 *   k = round(127 phi),               h = r (Q k) / 127
 *   e = s (x - h - b),  u = r e,      l = round(127 u / max|u|)
 *   g = (Q^T l) max|u| / 127,         F = -(e - (1 - phi^2) g)
 *
 * The sums are exact, so a chain's numbers depend neither on the batch around it nor on threads.
 * Codes are held as k + 128, because the processor's product takes unsigned by signed; 128 times
 * the sum of a row (or column) of Q is taken off by what the sums start from.
 */
#include <stdlib.h>

#include "../../models/langevin/cells.h"

#if VECTOR_BYTES == 64
#define ROWS 13 /* chains of one product: 26 sums, two weights and a factor in 32 registers */
#else
#define ROWS 4
#endif
#define TILE (2 * ROWS) /* chains that go together, so that a panel of Q is fetched once */
#define LEVELS 127.0f
#define OFFSET 128

/* fewer numbers than this are not worth waking a thread for */
#define ALONE 4096

typedef int32_t i32u __attribute__((vector_size(VECTOR_BYTES), aligned(4)));
typedef uint8_t u8u __attribute__((vector_size(LANES32), aligned(1)));

/* one of Q, Q^T: panels of BLOCK outputs, (panel, group of four inputs, output, input), then what
 * the sums of each output start from */
typedef struct {
    const int8_t *weights;
    const int32_t *start;
} factor;

/* mirrored by kernel.py; `forward` and `row` are zero-padded to a multiple of 64 */
typedef struct {
    const machine *m;
    const float *forward; /* r / 127: (n,) */
    const float *row;     /* r: (n,) */
    const int8_t *packed; /* of driftwell_quantized_pack */
} quantized;

/* ------------------------------------------------------------------------------- layout of Q */

static int64_t groups_of(int64_t n) { return (n + 3) / 4; }
static int64_t panels_of(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

/* bytes of one of the two layouts, a multiple of 64 */
static int64_t layout_bytes(int64_t n) {
    const int64_t bytes = panels_of(n) * BLOCK * 4 * (groups_of(n) + 1);
    return (bytes + 63) / 64 * 64;
}

int64_t driftwell_quantized_bytes(int64_t n) { return 2 * layout_bytes(n); }

/* Whether this processor multiplies bytes in one instruction. */
int driftwell_quantized_fast(void) {
#if VECTOR_BYTES == 64 && defined(__AVX512VNNI__)
    return 1;
#elif VECTOR_BYTES == 32 && defined(__AVXVNNI__)
    return 1;
#else
    return 0;
#endif
}

static factor factor_of(const int8_t *packed, int64_t n, int transpose) {
    const int8_t *weights = packed + (transpose ? layout_bytes(n) : 0);
    return (factor){weights, (const int32_t *)(weights + panels_of(n) * BLOCK * 4 * groups_of(n))};
}

static void pack(const int8_t *Q, int64_t n, int transpose, int8_t *packed) {
    const int64_t groups = groups_of(n), to_row = transpose ? 1 : n, to_column = transpose ? n : 1;
    const factor f = factor_of(packed, n, transpose);
    int8_t *to = (int8_t *)f.weights;
    int32_t *start = (int32_t *)f.start;
    for (int64_t i = 0; i < panels_of(n) * BLOCK; i++) {
        int8_t *panel = to + i / BLOCK * BLOCK * 4 * groups + i % BLOCK * 4;
        int32_t sum = 0;
        for (int64_t j = 0; j < 4 * groups; j++) {
            const int8_t q = i < n && j < n ? Q[i * to_row + j * to_column] : 0;
            panel[j / 4 * BLOCK * 4 + j % 4] = q;
            sum += q;
        }
        start[i] = -OFFSET * sum;
    }
}

/* Both layouts of Q (n, n); `packed` has driftwell_quantized_bytes(n), aligned to 4. */
void driftwell_quantized_pack(const int8_t *Q, int64_t n, int8_t *packed) {
    pack(Q, n, 0, packed);
    pack(Q, n, 1, packed);
}

/* ---------------------------------------------------------------------------------- products */

/* sum + four products of an unsigned by a signed byte in each lane */
INLINE i32v dot(i32v sum, i32v bytes, i32v weights) {
#if VECTOR_BYTES == 64 && defined(__AVX512VNNI__)
    return (i32v)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)bytes, (__m512i)weights);
#elif VECTOR_BYTES == 32 && defined(__AVXVNNI__)
    return (i32v)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)bytes, (__m256i)weights);
#else
    sum += (bytes & 255) * ((weights << 24) >> 24);
    sum += ((bytes >> 8) & 255) * ((weights << 16) >> 24);
    sum += ((bytes >> 16) & 255) * ((weights << 8) >> 24);
    return sum + ((bytes >> 24) & 255) * (weights >> 24);
#endif
}

INLINE i32v load_i32(const void *p) { return *(const i32u *)p; }

/* out[r] = panel of Q times the codes of chain r; the panel's lower half unless `wide` */
INLINE void multiply(int count, int wide, int64_t groups, const uint8_t *codes, int64_t stride,
                     const int8_t *weights, const int32_t *start, int32_t *out) {
    i32v low[ROWS], up[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < count; r++) {
        low[r] = load_i32(start);
        up[r] = load_i32(start + LANES32);
    }
    for (int64_t group = 0; group < groups; group++, weights += BLOCK * 4) {
        const i32v first = load_i32(weights), second = load_i32(weights + VECTOR_BYTES);
#pragma GCC unroll 16
        for (int r = 0; r < count; r++) {
            int32_t four;
            memcpy(&four, codes + r * stride + group * 4, sizeof four);
            const i32v bytes = (i32v){0} + four;
            low[r] = dot(low[r], bytes, first);
            if (wide) up[r] = dot(up[r], bytes, second);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < count; r++) {
        *(i32u *)(out + r * BLOCK) = low[r];
        if (wide) *(i32u *)(out + r * BLOCK + LANES32) = up[r];
    }
}

/* Outputs at .. at + BLOCK of `count` chains, in rounds of ROWS; `out` is (TILE, BLOCK). */
INLINE void multiply_panel(int count, int64_t n, int64_t at, const uint8_t *codes, int64_t stride,
                           factor f, int32_t *out) {
    const int64_t groups = groups_of(n);
    const int8_t *weights = f.weights + at * 4 * groups;
    const int32_t *start = f.start + at;
    if (count == 1) {
        multiply(1, 1, groups, codes, stride, weights, start, out);
        return;
    }
    for (int r = 0; r < count; r += ROWS) {
        const uint8_t *from = codes + r * stride;
        int32_t *to = out + r * BLOCK;
        if (n - at > LANES32) multiply(ROWS, 1, groups, from, stride, weights, start, to);
        else multiply(ROWS, 0, groups, from, stride, weights, start, to);
    }
}

/* out (rows, n) = codes (rows, n) Q^T, or codes Q if `transpose`: for tests. */
int driftwell_quantized_product(const int8_t *packed, const int8_t *codes, int64_t rows, int64_t n,
                                int transpose, int32_t *out) {
    const int64_t stride = (n + 63) / 64 * 64;
    uint8_t *padded = calloc((size_t)((rows + ROWS) * stride), 1);
    int32_t sums[ROWS * BLOCK];
    if (padded == NULL) return 1;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < n; j++)
            padded[r * stride + j] = (uint8_t)(codes[r * n + j] + OFFSET);
    const factor f = factor_of(packed, n, transpose);
    for (int64_t r = 0; r < rows; r += ROWS)
        for (int64_t at = 0; at < n; at += BLOCK) {
            multiply_panel(ROWS, n, at, padded + r * stride, stride, f, sums);
            for (int64_t k = r; k < r + ROWS && k < rows; k++)
                for (int64_t i = at; i < at + BLOCK && i < n; i++)
                    out[k * n + i] = sums[(k - r) * BLOCK + i - at];
        }
    free(padded);
    return 0;
}

/* ------------------------------------------------------------------------------------- steps */

/* TILE chains in zero-padded buffers, (TILE, stride) each; rows after the last chain are dropped */
typedef struct {
    int64_t stride;
    float *x, *phi, *e, *xi, *next;
    uint8_t *codes, *free;
    uint32_t chain[TILE];
    float heat[TILE];
    float whole[TILE]; /* 1, or NaN where a neuron of the chain is NaN */
    float peak[TILE];  /* max |u| */
    int32_t sums[TILE * BLOCK] __attribute__((aligned(VECTOR_BYTES)));
} tile;

/* round(v) + 128 as bytes, ties to even */
INLINE void store_codes(uint8_t *p, f32v v) {
    const f32v magic = splat(0x1.8p23f);
    const i32v rounded = (i32v)(v + magic) - (i32v)magic + OFFSET;
    *(u8u *)p = __builtin_convertvector((u32v)rounded, u8u);
}

INLINE f32v magnitude(f32v v) { return (f32v)((u32v)v & 0x7fffffffu); }

/* the larger of both, NaN if one is */
INLINE f32v larger(f32v a, f32v b) { return choose((b > a) | (b != b), b, a); }

INLINE float largest_lane(f32v v) {
    float found = v[0];
    for (int lane = 1; lane < LANES32; lane++)
        if (v[lane] > found || v[lane] != v[lane]) found = v[lane];
    return found;
}

INLINE float unless_nan(i32v nan) {
    for (int lane = 0; lane < LANES32; lane++)
        if (nan[lane]) return __builtin_nanf("");
    return 1.0f;
}

INLINE void enter_row(int64_t n, tile *t, int r) {
    const int64_t k = r * t->stride;
    i32v nan = {0};
    for (int64_t i = 0; i < n; i += LANES32) {
        const f32v phi = tanh_of(load(t->x + k + i));
        nan |= phi != phi;
        store(t->phi + k + i, phi);
        store_codes(t->codes + k + i, phi * LEVELS);
    }
    t->whole[r] = unless_nan(nan);
}

/* e = s (x - h - b), and max |r e| */
INLINE void residual_block(const quantized *q, int64_t at, tile *t, int r) {
    const machine *m = q->m;
    const int64_t k = r * t->stride + at;
    const f32v whole = splat(t->whole[r]);
    f32v peak = splat(t->peak[r]);
    for (int i = 0; i < BLOCK; i += LANES32) {
        const f32v sum = __builtin_convertvector(load_i32(t->sums + r * BLOCK + i), f32v);
        const f32v h = sum * (load(q->forward + at + i) * whole);
        const f32v e = load(m->precision + at + i) * (load(t->x + k + i) - h - load(m->bias + at + i));
        store(t->e + k + i, e);
        if (at + i < m->n) peak = larger(peak, magnitude(e * load(q->row + at + i)));
    }
    t->peak[r] = largest_lane(peak);
}

/* codes of u = r e */
INLINE void residual_codes(const quantized *q, tile *t, int r) {
    const int64_t k = r * t->stride;
    const float scale = t->peak[r] > 0.0f ? LEVELS / t->peak[r] : 0.0f;
    for (int64_t i = 0; i < q->m->n; i += LANES32)
        store_codes(t->codes + k + i, load(t->e + k + i) * load(q->row + i) * scale);
}

/* x <- x + a ((1 - phi^2) g - e) + c heat xi; phi = tanh(x) and its codes are left to enter_row */
INLINE void update_block(const machine *m, int64_t at, tile *t, int r) {
    const int64_t k = r * t->stride + at;
    const float scale = t->peak[r] / LEVELS, heat = t->heat[r];
    for (int i = 0; i < BLOCK; i += LANES32) {
        const f32v x = load(t->x + k + i), phi = load(t->phi + k + i), e = load(t->e + k + i);
        const f32v sum = __builtin_convertvector(load_i32(t->sums + r * BLOCK + i), f32v);
        f32v y = (1.0f - phi * phi) * (sum * scale) - e;
        y = x + load(m->drift + at + i) * y;
        if (m->scheme != NO_NOISE) {
            f32v xi = load(t->xi + k + i);
            if (m->scheme == LEIMKUHLER_MATTHEWS) xi = (xi + load(t->next + k + i)) * 0.5f;
            y += load(m->noise + at + i) * heat * xi;
        }
        if (t->free != NULL) {
            i32v moves;
            for (int lane = 0; lane < LANES32; lane++)
                moves[lane] = -(t->free[k + i + lane] != 0);
            y = choose(moves, y, x);
        }
        store(t->x + k + i, y);
    }
}

INLINE void draw(int count, const machine *m, int64_t step, const tile *t, float *out) {
    const stream noise = noise_of(m, step);
    for (int r = 0; r < count; r++)
        fill_normals(&noise, t->chain[r], 0, m->n, out + r * t->stride);
}

INLINE void steps_of(int rows, int count, const quantized *q, int64_t first_step, int64_t steps,
                     tile *t) {
    const machine *m = q->m;
    const int64_t n = m->n;
    const factor forward = factor_of(q->packed, n, 0), backward = factor_of(q->packed, n, 1);
    for (int r = 0; r < count; r++) enter_row(n, t, r);
    if (m->scheme == LEIMKUHLER_MATTHEWS) draw(count, m, first_step, t, t->xi);
    for (int64_t step = first_step; step < first_step + steps; step++) {
        for (int r = 0; r < count; r++) t->peak[r] = 0.0f;
        for (int64_t at = 0; at < n; at += BLOCK) {
            multiply_panel(rows, n, at, t->codes, t->stride, forward, t->sums);
            for (int r = 0; r < count; r++) residual_block(q, at, t, r);
        }
        for (int r = 0; r < count; r++) residual_codes(q, t, r);
        if (m->scheme == LEIMKUHLER_MATTHEWS) draw(count, m, step + 1, t, t->next);
        else if (m->scheme == EULER_MARUYAMA) draw(count, m, step, t, t->xi);
        for (int64_t at = 0; at < n; at += BLOCK) {
            multiply_panel(rows, n, at, t->codes, t->stride, backward, t->sums);
            for (int r = 0; r < count; r++) update_block(m, at, t, r);
        }
        for (int r = 0; r < count; r++) enter_row(n, t, r);
        float *used = t->xi;
        if (m->scheme == LEIMKUHLER_MATTHEWS) t->xi = t->next, t->next = used;
    }
}

/* All steps of the chains row .. row + count; returns 1 if memory ran out. */
static int run_tile(const quantized *q, const float *x, int64_t row, int count, int64_t first_step,
                    int64_t steps, float *x_new) {
    const machine *m = q->m;
    /* one block more than needed, so that rows do not compete for the same lines of the cache */
    const int64_t pairs = (m->n + 2 * BLOCK - 1) / (2 * BLOCK);
    const int64_t stride = pairs * 2 * BLOCK + BLOCK;
    const int rows = count == 1 ? 1 : (count + ROWS - 1) / ROWS * ROWS;
    const int64_t size = rows * stride;
    float *memory = calloc((size_t)size * 5, sizeof(float));
    uint8_t *bytes = calloc((size_t)size * 2, 1);
    if (memory == NULL || bytes == NULL) {
        free(memory);
        free(bytes);
        return 1;
    }
    tile t = {.stride = stride, .x = memory, .phi = memory + size, .e = memory + 2 * size,
              .xi = memory + 3 * size, .next = memory + 4 * size, .codes = bytes};
    if (m->free != NULL) t.free = bytes + size;
    for (int r = 0; r < count; r++) {
        const int64_t from = row + r, to = r * stride;
        t.chain[r] = (uint32_t)m->chains[from];
        t.heat[r] = m->heat[from];
        memcpy(t.x + to, x + from * m->n, (size_t)m->n * sizeof(float));
        if (t.free != NULL) memcpy(t.free + to, m->free + from * m->free_stride, (size_t)m->n);
    }
    steps_of(rows, count, q, first_step, steps, &t);
    for (int r = 0; r < count; r++)
        memcpy(x_new + (row + r) * m->n, t.x + r * stride, (size_t)m->n * sizeof(float));
    free(memory);
    free(bytes);
    return 0;
}

/* Returns 0, or 1 if memory ran out. */
int driftwell_quantized_steps(const quantized *q, const float *x, int64_t first_step,
                              int64_t steps, float *x_new) {
    const machine *m = q->m;
    /* smaller tiles where chains are few, so that every thread has some; the same numbers */
    const int64_t share = (m->rows + m->threads - 1) / m->threads;
    const int64_t even = share <= 1 ? 1 : (share + ROWS - 1) / ROWS * ROWS;
    const int64_t size = even < TILE ? even : TILE, tiles = (m->rows + size - 1) / size;
    const int threads = m->rows * m->n < ALONE && steps < 4 ? 1 : m->threads;
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(| : failed)
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t row = i * size, left = m->rows - row;
        failed |= run_tile(q, x, row, (int)(left < size ? left : size), first_step, steps, x_new);
    }
    return failed;
}
