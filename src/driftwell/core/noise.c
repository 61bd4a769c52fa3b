/* Keyed noise for CPU tensors: words, uniforms and normals. See philox.h and noise.py.
 *
 * Every function fills out[row][element] for `rows` chains of `elements` numbers each.
 */
#include "philox.h"

/* a piece of one row: `count` numbers from element 4 * first on */
typedef struct {
    const stream *s;
    uint32_t chain, first;
    int64_t count;
} piece;
typedef void filler(const piece *p, void *out);

/* numbers of one row that a thread takes at a time; a multiple of BLOCK */
#define PIECE 4096
/* fewer numbers than this are not worth waking a thread for */
#define ALONE 4096

/* What is computed never depends on how the pieces are shared among threads. */
static void fill(filler *fill_piece, size_t size, const int64_t *chains, int64_t rows,
                 int64_t elements, uint64_t seed, uint32_t step, uint32_t tag, int threads,
                 void *out) {
    const stream s = open_stream(seed, step, tag);
    const int64_t pieces = (elements + PIECE - 1) / PIECE;
    if (rows * elements < ALONE) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t job = 0; job < rows * pieces; job++) {
        const int64_t row = job / pieces, start = job % pieces * PIECE;
        const int64_t left = elements - start;
        const piece p = {&s, (uint32_t)chains[row], (uint32_t)(start / 4),
                         left < PIECE ? left : PIECE};
        fill_piece(&p, (char *)out + (size_t)(row * elements + start) * size);
    }
}

/* two blocks go together */
#define WORDS (2 * BLOCK)

/* the next words in the order of elements, and how many of them are wanted */
INLINE int64_t next_words(const piece *p, int64_t done, uint32_t *word) {
    const uint32_t chain[2] = {p->chain, p->chain}, at = p->first + (uint32_t)(done / 4);
    const uint32_t first[2] = {at, at + BLOCK / 4};
    u32v even[2], odd[2], ordered[4];
    words_of(p->s, chain, first, even, odd);
    PAIR(INTERLEAVE(even[i], odd[i], ordered[2 * i], ordered[2 * i + 1]));
    memcpy(word, ordered, sizeof ordered);
    return p->count - done < WORDS ? p->count - done : WORDS;
}

static void fill_words(const piece *p, void *out) {
    int64_t *to = out;
    for (int64_t done = 0; done < p->count; done += WORDS) {
        uint32_t word[WORDS];
        const int64_t wanted = next_words(p, done, word);
        for (int64_t i = 0; i < wanted; i++) to[done + i] = word[i];
    }
}

static void fill_uniform_f32(const piece *p, void *out) {
    float *to = out;
    for (int64_t done = 0; done < p->count; done += WORDS) {
        uint32_t word[WORDS];
        const int64_t wanted = next_words(p, done, word);
        for (int64_t i = 0; i < wanted; i++)
            to[done + i] = ((float)(int32_t)(word[i] >> 9) + 0.5f) * 0x1p-23f;
    }
}

static void fill_uniform_f64(const piece *p, void *out) {
    double *to = out;
    for (int64_t done = 0; done < p->count; done += WORDS) {
        uint32_t word[WORDS];
        const int64_t wanted = next_words(p, done, word);
        for (int64_t i = 0; i < wanted; i++) to[done + i] = ((double)word[i] + 0.5) * 0x1p-32;
    }
}

static void fill_normal_f32(const piece *p, void *out) {
    const int64_t whole = p->count / WORDS * WORDS;
    float *to = out, last[WORDS];
    fill_normals(p->s, p->chain, 4 * (int64_t)p->first, whole, to);
    if (whole < p->count) {
        fill_normals(p->s, p->chain, 4 * (int64_t)p->first + whole, WORDS, last);
        memcpy(to + whole, last, (size_t)(p->count - whole) * sizeof(float));
    }
}

/* radius_of and turn_of in float64, one number at a time in a form the compiler vectorises */
INLINE double radius_f64(uint32_t w) {
    const int high = w >> 31;
    const double v = ((double)(high ? ~w : w) + 0.5) * 0x1p-32, y = high ? 1.0 - v : v;
    int64_t bits;
    memcpy(&bits, &y, sizeof bits);
    const int64_t k = (bits - 0x3fe6a09e667f3bcd) >> 52;
    bits -= k << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    const double f = high && k == 0 ? -v : m - 1.0;
    const double r = f / (2.0 + f), z = r * r; /* ln(1 + f) = 2 artanh r */
    double p = 0.14616449685043406;
    p = p * z + 0.15331721600556042;
    p = p * z + 0.18182889125261723;
    p = p * z + 0.22222211134795081;
    p = p * z + 0.28571428625975487;
    p = p * z + 0.39999999999899505;
    p = p * z + 0.66666666666666696;
    return __builtin_sqrt(-2.0 * ((double)k * 0.69314718055994531 + (r * z * p + 2.0 * r)));
}

INLINE void turn_f64(uint32_t w, double *cosine, double *sine) {
    const uint32_t quarter = (w + 0x20000000u) >> 30;
    const double a = ((double)(int32_t)(w - (quarter << 30)) + 0.5) * 1.4629180792671596e-09;
    const double z = a * a;
    double s = -7.5866971177069183e-13;
    s = s * z + 1.6058531618986147e-10;
    s = s * z - 2.5052106232447578e-08;
    s = s * z + 2.7557319219339167e-06;
    s = s * z - 0.00019841269841265065;
    s = s * z + 0.0083333333333333315;
    s = s * z - 0.16666666666666666;
    s = s * (z * a) + a;
    double c = -1.1382632425521717e-11;
    c = c * z + 2.0876146268403199e-09;
    c = c * z - 2.7557317271729793e-07;
    c = c * z + 2.4801587298765689e-05;
    c = c * z - 0.0013888888888887398;
    c = c * z + 0.041666666666666664;
    c = c * (z * z) + (1.0 - 0.5 * z);
    const double x = quarter & 1 ? s : c, y = quarter & 1 ? c : s;
    *cosine = (quarter + 1) & 2 ? -x : x;
    *sine = quarter & 2 ? -y : y;
}

static void fill_normal_f64(const piece *p, void *out) {
    double *to = out;
    for (int64_t done = 0; done < p->count; done += WORDS) {
        uint32_t word[WORDS];
        double n[WORDS];
        const int64_t wanted = next_words(p, done, word);
        for (int i = 0; i < WORDS; i += 2) {
            double cosine, sine;
            const double radius = radius_f64(word[i]);
            turn_f64(word[i + 1], &cosine, &sine);
            n[i] = radius * cosine;
            n[i + 1] = radius * sine;
        }
        memcpy(to + done, n, (size_t)wanted * sizeof(double));
    }
}

#define EXPORT(name, type)                                                                       \
    void driftwell_##name(const int64_t *chains, int64_t rows, int64_t elements, uint64_t seed,  \
                          uint32_t step, uint32_t tag, int threads, type *out) {                 \
        fill(fill_##name, sizeof(type), chains, rows, elements, seed, step, tag, threads, out);  \
    }

EXPORT(words, int64_t)
EXPORT(uniform_f32, float)
EXPORT(uniform_f64, double)
EXPORT(normal_f32, float)
EXPORT(normal_f64, double)
