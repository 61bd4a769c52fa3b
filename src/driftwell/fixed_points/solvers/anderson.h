/* One Anderson step of all samples, for numbers of type REAL; the function is named STEP.
 *
 * A sample is read once: its new differences go into their slots of the two rings, the Gram matrix
 * gains a row and a column, gamma solves the ridge problem in double, and the mix is written.
 * Sums run over chunks in the order of the coordinates, so that a sample's numbers depend neither
 * on the batch around it nor on the threads.
 */
static double CHUNK_DOT(int64_t n, const REAL *a, const REAL *b) {
    REAL sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return (double)sum;
}

static void ONE(const anderson *how, int64_t d, const REAL *z, const REAL *fz, REAL *residuals,
                REAL *values, double *gram, uint8_t *used, REAL *last_residual, REAL *last_value,
                int64_t *taken, REAL *out) {
    const int64_t m = how->memory;
    const int64_t slot = (*taken + m - 1) % m;
    REAL *new_residual = residuals + slot * d, *new_value = values + slot * d;
    double row[MOST], target[MOST], size = 0, before = 0, gamma[MOST];
    for (int64_t j = 0; j < m; j++) row[j] = target[j] = 0;
    for (int64_t from = 0; from < d; from += CHUNK) {
        const int64_t n = d - from < CHUNK ? d - from : CHUNK;
        REAL r[CHUNK];
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const int64_t k = from + i;
            r[i] = fz[k] - z[k];
            new_residual[k] = r[i] - last_residual[k];
            new_value[k] = fz[k] - last_value[k];
        }
        size += CHUNK_DOT(n, r, r);
        before += CHUNK_DOT(n, last_residual + from, last_residual + from);
        for (int64_t j = 0; j < m; j++) {
            if (j != slot && !used[j]) continue;
            row[j] += CHUNK_DOT(n, new_residual + from, residuals + j * d + from);
            target[j] += CHUNK_DOT(n, r, residuals + j * d + from);
        }
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            last_residual[from + i] = r[i];
            last_value[from + i] = fz[from + i];
        }
    }
    for (int64_t j = 0; j < m; j++) gram[slot * m + j] = gram[j * m + slot] = row[j];
    used[slot] = *taken > 0;
    const int steady = sqrt(size) <= how->restart * sqrt(before);
    if (!steady)
        for (int64_t j = 0; j < m; j++) used[j] = 0;
    *taken += 1;
    mix(how, gram, used, target, gamma);
    const REAL back = (REAL)(1.0 - how->damping);
    for (int64_t from = 0; from < d; from += CHUNK) {
        const int64_t n = d - from < CHUNK ? d - from : CHUNK;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const int64_t k = from + i;
            out[k] = back == 0 ? fz[k] : fz[k] - back * last_residual[k];
        }
        for (int64_t j = 0; j < m; j++) {
            if (gamma[j] == 0) continue;
            const REAL g = (REAL)gamma[j], share = back * g;
            const REAL *v = values + j * d + from, *s = residuals + j * d + from;
            if (back == 0) {
#pragma omp simd
                for (int64_t i = 0; i < n; i++) out[from + i] -= g * v[i];
            } else {
#pragma omp simd
                for (int64_t i = 0; i < n; i++) out[from + i] -= g * v[i] - share * s[i];
            }
        }
    }
}

void STEP(const anderson *how, int64_t samples, int64_t d, const REAL *z, const REAL *fz,
          REAL *residuals, REAL *values, double *gram, uint8_t *used, REAL *last_residual,
          REAL *last_value, int64_t *taken, REAL *out, int threads) {
    const int64_t m = how->memory;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (samples * d > 4096)
    for (int64_t i = 0; i < samples; i++)
        ONE(how, d, z + i * d, fz + i * d, residuals + i * m * d, values + i * m * d,
            gram + i * m * m, used + i * m, last_residual + i * d, last_value + i * d, taken + i,
            out + i * d);
}
