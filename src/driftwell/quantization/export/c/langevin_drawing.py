"""The program that draws samples of an exported machine into a picture or onto a terminal."""

from __future__ import annotations

from driftwell.quantization.export.c.langevin_build import SampledProgram


def sample_text(program: SampledProgram, name: str) -> str:
    """``sample.c``: `./sample SEED COUNT [OUT.pgm] [LABEL]`."""
    body = DRAWING if program.decoder is not None else LISTING
    usage = "out.pgm" if program.decoder is not None else "out.txt"
    return filled_text(SAMPLE, {"BODY": body, "USAGE": usage, "NAME": name, "BIG": name.upper()})


def filled_text(text: str, values: dict[str, object]) -> str:
    """A text with each @KEY@ replaced.

    Example:
        >>> filled_text("int @N@;", {"N": "n"})
        'int n;'
    """
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


SAMPLE = """\
#include "../@NAME@.h"

#include <stdio.h>
#include <stdlib.h>

static @NAME@_chain chain;

static void draw(uint64_t seed, uint32_t id, int32_t label)
{
    int32_t step;
    @NAME@_start(&chain, seed, id, label);
    for (step = 0; step < @BIG@_STEPS; step++) {
        @NAME@_step(&chain);
    }
    @NAME@_finish(&chain);
}

@BODY@"""

MAIN = """\
int main(int argc, char **argv)
{
    const int32_t label = argc > 4 ? (int32_t)strtol(argv[4], NULL, 10) : @BIG@_ANY_LABEL;
    FILE *out = stdout;
    uint64_t seed;
    long count;
    if (argc < 3 || argc > 5 || (count = strtol(argv[2], NULL, 10)) < 1 || count > 1000000) {
        fprintf(stderr, "usage: %s SEED COUNT [@USAGE@ or -] [LABEL]\\n", argv[0]);
        return 2;
    }
    if (argc > 4 && (label < 0 || label >= @BIG@_CLASSES)) {
        fprintf(stderr, "LABEL must be 0 to %d\\n", @BIG@_CLASSES - 1);
        return 2;
    }
    seed = (uint64_t)strtoull(argv[1], NULL, 10);
    if (argc > 3 && !(argv[3][0] == '-' && argv[3][1] == 0)) {
        out = fopen(argv[3], "wb");
        if (out == NULL) {
            perror(argv[3]);
            return 1;
        }
    }
    write_samples(out, seed, (uint32_t)count, label);
    if (fflush(out) != 0 || ferror(out)) {
        perror("writing");
        return 1;
    }
    if (out != stdout) {
        fclose(out);
    }
    return 0;
}
"""

DRAWING = (
    """\
#define COLUMNS 8
#define ENLARGE (@BIG@_WIDTH < 32 ? 4 : 1)
#define GREY 96

static uint8_t pixels[@BIG@_PIXELS];
static uint8_t band[@BIG@_HEIGHT][COLUMNS * @BIG@_WIDTH];

/* a band of COLUMNS pictures side by side, the missing ones black */
static void draw_band(uint64_t seed, uint32_t first, uint32_t count, int32_t label)
{
    uint32_t c;
    int32_t y, x;
    for (c = 0; c < COLUMNS; c++) {
        if (first + c < count) {
            draw(seed, first + c, label);
            @NAME@_pixels(&chain, pixels);
        }
        for (y = 0; y < @BIG@_HEIGHT; y++) {
            for (x = 0; x < @BIG@_WIDTH; x++) {
                band[y][c * @BIG@_WIDTH + (uint32_t)x] =
                    first + c < count ? pixels[y * @BIG@_WIDTH + x] : 0;
            }
        }
    }
}

/* a line of a band: every pixel ENLARGE times, a grey one between pictures */
static void write_line(FILE *out, int32_t y)
{
    uint32_t c;
    int32_t x, again;
    fputc(GREY, out);
    for (c = 0; c < COLUMNS; c++) {
        for (x = 0; x < @BIG@_WIDTH; x++) {
            for (again = 0; again < ENLARGE; again++) {
                fputc(y < 0 ? GREY : band[y][c * @BIG@_WIDTH + (uint32_t)x], out);
            }
        }
        fputc(GREY, out);
    }
}

static void write_band(FILE *out)
{
    int32_t y, again;
    for (y = 0; y < @BIG@_HEIGHT; y++) {
        for (again = 0; again < ENLARGE; again++) {
            write_line(out, y);
        }
    }
    write_line(out, -1);
}

static void write_text(FILE *out)
{
    static const char ink[] = " .:-=+*#%@";
    int32_t y, x;
    for (y = 0; y < @BIG@_HEIGHT; y++) {
        for (x = 0; x < COLUMNS * @BIG@_WIDTH; x++) {
            fputc(ink[band[y][x] * 10 / 256], out);
            fputc(ink[band[y][x] * 10 / 256], out);
        }
        fputc('\\n', out);
    }
}

/* a grey picture as a binary PGM file; to a terminal, as text */
static void write_samples(FILE *out, uint64_t seed, uint32_t count, int32_t label)
{
    const uint32_t bands = (count + COLUMNS - 1) / COLUMNS;
    uint32_t b;
    if (out != stdout) {
        fprintf(out, "P5\\n%d %lu\\n255\\n", COLUMNS * (@BIG@_WIDTH * ENLARGE + 1) + 1,
                (unsigned long)bands * (@BIG@_HEIGHT * ENLARGE + 1) + 1);
        write_line(out, -1);
    }
    for (b = 0; b < bands; b++) {
        draw_band(seed, b * COLUMNS, count, label);
        if (out != stdout) {
            write_band(out);
        } else {
            write_text(out);
        }
    }
}

"""
    + MAIN
)

LISTING = (
    """\
/* one sample a line, its numbers as x * 2^-FRACTION */
static void write_samples(FILE *out, uint64_t seed, uint32_t count, int32_t label)
{
    uint32_t id;
    int32_t i;
    for (id = 0; id < count; id++) {
        draw(seed, id, label);
        for (i = 0; i < @BIG@_N; i++) {
            fprintf(out, "%.6f ", (double)chain.x[i] / (double)(1L << @BIG@_FRACTION));
        }
        fputc('\\n', out);
    }
}

"""
    + MAIN
)
