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

/* Two blocks go side by side: alone, one would wait for its own results most of the time. */
#define PAIR(statement)                                                                          \
    do {                                                                                         \
        _Pragma("GCC unroll 2") for (int i = 0; i < 2; i++) { statement; }                       \
    } while (0)

/* Words of counters first[i], first[i] + 1, ... of chain[i], i = 0, 1: `even` holds words 0 and 2
 * of each counter, `odd` words 1 and 3. */
INLINE void words_of(const stream *s, const uint32_t *chain, const uint32_t *first, u32v *even,
                     u32v *odd) {
    const uint32_t M0 = 0xD2511F53u, M1 = 0xCD9E8D57u;
    u64v lanes, c0[2], c1[2], c2[2], c3[2], p0[2], p2[2];
    for (int i = 0; i < LANES64; i++) lanes[i] = i;
    /* one 32-bit word in each 64-bit lane; the high halves are rubbish that `product` ignores.
     * In round 0 words 1, 2, 3 are the same in every lane, so are words 0 and 1 in round 1 */
    const uint64_t q2 = (uint64_t)s->step * M1;
    uint64_t q0[2];
    PAIR(q0[i] = (uint64_t)((uint32_t)(q2 >> 32) ^ chain[i] ^ s->k0[0]) * M0);
    PAIR(c3[i] = product(lanes + first[i], M0));
    PAIR(c2[i] = (c3[i] >> 32) ^ (uint64_t)(s->tag ^ s->k1[0]));
    PAIR(c1[i] = product(c2[i], M1));
    PAIR(c0[i] = (c1[i] >> 32) ^ (uint64_t)((uint32_t)q2 ^ s->k0[1]));
    PAIR(c2[i] = c3[i] ^ (uint64_t)((uint32_t)(q0[i] >> 32) ^ s->k1[1]));
    PAIR(c3[i] = (u64v){0} + (uint64_t)(uint32_t)q0[i]);
    for (int round = 2; round < 10; round++) {
        const uint64_t k0 = s->k0[round], k1 = s->k1[round];
        PAIR(p2[i] = product(c2[i], M1));
        PAIR(p0[i] = product(c0[i], M0));
        PAIR(c0[i] = (p2[i] >> 32) ^ c1[i] ^ k0);
        PAIR(c2[i] = (p0[i] >> 32) ^ c3[i] ^ k1);
        PAIR(c1[i] = p2[i]);
        PAIR(c3[i] = p0[i]);
    }
    PAIR(even[i] = low_halves(c0[i], c2[i]));
    PAIR(odd[i] = low_halves(c1[i], c3[i]));
}

/* sqrt(-2 ln u), u = (w + 1/2) 2^-32. Near u = 1 it is 1 - u that is held exactly. */
INLINE void radius_of(const u32v *w, f32v *radius) {
    i32v high[2], k[2];
    f32v v[2], y[2], f[2], p[2];
    PAIR(high[i] = (i32v)w[i] >> 31); /* u >= 1/2 */
    PAIR(v[i] = (__builtin_convertvector((i32v)w[i] ^ high[i], f32v) + 0.5f) * 0x1p-32f);
    PAIR(y[i] = choose(high[i], 1.0f - v[i], v[i])); /* v is u or 1 - u, y is u */
    /* u = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2) */
    PAIR(k[i] = ((i32v)y[i] - 0x3f3504f3) >> 23);
    PAIR(f[i] = (f32v)((i32v)y[i] - (k[i] << 23)) - 1.0f);
    PAIR(f[i] = choose(high[i] & (k[i] == 0), -v[i], f[i]));
    /* (ln(1 + f) - f) / f^2 as a polynomial: relative error of ln(1 + f) 6e-8 */
    static const float c[] = {-1.415964701e-01f, 1.483478684e-01f,  -1.658848853e-01f,
                              1.997204971e-01f,  -2.500114768e-01f, 3.333367061e-01f,
                              -4.999999713e-01f};
    PAIR(p[i] = splat(8.787265491e-02f));
    for (int j = 0; j < 7; j++) PAIR(p[i] = p[i] * f[i] + c[j]);
    PAIR(f[i] = p[i] * (f[i] * f[i]) + f[i]);
    PAIR(f[i] = __builtin_convertvector(k[i], f32v) * 0.69314718056f + f[i]);
    PAIR(radius[i] = square_root(f[i] * -2.0f));
}

/* cos and sin of 2 pi (w + 1/2) 2^-32. The nearest quarter turn is split off in integers. */
INLINE void turn_of(const u32v *w, f32v *cosine, f32v *sine) {
    u32v quarter[2];
    f32v a[2], z[2], s[2], c[2];
    PAIR(quarter[i] = (w[i] + 0x20000000u) >> 30);
    PAIR(a[i] = __builtin_convertvector((i32v)(w[i] - (quarter[i] << 30)), f32v));
    PAIR(a[i] = (a[i] + 0.5f) * 1.46291807927e-09f); /* 2 pi 2^-32 */
    PAIR(z[i] = a[i] * a[i]);
    PAIR(s[i] = -1.958789088e-04f * z[i] + 8.332748271e-03f);
    PAIR(c[i] = 2.454794209e-05f * z[i] - 1.388830304e-03f);
    PAIR(s[i] = s[i] * z[i] - 1.666666466e-01f);
    PAIR(c[i] = c[i] * z[i] + 4.166666466e-02f);
    PAIR(s[i] = s[i] * (z[i] * a[i]) + a[i]);
    PAIR(c[i] = c[i] * (z[i] * z[i]) + (z[i] * -0.5f + 1.0f));
    PAIR(const i32v odd = -(i32v)(quarter[i] & 1);
         cosine[i] = (f32v)((u32v)choose(odd, s[i], c[i]) ^ ((quarter[i] + 1) & 2) << 30);
         sine[i] = (f32v)((u32v)choose(odd, c[i], s[i]) ^ (quarter[i] & 2) << 30));
}

/* Two blocks of normals: elements 4 first[i], ... of chain[i] into out[2 i] and out[2 i + 1]. */
INLINE void normals_of(const stream *s, const uint32_t *chain, const uint32_t *first, f32v *out) {
    u32v even[2], odd[2];
    f32v radius[2], cosine[2], sine[2];
    words_of(s, chain, first, even, odd);
    radius_of(even, radius);
    turn_of(odd, cosine, sine);
    PAIR(cosine[i] *= radius[i]; sine[i] *= radius[i]);
    PAIR(INTERLEAVE(cosine[i], sine[i], out[2 * i], out[2 * i + 1]));
}

/* `count` normals of one chain from element `at` on; writes whole pairs of blocks. */
INLINE void fill_normals(const stream *s, uint32_t chain, int64_t at, int64_t count, float *out) {
    const uint32_t both[2] = {chain, chain};
    for (int64_t done = 0; done < count; done += 2 * BLOCK) {
        const uint32_t from = (uint32_t)((at + done) / 4), first[2] = {from, from + BLOCK / 4};
        f32v n[4];
        normals_of(s, both, first, n);
        PAIR(store(out + done + 2 * i * LANES32, n[2 * i]);
             store(out + done + (2 * i + 1) * LANES32, n[2 * i + 1]));
    }
}

#endif
