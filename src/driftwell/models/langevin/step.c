/* Langevin steps of the Neural Langevin Machine, float32: see cells.h for the equations.
 *
 * `driftwell_langevin_loop` takes all steps of a chain in one go, chains shared among threads:
 * every product is summed in the order of the neurons, so a chain's numbers depend neither on
 * the batch around it nor on the threads. `driftwell_langevin_pass` is what lies before, between
 * and after the two products of a step where torch computes those.
 */
#include <stdlib.h>

#include "cells.h"

#if VECTOR_BYTES == 64
#define TILE 8 /* chains that go together: 16 sums, two weights and a factor in 32 registers */
#else
#define TILE 4
#endif

/* TILE chains in zero-padded buffers, (TILE, stride) each; rows after the last chain are dropped */
typedef struct {
    int64_t stride;
    float *x, *phi, *e, *xi;
    uint8_t *free;
    uint32_t chain[TILE];
    float heat[TILE];
    float product[TILE * BLOCK] __attribute__((aligned(VECTOR_BYTES)));
} tile;

/* panels of BLOCK columns, zero-padded: (panel, j, column) of J^T, or of J if `transpose` */
static void pack(const float *J, int64_t n, int transpose, float *packed) {
    for (int64_t panel = 0; panel < n; panel += BLOCK)
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = panel; i < panel + BLOCK; i++)
                *packed++ = i >= n ? 0.0f : transpose ? J[j * n + i] : J[i * n + j];
}

/* out[r] = sum_j rows[r][j] packed[j], BLOCK columns, or their lower half unless `wide` */
INLINE void multiply(int count, int wide, int64_t n, const float *rows, int64_t stride,
                     const float *packed, float *out) {
    f32v low[TILE], up[TILE];
#pragma GCC unroll 8
    for (int r = 0; r < count; r++) low[r] = up[r] = (f32v){0};
    for (int64_t j = 0; j < n; j++) {
        const f32v first = load(packed + j * BLOCK), second = load(packed + j * BLOCK + LANES32);
#pragma GCC unroll 8
        for (int r = 0; r < count; r++) {
            const f32v factor = splat(rows[r * stride + j]);
            low[r] += factor * first;
            if (wide) up[r] += factor * second;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < count; r++) {
        store(out + r * BLOCK, low[r]);
        if (wide) store(out + r * BLOCK + LANES32, up[r]);
    }
}

INLINE void multiply_panel(int count, int64_t n, int64_t at, const float *rows, int64_t stride,
                           const float *packed, float *out) {
    if (n - at > LANES32) multiply(count, 1, n, rows, stride, packed + at * n, out);
    else multiply(count, 0, n, rows, stride, packed + at * n, out);
}

INLINE cells cells_of(tile *t, int r, int64_t at) {
    const int64_t k = r * t->stride + at;
    return (cells){t->x + k,  t->phi + k, t->e + k, t->xi + k, t->product + r * BLOCK,
                   NULL,      t->free == NULL ? NULL : t->free + k};
}

INLINE void steps_of(int count, const machine *m, const float *forward, const float *backward,
                     int64_t first_step, int64_t steps, tile *t) {
    for (int64_t step = first_step; step < first_step + steps; step++) {
        for (int64_t at = 0; at < m->n; at += BLOCK) {
            multiply_panel(count, m->n, at, t->phi, t->stride, forward, t->product);
            for (int r = 0; r < count; r++) residual_cells(m, 0, at, cells_of(t, r, at));
        }
        const stream noise = noise_of(m, step + (m->scheme == LEIMKUHLER_MATTHEWS));
        for (int64_t at = 0; at < m->n; at += BLOCK) {
            if (m->onsager) multiply_panel(count, m->n, at, t->e, t->stride, backward, t->product);
            for (int r = 0; r < count; r++)
                update_cells(m, 0, at, t->chain[r], t->heat[r], &noise, cells_of(t, r, at));
        }
    }
}

static void enter(const machine *m, const float *x, int64_t row, int count, int64_t first_step,
                  tile *t) {
    const stream noise = noise_of(m, first_step);
    for (int r = 0; r < count; r++) {
        const int64_t from = row + r, to = r * t->stride;
        t->chain[r] = (uint32_t)m->chains[from];
        t->heat[r] = m->heat[from];
        memcpy(t->x + to, x + from * m->n, (size_t)m->n * sizeof(float));
        if (t->free != NULL) memcpy(t->free + to, m->free + from * m->free_stride, (size_t)m->n);
        for (int64_t at = 0; at < m->n; at += BLOCK)
            enter_cells(m, 0, at, t->chain[r], &noise, cells_of(t, r, at));
    }
}

/* All steps of the chains row .. row + count; returns 1 if memory ran out. */
static int run_tile(const machine *m, const float *forward, const float *backward, const float *x,
                    int64_t row, int count, int64_t first_step, int64_t steps, float *x_new) {
    /* one block more than needed, so that rows do not compete for the same lines of the cache */
    const int64_t stride = (m->n + BLOCK - 1) / BLOCK * BLOCK + BLOCK, size = TILE * stride;
    float *memory = calloc((size_t)size * 5, sizeof(float));
    if (memory == NULL) return 1;
    tile t = {.stride = stride, .x = memory, .phi = memory + size, .e = memory + 2 * size,
              .xi = memory + 3 * size};
    if (m->free != NULL) t.free = (uint8_t *)(memory + 4 * size);
    enter(m, x, row, count, first_step, &t);
    /* constant counts, so that the sums of `multiply` stay in registers */
    if (count == 1) steps_of(1, m, forward, backward, first_step, steps, &t);
    else if (count <= TILE / 2) steps_of(TILE / 2, m, forward, backward, first_step, steps, &t);
    else steps_of(TILE, m, forward, backward, first_step, steps, &t);
    for (int r = 0; r < count; r++)
        memcpy(x_new + (row + r) * m->n, t.x + r * stride, (size_t)m->n * sizeof(float));
    free(memory);
    return 0;
}

/* Returns 0, or 1 if memory ran out. */
int driftwell_langevin_loop(const machine *m, const float *J, const float *x, int64_t first_step,
                            int64_t steps, float *x_new) {
    const int64_t n = m->n, width = (n + BLOCK - 1) / BLOCK * BLOCK;
    const int64_t tiles = (m->rows + TILE - 1) / TILE;
    float *packed = aligned_alloc(VECTOR_BYTES, (size_t)(2 * n * width) * sizeof(float));
    if (packed == NULL) return 1;
    float *backward = packed + n * width;
    pack(J, n, 0, packed);
    pack(J, n, 1, backward);
    int failed = 0;
#pragma omp parallel for num_threads(m->threads) schedule(dynamic) reduction(| : failed)
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t row = i * TILE, left = m->rows - row;
        failed |= run_tile(m, packed, backward, x, row, (int)(left < TILE ? left : TILE),
                           first_step, steps, x_new);
    }
    free(packed);
    return failed;
}

/* ------------------------------------------------------------ around products made elsewhere */

enum { ENTER = 0, RESIDUAL = 1, UPDATE = 2 };

/* fewer numbers than this are not worth waking a thread for */
#define ALONE 4096

/* the same as cells, over whole (rows, n) buffers; mirrored by kernels.py */
typedef struct {
    float *x, *phi, *e, *xi;
    void *product;
    uint16_t *narrow;
} buffers;

INLINE void visit(const machine *m, int what, int half, int64_t row, int64_t at,
                  const stream *noise, cells c) {
    const uint32_t chain = (uint32_t)m->chains[row];
    if (what == ENTER) enter_cells(m, half, at, chain, noise, c);
    else if (what == RESIDUAL) residual_cells(m, half, at, c);
    else update_cells(m, half, at, chain, m->heat[row], noise, c);
}

INLINE void copy(void *to, const void *from, int64_t count, size_t size) {
    if (to != NULL && from != NULL) memcpy(to, from, (size_t)count * size);
}

INLINE void copy_cells(cells to, cells from, int64_t count, int half) {
    copy(to.x, from.x, count, sizeof(float));
    copy(to.phi, from.phi, count, sizeof(float));
    copy(to.e, from.e, count, sizeof(float));
    copy(to.xi, from.xi, count, sizeof(float));
    copy(to.product, from.product, count, half ? sizeof(uint16_t) : sizeof(float));
    copy(to.narrow, from.narrow, count, sizeof(uint16_t));
}

INLINE void pass_row(const machine *m, int what, int half, int64_t row, const stream *noise,
                     const buffers *b) {
    const int64_t n = m->n;
    const uint8_t *free = m->free == NULL ? NULL : m->free + row * m->free_stride;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t k = row * n + at;
        const size_t product_size = half ? sizeof(uint16_t) : sizeof(float);
        cells c = {b->x + k, b->phi + k, b->e + k, NULL, NULL, NULL, NULL};
        if (b->xi != NULL) c.xi = b->xi + k;
        if (b->product != NULL) c.product = (char *)b->product + (size_t)k * product_size;
        if (b->narrow != NULL) c.narrow = b->narrow + k;
        if (free != NULL) c.free = free + at;
        if (n - at >= BLOCK) {
            visit(m, what, half, row, at, noise, c);
        } else { /* the end of a row, by way of a padded copy */
            float room[5][BLOCK] = {{0}};
            uint16_t narrow[BLOCK] = {0};
            uint8_t moves[BLOCK] = {0};
            copy(moves, c.free, n - at, 1);
            const cells padded = {room[0], room[1], room[2], room[3], room[4], narrow,
                                  free == NULL ? NULL : moves};
            copy_cells(padded, c, n - at, half);
            visit(m, what, half, row, at, noise, padded);
            copy_cells(c, padded, n - at, half);
        }
    }
}

/* step: whose noise is drawn; only ENTER (first step) and UPDATE look at it */
void driftwell_langevin_pass(const machine *m, int what, int half, int64_t step,
                             const buffers *b) {
    const int threads = m->rows * m->n < ALONE ? 1 : m->threads;
    const stream noise = noise_of(m, step);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < m->rows; row++) {
        if (what == ENTER) pass_row(m, ENTER, half, row, &noise, b);
        else if (what == RESIDUAL && half) pass_row(m, RESIDUAL, 1, row, &noise, b);
        else if (what == RESIDUAL) pass_row(m, RESIDUAL, 0, row, &noise, b);
        else if (half) pass_row(m, UPDATE, 1, row, &noise, b);
        else pass_row(m, UPDATE, 0, row, &noise, b);
    }
}
