/* |f(z) - z| and |f(z)| of every row in one pass, summed in double: squares of small floats vanish. */
#include <math.h>
#include <stdint.h>

#define NORMS(NAME, REAL)                                                                          \
    void NAME(int64_t samples, int64_t d, const REAL *z, const REAL *fz, REAL *gap, REAL *size,    \
              int threads) {                                                                       \
        (void)threads;                                                                             \
        _Pragma("omp parallel for num_threads(threads) schedule(static) if (samples * d > 4096)")  \
        for (int64_t row = 0; row < samples; row++) {                                              \
            const REAL *a = z + row * d, *b = fz + row * d;                                        \
            double far = 0, whole = 0;                                                             \
            _Pragma("omp simd reduction(+ : far, whole)") for (int64_t i = 0; i < d; i++) {        \
                const double f = (double)b[i], step = f - (double)a[i];                            \
                far += step * step;                                                                \
                whole += f * f;                                                                    \
            }                                                                                      \
            gap[row] = (REAL)sqrt(far);                                                            \
            size[row] = (REAL)sqrt(whole);                                                         \
        }                                                                                          \
    }

NORMS(driftwell_residual_f32, float)
NORMS(driftwell_residual_f64, double)
