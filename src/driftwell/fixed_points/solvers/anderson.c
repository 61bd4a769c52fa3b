/* Anderson acceleration, type II: the step of anderson.py in one pass over the history. */
#include <math.h>
#include <stdint.h>

#define CHUNK 512 /* coordinates at a time: what is read twice stays in the first cache */
#define MOST 32   /* longest memory; the Python side takes its own path beyond it */

typedef struct {
    int64_t memory;
    double damping, ridge, restart;
} anderson;

/* x = A^-1 b for the first n unknowns, by elimination with pivots; 0 if A is singular */
static int solve(int n, double A[MOST][MOST], double *b) {
    for (int k = 0; k < n; k++) {
        int best = k;
        for (int i = k + 1; i < n; i++)
            if (fabs(A[i][k]) > fabs(A[best][k])) best = i;
        if (!(fabs(A[best][k]) > 0)) return 0;
        for (int j = 0; j < n; j++) {
            const double kept = A[k][j];
            A[k][j] = A[best][j];
            A[best][j] = kept;
        }
        const double kept = b[k];
        b[k] = b[best];
        b[best] = kept;
        for (int i = k + 1; i < n; i++) {
            const double factor = A[i][k] / A[k][k];
            for (int j = k; j < n; j++) A[i][j] -= factor * A[k][j];
            b[i] -= factor * b[k];
        }
    }
    for (int k = n - 1; k >= 0; k--) {
        for (int j = k + 1; j < n; j++) b[k] -= A[k][j] * b[j];
        b[k] /= A[k][k];
        if (!isfinite(b[k])) return 0;
    }
    return 1;
}

/* gamma of the slots in use, every column measured in its own length; zero elsewhere */
static void mix(const anderson *how, const double *gram, const uint8_t *used, const double *target,
                double *gamma) {
    const int m = (int)how->memory;
    double A[MOST][MOST], b[MOST], scale[MOST];
    int index[MOST], n = 0;
    for (int j = 0; j < m; j++) {
        gamma[j] = 0;
        if (used[j] && gram[j * m + j] > 0) {
            scale[n] = 1.0 / sqrt(gram[j * m + j]);
            index[n++] = j;
        }
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            A[i][j] = scale[i] * gram[index[i] * m + index[j]] * scale[j] + (i == j) * how->ridge;
        b[i] = scale[i] * target[index[i]];
    }
    if (!solve(n, A, b)) return;
    for (int i = 0; i < n; i++) gamma[index[i]] = scale[i] * b[i];
}

#define REAL float
#define CHUNK_DOT chunk_dot_f32
#define ONE one_f32
#define STEP driftwell_anderson_f32
#include "anderson.h"
#undef REAL
#undef CHUNK_DOT
#undef ONE
#undef STEP

#define REAL double
#define CHUNK_DOT chunk_dot_f64
#define ONE one_f64
#define STEP driftwell_anderson_f64
#include "anderson.h"
