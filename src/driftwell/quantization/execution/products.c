/* y = x W^T with W in b bits, read as stored: panels.py describes the layout.
 *
 *     W[r, c] = scale[r, g] (level[code[r, c]] - zero[r, g]),    g the group of column c
 *
 * Sixteen rows are a panel; 32 columns of a panel are a unit; a group is a whole number of units
 * (filled up with columns where x is zero). A lane is a row, so nothing is summed across lanes.
 */
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)

#include "vectors.h"

typedef struct {
    int64_t rows, panels, units, groups; /* units of one panel; groups along the columns */
    int64_t bits;
    const uint8_t *codes; /* (panels, units, bits, 64) */
    const float *scale;   /* (panels, groups, 16) */
    const float *zero;    /* (panels, groups, 16): the zero beside `whole`; null where it is 0 */
    const int16_t *whole; /* (panels, groups, 16): the zero's integer part */
    const uint8_t *bytes; /* (16,) levels as unsigned bytes, or null where they are the codes */
    const float *levels;  /* (16,) levels, repeated to sixteen; more than 4 bits: unused */
} weight;

#define UNIT 32

INLINE const uint8_t *panel_of(const weight *w, int64_t p) {
    return w->codes + p * w->units * w->bits * 64;
}

#include "real.h"
#ifdef __AVX512VNNI__
#include "integer.h"
#define FEATURES 3
#else
#define FEATURES 1
#endif
#else
#define FEATURES 0
#endif

/* 1: float activations; 2: integer activations */
int driftwell_low_bit_features(void) { return FEATURES; }
