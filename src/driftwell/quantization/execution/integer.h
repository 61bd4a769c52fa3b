/* Activations of 8 bits: integer sums are exact, one rounding at the end of a group.
 *
 *     y[m, r] = step[m] sum_g scale[r, g] (sum_c (code - whole) q[m, c]  -  zero sum_c q[m, c])
 */

typedef struct {
    const int8_t *q;     /* (count, units * 32) */
    const int32_t *sums; /* (count, groups) of q */
    const float *step;   /* (count,): x = step q */
    int64_t count;
} quantised;

/* q = round(x / step) with step = max |x| / 127, row by row; a row that is not finite becomes
 * step = NaN, q = 0, so that it spoils its own outputs and no other */
static void quantise_row(const float *x, int64_t columns, int64_t group, int64_t groups,
                         int64_t padded, int8_t *q, int32_t *sums, float *step) {
    uint32_t most = 0; /* of |x| by its bits, which are ordered as the numbers, NaN above all */
    for (int64_t c = 0; c < columns; c++) {
        uint32_t bits;
        memcpy(&bits, x + c, 4);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    float top;
    memcpy(&top, &most, 4);
    const float size = top / 127.0f, inverse = 1.0f / size;
    const int finite = top < INFINITY, usable = finite && inverse < INFINITY;
    *step = finite ? size : NAN;
    for (int64_t g = 0; g < groups; g++, q += padded, x += group, columns -= group) {
        const int64_t n = columns < group ? columns : group;
        int32_t sum = 0;
        if (usable)
            for (int64_t c = 0; c < n; c++) {
                const int32_t v = (int32_t)__builtin_rintf(x[c] * inverse);
                q[c] = (int8_t)v;
                sum += v;
            }
        else
            memset(q, 0, (size_t)n);
        memset(q + n, 0, (size_t)(padded - n));
        sums[g] = sum;
    }
}

void driftwell_quantise(const float *x, int64_t count, int64_t columns, int64_t group,
                        int64_t groups, int64_t padded, int threads, int8_t *q, int32_t *sums,
                        float *step) {
    if (count * columns < 32768) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t m = 0; m < count; m++)
        quantise_row(x + m * columns, columns, group, groups, padded, q + m * groups * padded,
                     sums + m * groups, step + m);
}

/* what a group adds to y / step */
INLINE f32v group_value(const weight *w, int64_t at, i32v sum, int32_t total) {
    const __m256i whole = _mm256_loadu_si256((const __m256i *)(w->whole + at));
    f32v value = to_float(sum - (i32v)_mm512_cvtepi16_epi32(whole) * total);
    if (w->zero) value -= load(w->zero + at) * (float)total;
    return load(w->scale + at) * value;
}

/* the levels, as bytes, of the codes of a unit */
INLINE void look_up(const uint8_t *table, u32v *codes) {
    if (!table) return;
    const __m512i sixteen = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
    for (int t = 0; t < 8; t++)
        codes[t] = (u32v)_mm512_shuffle_epi8(sixteen, (__m512i)codes[t]);
}

/* few rows of x: a unit is decoded and used at once */
INLINE void few(const weight *w, int64_t p, const quantised *x, int64_t m0, const int M,
                float *y) {
    const int64_t inner = w->units / w->groups, length = w->units * UNIT;
    const int A = M >= 4 ? 1 : 4 / M; /* sums side by side hide the latency of one */
    const uint8_t *unit = panel_of(w, p);
    const int8_t *q = x->q + m0 * length;
    f32v total[8] = {0};
    for (int64_t g = 0; g < w->groups; g++) {
        i32v sum[8][4] = {0};
        for (int64_t u = 0; u < inner; u++, unit += w->bits * 64, q += UNIT) {
            u32v codes[8];
            unpack_unit((int)w->bits, unit, codes);
            look_up(w->bytes, codes);
#pragma GCC unroll 8
            for (int t = 0; t < 8; t++)
#pragma GCC unroll 8
                for (int m = 0; m < M; m++)
                    sum[m][t % A] = dot(sum[m][t % A], codes[t], q + m * length + 4 * t);
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            for (int i = 1; i < A; i++) sum[m][0] += sum[m][i];
            total[m] += group_value(w, (p * w->groups + g) * LANES, sum[m][0],
                                    x->sums[(m0 + m) * w->groups + g]);
        }
    }
    for (int m = 0; m < M; m++)
        put(y + (m0 + m) * w->rows + p * LANES, total[m] * x->step[m0 + m], w->rows - p * LANES);
}

static void few_rows(const weight *w, const quantised *x, int threads, float *y) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < w->panels; p++)
        for (int64_t m = 0, left; (left = x->count - m) > 0;) {
            if (left >= 8)
                few(w, p, x, m, 8, y), m += 8;
            else if (left >= 4)
                few(w, p, x, m, 4, y), m += 4;
            else if (left >= 2)
                few(w, p, x, m, 2, y), m += 2;
            else
                few(w, p, x, m, 1, y), m += 1;
        }
}

/* many rows of x: P panels are decoded to bytes once, then met by M rows at a time */
#define TILE_M 6
#define TILE_P 4

INLINE void tile(const weight *w, const uint8_t *bytes, int64_t p, const quantised *x, int64_t m0,
                 const int M, const int P, float *y) {
    const int64_t length = w->units * UNIT, fours = length / w->groups / 4;
    f32v total[TILE_M][TILE_P] = {0};
    for (int64_t g = 0; g < w->groups; g++) {
        i32v sum[TILE_M][TILE_P] = {0};
        const uint8_t *from = bytes + g * fours * 64;
        const int8_t *q = x->q + m0 * length + g * fours * 4;
        for (int64_t f = 0; f < fours; f++, from += 64, q += 4) {
            u32v codes[TILE_P];
#pragma GCC unroll 4
            for (int i = 0; i < P; i++) codes[i] = load_codes(from + i * length * LANES);
#pragma GCC unroll 6
            for (int m = 0; m < M; m++)
#pragma GCC unroll 4
                for (int i = 0; i < P; i++)
                    sum[m][i] = dot(sum[m][i], codes[i], q + m * length);
        }
#pragma GCC unroll 6
        for (int m = 0; m < M; m++)
#pragma GCC unroll 4
            for (int i = 0; i < P; i++)
                total[m][i] += group_value(w, ((p + i) * w->groups + g) * LANES, sum[m][i],
                                           x->sums[(m0 + m) * w->groups + g]);
    }
    for (int m = 0; m < M; m++)
        for (int i = 0; i < P; i++)
            put(y + (m0 + m) * w->rows + (p + i) * LANES, total[m][i] * x->step[m0 + m],
                w->rows - (p + i) * LANES);
}

INLINE void tiles(const weight *w, const uint8_t *bytes, int64_t p, const quantised *x,
                  int64_t first, int64_t last, const int P, float *y) {
    for (int64_t m = first, left; (left = last - m) > 0;) {
        if (left >= TILE_M)
            tile(w, bytes, p, x, m, TILE_M, P, y), m += TILE_M;
        else if (left >= 3)
            tile(w, bytes, p, x, m, 3, P, y), m += 3;
        else
            tile(w, bytes, p, x, m, 1, P, y), m += 1;
    }
}

/* one job: P panels (fewer at the end) against the rows first .. last - 1 of x */
static void job(const weight *w, int64_t p, const quantised *x, int64_t first, int64_t last,
                uint8_t *scratch, float *y) {
    const int64_t whole = w->units * UNIT * LANES; /* bytes of a panel, a byte a code */
    const int64_t count = w->panels - p < TILE_P ? w->panels - p : TILE_P;
    const uint8_t *bytes = panel_of(w, p);
    if (w->bits < 8) {
        u32v *codes = (u32v *)scratch;
        for (int64_t u = 0; u < count * w->units; u++, codes += 8) {
            unpack_unit((int)w->bits, bytes + u * w->bits * 64, codes);
            look_up(w->bytes, codes);
        }
        bytes = scratch;
    }
    if (count == TILE_P)
        tiles(w, bytes, p, x, first, last, TILE_P, y);
    else
        for (int64_t i = 0; i < count; i++)
            tiles(w, bytes + i * whole, p + i, x, first, last, 1, y);
}

static void many_rows(const weight *w, const quantised *x, int threads, uint8_t *scratch,
                      float *y) {
    const int64_t quads = (w->panels + TILE_P - 1) / TILE_P;
    /* few panels for many threads: the rows of x are shared out too, whole tiles each */
    const int64_t shares = quads >= 4 * threads ? 1 : threads;
    const int64_t share = ((x->count + shares - 1) / shares + TILE_M - 1) / TILE_M * TILE_M;
    const int64_t jobs = quads * shares, room = TILE_P * w->units * UNIT * LANES;
    /* a thread's jobs follow each other in one scratch, which stays in its cache */
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int64_t t = 0; t < threads; t++)
        for (int64_t i = jobs * t / threads; i < jobs * (t + 1) / threads; i++) {
            const int64_t first = i % shares * share, end = first + share;
            const int64_t last = end < x->count ? end : x->count;
            if (first < last) job(w, i / shares * TILE_P, x, first, last, scratch + t * room, y);
        }
}

void driftwell_integer_product(const weight *w, const int8_t *q, const int32_t *sums,
                               const float *step, int64_t count, int threads, uint8_t *scratch,
                               float *y) {
    const quantised x = {q, sums, step, count};
    if (scratch)
        many_rows(w, &x, threads, scratch, y);
    else
        few_rows(w, &x, threads, y);
}
