/* Keyed normal numbers in vector registers: Philox4x32-10 (Salmon et al., 2011), Box-Muller.
 *
 * One block is VECTOR_BYTES / 8 counters, that is 2 * LANES32 random words or normal numbers.
 * philox.py says the same in tensor operations and is the reference; words are equal, normals
 * agree to rounding. Vectors are GCC's extension (also clang's); intrinsics only where the
 * extension has no word for an instruction.
 */
#ifndef DRIFTWELL_PHILOX_H
#define DRIFTWELL_PHILOX_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define VECTOR_BYTES 64
#include <immintrin.h>
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#include <immintrin.h>
#else
#define VECTOR_BYTES 16
#endif

#define LANES32 (VECTOR_BYTES / 4)
#define LANES64 (VECTOR_BYTES / 8)
#define BLOCK (2 * LANES32) /* numbers of one block */
#define INLINE static inline __attribute__((always_inline))

typedef float f32v __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t i32v __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t u32v __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t u64v __attribute__((vector_size(VECTOR_BYTES)));
/* the same, at any address */
typedef float f32u __attribute__((vector_size(VECTOR_BYTES), aligned(4)));

INLINE f32v load(const float *p) { return *(const f32u *)p; }
INLINE void store(float *p, f32v v) { *(f32u *)p = v; }
INLINE f32v splat(float a) { return (f32v){0} + a; }
INLINE f32v choose(i32v mask, f32v yes, f32v no) {
    return (f32v)((mask & (i32v)yes) | (~mask & (i32v)no));
}

INLINE f32v square_root(f32v x) {
#if VECTOR_BYTES == 64
    return (f32v)_mm512_sqrt_ps((__m512)x);
#elif VECTOR_BYTES == 32
    return (f32v)_mm256_sqrt_ps((__m256)x);
#else
    f32v y = {0};
    for (int i = 0; i < LANES32; i++) y[i] = __builtin_sqrtf(x[i]);
    return y;
#endif
}

/* 64-bit products of the low halves of a with m; the high halves of a are ignored */
INLINE u64v product(u64v a, uint32_t m) {
#if VECTOR_BYTES == 64
    return (u64v)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(m));
#elif VECTOR_BYTES == 32
    return (u64v)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(m));
#else
    u64v p;
    for (int i = 0; i < LANES64; i++) p[i] = (a[i] & 0xffffffffu) * (uint64_t)m;
    return p;
#endif
}

/* (low half of a_0, low half of b_0, low half of a_1, ...) */
INLINE u32v low_halves(u64v a, u64v b) {
#if VECTOR_BYTES == 64
    return (u32v)_mm512_mask_shuffle_epi32((__m512i)a, 0xaaaa, (__m512i)b, 0xa0);
#else
    return (u32v)((a & 0xffffffffu) | (b << 32));
#endif
}

#if VECTOR_BYTES == 64
#define INTERLEAVE(a, b, first, second)                                                          \
    do {                                                                                         \
        first = (__typeof__(first))__builtin_shuffle(a, b, (i32v){0, 16, 1, 17, 2, 18, 3, 19,    \
                                                     4, 20, 5, 21, 6, 22, 7, 23});               \
        second = (__typeof__(second))__builtin_shuffle(a, b, (i32v){8, 24, 9, 25, 10, 26, 11,    \
                                                       27, 12, 28, 13, 29, 14, 30, 15, 31});     \
    } while (0)
#else
#define INTERLEAVE(a, b, first, second)                                                          \
    do {                                                                                         \
        for (int lane_ = 0; lane_ < LANES32; lane_++) {                                          \
            const int from_ = lane_ / 2, to_ = from_ + LANES32 / 2;                              \
            first[lane_] = lane_ % 2 ? b[from_] : a[from_];                                      \
            second[lane_] = lane_ % 2 ? b[to_] : a[to_];                                         \
        }                                                                                        \
    } while (0)
#endif

typedef struct {
    uint32_t k0[10], k1[10]; /* round keys */
    uint32_t step, tag;      /* counter words 2 and 3 */
} stream;

INLINE stream open_stream(uint64_t seed, uint32_t step, uint32_t tag) {
    stream s;
    for (int i = 0; i < 10; i++) {
        s.k0[i] = (uint32_t)seed + (uint32_t)i * 0x9E3779B9u;
        s.k1[i] = (uint32_t)(seed >> 32) + (uint32_t)i * 0xBB67AE85u;
    }
    s.step = step;
    s.tag = tag;
    return s;
}

/* Words of counters first, first + 1, ...: `even` holds words 0 and 2 of each, `odd` 1 and 3. */
INLINE void words_of(const stream *s, uint32_t chain, uint32_t first, u32v *even, u32v *odd) {
    const uint32_t M0 = 0xD2511F53u, M1 = 0xCD9E8D57u;
    u64v c0;
    for (int i = 0; i < LANES64; i++) c0[i] = i;
    c0 += first;
    /* one 32-bit word in each 64-bit lane; the high halves are rubbish that `product` ignores.
     * In round 0 words 1, 2, 3 are the same in every lane, so are words 0 and 1 in round 1 */
    const uint64_t q2 = (uint64_t)s->step * M1;
    u64v p0 = product(c0, M0);
    const uint32_t w0 = (uint32_t)(q2 >> 32) ^ chain ^ s->k0[0], w1 = (uint32_t)q2;
    u64v c2 = (p0 >> 32) ^ (uint64_t)(s->tag ^ s->k1[0]), c3 = p0;
    const uint64_t q0 = (uint64_t)w0 * M0;
    u64v p2 = product(c2, M1);
    c0 = (p2 >> 32) ^ (uint64_t)(w1 ^ s->k0[1]);
    u64v c1 = p2;
    c2 = c3 ^ (uint64_t)((uint32_t)(q0 >> 32) ^ s->k1[1]);
    c3 = (u64v){0} + (uint64_t)(uint32_t)q0;
    for (int i = 2; i < 10; i++) {
        p0 = product(c0, M0);
        p2 = product(c2, M1);
        c0 = (p2 >> 32) ^ c1 ^ (uint64_t)s->k0[i];
        c1 = p2;
        c2 = (p0 >> 32) ^ c3 ^ (uint64_t)s->k1[i];
        c3 = p0;
    }
    *even = low_halves(c0, c2);
    *odd = low_halves(c1, c3);
}

/* sqrt(-2 ln u), u = (w + 1/2) 2^-32. Near u = 1 it is 1 - u that is held exactly. */
INLINE f32v radius_of(u32v w) {
    const i32v high = (i32v)w >> 31; /* u >= 1/2 */
    const f32v v =
        (__builtin_convertvector((i32v)w ^ high, f32v) + 0.5f) * 0x1p-32f; /* u or 1 - u */
    const f32v y = choose(high, 1.0f - v, v);
    /* y = 2^k m, sqrt(1/2) <= m < sqrt(2) */
    const i32v k = ((i32v)y - 0x3f3504f3) >> 23;
    const f32v m = (f32v)((i32v)y - (k << 23));
    const f32v f = choose(high & (k == 0), -v, m - 1.0f);
    f32v p = splat(8.787265491e-02f); /* (ln(1 + f) - f) / f^2, relative error of ln 6e-8 */
    p = p * f - 1.415964701e-01f;
    p = p * f + 1.483478684e-01f;
    p = p * f - 1.658848853e-01f;
    p = p * f + 1.997204971e-01f;
    p = p * f - 2.500114768e-01f;
    p = p * f + 3.333367061e-01f;
    p = p * f - 4.999999713e-01f;
    const f32v log1p_f = p * (f * f) + f;
    const f32v ln_u = __builtin_convertvector(k, f32v) * 0.69314718056f + log1p_f;
    return square_root(ln_u * -2.0f);
}

/* cos and sin of 2 pi (w + 1/2) 2^-32. The nearest quarter turn is split off in integers. */
INLINE void turn_of(u32v w, f32v *cosine, f32v *sine) {
    const u32v quarter = (w + 0x20000000u) >> 30;
    const f32v a = (__builtin_convertvector((i32v)(w - (quarter << 30)), f32v) + 0.5f) *
                   1.46291807927e-09f; /* 2 pi 2^-32 */
    const f32v z = a * a;
    f32v s = splat(-1.958789088e-04f);
    s = s * z + 8.332748271e-03f;
    s = s * z - 1.666666466e-01f;
    s = s * (z * a) + a;
    f32v c = splat(2.454794209e-05f);
    c = c * z - 1.388830304e-03f;
    c = c * z + 4.166666466e-02f;
    c = c * (z * z) + (z * -0.5f + 1.0f);
    const i32v odd = -(i32v)(quarter & 1);
    const u32v sign_c = ((quarter + 1) & 2) << 30, sign_s = (quarter & 2) << 30;
    *cosine = (f32v)((u32v)choose(odd, s, c) ^ sign_c);
    *sine = (f32v)((u32v)choose(odd, c, s) ^ sign_s);
}

/* BLOCK normals of one chain, elements 4 * first, 4 * first + 1, ... */
INLINE void normals_of(const stream *s, uint32_t chain, uint32_t first, f32v *low, f32v *up) {
    u32v even, odd;
    f32v cosine, sine;
    words_of(s, chain, first, &even, &odd);
    const f32v radius = radius_of(even);
    turn_of(odd, &cosine, &sine);
    const f32v a = radius * cosine, b = radius * sine;
    INTERLEAVE(a, b, (*low), (*up));
}

#endif
