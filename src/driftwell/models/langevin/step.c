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

/* fewer numbers than this are not worth waking a thread for */
#define ALONE 4096

/* TILE chains in zero-padded buffers, (TILE, stride) each; rows after the last chain are dropped */
typedef struct {
    int64_t stride;
    float *x, *phi, *e, *xi, *next;
    uint8_t *free;
    uint32_t chain[TILE];
    float heat[TILE];
    float product[TILE * BLOCK] __attribute__((aligned(VECTOR_BYTES)));
} tile;

/* panels of BLOCK columns, zero-padded: (panel, j, column) of J^T, or of J if `transpose` */
static void pack(const float *J, int64_t n, int transpose, int threads, float *packed) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t panel = 0; panel < n; panel += BLOCK) {
        const int64_t wide = n - panel < BLOCK ? n - panel : BLOCK;
        float *to = packed + panel * n;
        for (int64_t j = 0; j < n; j++, to += BLOCK) {
            const float *from = transpose ? J + j * n + panel : J + panel * n + j;
            const int64_t stride = transpose ? 1 : n;
            for (int64_t i = 0; i < wide; i++) to[i] = from[i * stride];
            for (int64_t i = wide; i < BLOCK; i++) to[i] = 0.0f;
        }
    }
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
    return (cells){t->x + k,    t->phi + k, t->e + k, t->xi + k,
                   t->next + k, t->product + r * BLOCK, NULL,
                   t->free == NULL ? NULL : t->free + k};
}

INLINE void draw(int count, const machine *m, int64_t step, const tile *t, float *out) {
    const stream noise = noise_of(m, step);
    for (int r = 0; r < count; r++)
        fill_normals(&noise, t->chain[r], 0, m->n, out + r * t->stride);
}

INLINE void steps_of(int count, const machine *m, const float *forward, const float *backward,
                     int64_t first_step, int64_t steps, tile *t) {
    if (m->scheme == LEIMKUHLER_MATTHEWS) draw(count, m, first_step, t, t->xi);
    for (int64_t step = first_step; step < first_step + steps; step++) {
        for (int64_t at = 0; at < m->n; at += BLOCK) {
            multiply_panel(count, m->n, at, t->phi, t->stride, forward, t->product);
            for (int r = 0; r < count; r++) residual_cells(m, 0, at, cells_of(t, r, at));
        }
        if (m->scheme == LEIMKUHLER_MATTHEWS) draw(count, m, step + 1, t, t->next);
        else if (m->scheme == EULER_MARUYAMA) draw(count, m, step, t, t->xi);
        for (int64_t at = 0; at < m->n; at += BLOCK) {
            if (m->onsager) multiply_panel(count, m->n, at, t->e, t->stride, backward, t->product);
            for (int r = 0; r < count; r++) update_cells(m, 0, at, t->heat[r], cells_of(t, r, at));
        }
        float *used = t->xi;
        if (m->scheme == LEIMKUHLER_MATTHEWS) t->xi = t->next, t->next = used;
    }
}

static void enter(const machine *m, const float *x, int64_t row, int count, tile *t) {
    for (int r = 0; r < count; r++) {
        const int64_t from = row + r, to = r * t->stride;
        t->chain[r] = (uint32_t)m->chains[from];
        t->heat[r] = m->heat[from];
        memcpy(t->x + to, x + from * m->n, (size_t)m->n * sizeof(float));
        if (t->free != NULL) memcpy(t->free + to, m->free + from * m->free_stride, (size_t)m->n);
        for (int64_t at = 0; at < m->n; at += BLOCK) enter_cells(0, cells_of(t, r, at));
    }
}

/* All steps of the chains row .. row + count; returns 1 if memory ran out. */
static int run_tile(const machine *m, const float *forward, const float *backward, const float *x,
                    int64_t row, int count, int64_t first_step, int64_t steps, float *x_new) {
    /* one block more than needed, so that rows do not compete for the same lines of the cache */
    const int64_t pairs = (m->n + 2 * BLOCK - 1) / (2 * BLOCK);
    const int64_t stride = pairs * 2 * BLOCK + BLOCK, size = TILE * stride;
    float *memory = calloc((size_t)size * 6, sizeof(float));
    if (memory == NULL) return 1;
    tile t = {.stride = stride, .x = memory, .phi = memory + size, .e = memory + 2 * size,
              .xi = memory + 3 * size, .next = memory + 4 * size};
    if (m->free != NULL) t.free = (uint8_t *)(memory + 5 * size);
    enter(m, x, row, count, &t);
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
    /* smaller tiles where chains are few, so that every thread has some; the same numbers */
    const int64_t share = m->rows / m->threads;
    const int64_t size = share >= TILE ? TILE : share > 1 ? TILE / 2 : 1;
    const int64_t tiles = (m->rows + size - 1) / size;
    const int packers = n * n < ALONE ? 1 : m->threads;
    float *packed = aligned_alloc(VECTOR_BYTES, (size_t)(2 * n * width) * sizeof(float));
    if (packed == NULL) return 1;
    float *backward = packed + n * width;
    pack(J, n, 0, packers, packed);
    pack(J, n, 1, packers, backward);
    int failed = 0;
#pragma omp parallel for num_threads(m->threads) schedule(dynamic) reduction(| : failed)
    for (int64_t i = 0; i < tiles; i++) {
        const int64_t row = i * size, left = m->rows - row;
        failed |= run_tile(m, packed, backward, x, row, (int)(left < size ? left : size),
                           first_step, steps, x_new);
    }
    free(packed);
    return failed;
}

/* ------------------------------------------------------------ around products made elsewhere */

enum { ENTER = 0, RESIDUAL = 1, UPDATE = 2 };

/* the same as cells, over whole (rows, n) buffers; mirrored by kernels.py */
typedef struct {
    float *x, *phi, *e, *xi;
    void *product;
    uint16_t *narrow;
} buffers;

INLINE void visit(const machine *m, int what, int half, int64_t at, float heat, cells c) {
    if (what == ENTER) enter_cells(half, c);
    else if (what == RESIDUAL) residual_cells(m, half, at, c);
    else update_cells(m, half, at, heat, c);
}

INLINE void copy(void *to, const void *from, int64_t count, size_t size) {
    if (to != NULL && from != NULL) memcpy(to, from, (size_t)count * size);
}

/* The end of a row, shorter than BLOCK, by way of a padded copy. */
INLINE void visit_end(const machine *m, int what, int half, int64_t at, float heat, cells c) {
    const size_t product_size = half ? sizeof(uint16_t) : sizeof(float);
    const int64_t count = m->n - at;
    float x[BLOCK] = {0}, phi[BLOCK] = {0}, e[BLOCK] = {0}, product[BLOCK] = {0};
    uint16_t narrow[BLOCK] = {0};
    uint8_t moves[BLOCK] = {0};
    copy(x, c.x, count, sizeof(float));
    copy(phi, c.phi, count, sizeof(float));
    copy(e, c.e, count, sizeof(float));
    copy(product, c.product, count, product_size);
    copy(moves, c.free, count, 1);
    const cells padded = {x,       phi,    e, c.xi, c.next,
                          product, narrow, c.free == NULL ? NULL : moves};
    visit(m, what, half, at, heat, padded);
    copy(c.x, x, count, sizeof(float));
    copy(c.phi, phi, count, sizeof(float));
    copy(c.e, e, count, sizeof(float));
    copy(c.narrow, narrow, count, sizeof(uint16_t));
}

INLINE void pass_row(const machine *m, int what, int half, int64_t row, const stream *noise,
                     const buffers *b) {
    const size_t product_size = half ? sizeof(uint16_t) : sizeof(float);
    const int64_t n = m->n;
    const int keeps = m->scheme == LEIMKUHLER_MATTHEWS;
    /* noise of two blocks: of this step, and of the next if the scheme looks ahead */
    float here[2 * BLOCK] = {0}, ahead[2 * BLOCK] = {0};
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t k = row * n + at, in_pair = at % (2 * BLOCK);
        if (in_pair == 0 && what != RESIDUAL && m->scheme != NO_NOISE) {
            const int64_t count = n - at < 2 * BLOCK ? n - at : 2 * BLOCK;
            float *drawn = keeps && what == UPDATE ? ahead : here;
            if (keeps && what == UPDATE) copy(here, b->xi + k, count, sizeof(float));
            fill_normals(noise, (uint32_t)m->chains[row], at, 2 * BLOCK, drawn);
            if (keeps) copy(b->xi + k, drawn, count, sizeof(float));
        }
        cells c = {b->x + k, b->phi + k, b->e + k, here + in_pair, ahead + in_pair,
                   NULL,     NULL,       NULL};
        if (b->product != NULL) c.product = (char *)b->product + (size_t)k * product_size;
        if (b->narrow != NULL) c.narrow = b->narrow + k;
        if (m->free != NULL) c.free = m->free + row * m->free_stride + at;
        if (n - at >= BLOCK) visit(m, what, half, at, m->heat[row], c);
        else visit_end(m, what, half, at, m->heat[row], c);
    }
}

/* step: whose noise is drawn, in ENTER (the first step, "lm") and UPDATE (the next one if "lm") */
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
