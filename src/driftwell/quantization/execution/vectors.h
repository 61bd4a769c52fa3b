/* Sixteen lanes, a lane an output row: what low-bit products are made of, for AVX-512. */
#ifndef DRIFTWELL_LOW_BIT_VECTORS_H
#define DRIFTWELL_LOW_BIT_VECTORS_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float f32v __attribute__((vector_size(64)));
typedef int32_t i32v __attribute__((vector_size(64)));
typedef uint32_t u32v __attribute__((vector_size(64)));
typedef f32v f32u __attribute__((aligned(4)));
typedef u32v u32u __attribute__((aligned(1)));

INLINE u32v load_codes(const uint8_t *p) { return *(const u32u *)p; }
INLINE f32v load(const float *p) { return *(const f32u *)p; }
INLINE f32v to_float(i32v v) { return (f32v)_mm512_cvtepi32_ps((__m512i)v); }

/* table[index mod 16] */
INLINE f32v pick(f32v table, u32v index) {
    return (f32v)_mm512_permutexvar_ps((__m512i)index, (__m512)table);
}

/* sixteen numbers of a row of y, fewer at the last panel */
INLINE void put(float *y, f32v v, int64_t left) {
    if (left >= LANES)
        *(f32u *)y = v;
    else
        _mm512_mask_storeu_ps(y, (__mmask16)((1u << left) - 1), (__m512)v);
}

#ifdef __AVX512VNNI__
/* sum[l] += code[4 l + j] x[j], j = 0..3: unsigned codes, signed numbers, exact */
INLINE i32v dot(i32v sum, u32v codes, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return (i32v)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes, _mm512_set1_epi32(four));
}
#endif

/* One unit (16 rows, 32 columns) is `bits` vectors of 64 bytes, planes of 4, 2 and 1 bits after
 * each other (8 bits: one plane). Sub-block t = 0..7 holds columns 4 t .. 4 t + 3, a byte each; a
 * plane of p bits holds 8 / p sub-blocks a vector, each in the p bits of its turn. */
INLINE u32v shifted(u32v v, int by) { return by >= 0 ? v << by : v >> -by; }

INLINE u32v plane(const uint8_t *unit, int width, int t, int to) {
    const int turns = 8 / width;
    const uint32_t kept = (((1u << width) - 1) << to) * 0x01010101u;
    return shifted(load_codes(unit + 64 * (t / turns)), to - width * (t % turns)) & kept;
}

INLINE void unpack(const int bits, const uint8_t *unit, u32v *codes) {
    const uint8_t *twos = unit + (bits & 4) * 64, *ones = twos + (bits & 2) * 64;
#pragma GCC unroll 8
    for (int t = 0; t < 8; t++) {
        u32v v = {0};
        if (bits == 8) v = load_codes(unit + 64 * t);
        if (bits & 4) v = plane(unit, 4, t, 0);
        if (bits & 2) v |= plane(twos, 2, t, bits & 4);
        if (bits & 1) v |= plane(ones, 1, t, bits & 6);
        codes[t] = v;
    }
}

/* the codes of a unit, a byte each, as eight sub-blocks */
static void unpack_unit(int bits, const uint8_t *unit, u32v *codes) {
    switch (bits) {
        case 1: unpack(1, unit, codes); break;
        case 2: unpack(2, unit, codes); break;
        case 3: unpack(3, unit, codes); break;
        case 4: unpack(4, unit, codes); break;
        case 5: unpack(5, unit, codes); break;
        case 6: unpack(6, unit, codes); break;
        case 7: unpack(7, unit, codes); break;
        default: unpack(8, unit, codes);
    }
}

#endif
