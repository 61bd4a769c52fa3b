/* Activations in float32: codes are looked up (4 bits and fewer: any levels) or converted.
 *
 *     y[m, r] = sum_g scale[r, g] (sum_c level[code] x[m, c]  -  zero sum_c x[m, c])
 */

/* x filled up to whole units, and its sums over groups */
void driftwell_pad(const float *x, int64_t count, int64_t columns, int64_t group, int64_t groups,
                   int64_t padded, float *to, float *sums) {
    for (int64_t m = 0; m < count; m++)
        for (int64_t g = 0; g < groups; g++, to += padded, sums++) {
            const float *from = x + m * columns + g * group;
            const int64_t left = columns - g * group, n = left < group ? left : group;
            double sum[8] = {0};
            for (int64_t c = 0; c < n; c++) {
                to[c] = from[c];
                sum[c % 8] += from[c];
            }
            memset(to + n, 0, (size_t)(padded - n) * sizeof(float));
            for (int i = 1; i < 8; i++) sum[0] += sum[i];
            *sums = (float)sum[0];
        }
}

#define SHORT 8 /* units summed before their sum joins the others: errors grow with either count */

INLINE void reals(const weight *w, int64_t p, const float *x, const float *sums, const int M,
                  const int looked_up, float *y) {
    const int64_t inner = w->units / w->groups, length = w->units * UNIT;
    const uint8_t *unit = panel_of(w, p);
    const f32v none = {0}, table = load(w->levels);
    const int A = M >= 4 ? 1 : 4 / M; /* sums side by side hide the latency of one */
    f32v total[8] = {0};
    for (int64_t g = 0; g < w->groups; g++) {
        f32v sum[8][4] = {0}, whole[8] = {0};
        for (int64_t u = 0; u < inner; u++, unit += w->bits * 64, x += UNIT) {
            u32v codes[8];
            unpack_unit((int)w->bits, unit, codes);
            for (int t = 0; t < 8; t++)
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    const u32v code = codes[t] >> (8 * j);
                    const f32v level = looked_up ? pick(table, code) : to_float((i32v)(code & 255));
#pragma GCC unroll 8
                    for (int m = 0; m < M; m++)
                        sum[m][j % A] += level * x[m * length + 4 * t + j];
                }
            if (u % SHORT == SHORT - 1 || u == inner - 1)
#pragma GCC unroll 8
                for (int m = 0; m < M; m++)
#pragma GCC unroll 4
                    for (int i = 0; i < A; i++) whole[m] += sum[m][i], sum[m][i] = none;
        }
        const int64_t at = (p * w->groups + g) * LANES;
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
            if (w->zero) whole[m] -= load(w->zero + at) * sums[m * w->groups + g];
            total[m] += load(w->scale + at) * whole[m];
        }
    }
    for (int m = 0; m < M; m++) put(y + m * w->rows + p * LANES, total[m], w->rows - p * LANES);
}

INLINE void all_reals(const weight *w, int64_t p, const float *x, const float *sums,
                      int64_t count, const int looked_up, float *y) {
    const int64_t length = w->units * UNIT;
    while (count > 0) {
        const int M = count >= 8 ? 8 : count >= 4 ? 4 : count >= 2 ? 2 : 1;
        if (M == 8) reals(w, p, x, sums, 8, looked_up, y);
        if (M == 4) reals(w, p, x, sums, 4, looked_up, y);
        if (M == 2) reals(w, p, x, sums, 2, looked_up, y);
        if (M == 1) reals(w, p, x, sums, 1, looked_up, y);
        count -= M, x += M * length, sums += M * w->groups, y += M * w->rows;
    }
}

void driftwell_real_product(const weight *w, const float *x, const float *sums, int64_t count,
                            int threads, float *y) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < w->panels; p++) {
        if (w->bits <= 4)
            all_reals(w, p, x, sums, count, 1, y);
        else
            all_reals(w, p, x, sums, count, 0, y);
    }
}
