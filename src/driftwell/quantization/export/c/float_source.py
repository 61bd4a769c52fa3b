"""The text of a chain of dense layers in single precision: run, Jacobian, self-test, page."""

from __future__ import annotations

from torch import Tensor

from driftwell.quantization.export.c.float_program import ACTIVATIONS, FloatProgram

TOLERANCE = 1e-5
"""Of the self-test: |C - wanted| <= TOLERANCE (1 + |wanted|), some ulps of a sum of 100 terms."""


def float_texts(program: FloatProgram, inputs: Tensor) -> dict[str, str]:
    """Every file of a program, by its name.

    Args:
        program: of `lower_float`.
        inputs: values for the self-test, (N, inputs).
    """
    return {
        "network.h": _header(program),
        "network.c": _source(program),
        "self_test.c": _self_test(program, inputs),
        "README.md": _readme(program, len(inputs)),
    }


def _header(program: FloatProgram) -> str:
    name, big = program.name, program.name.upper()
    return f"""\
/* {name}: dense layers in single precision, written by driftwell */
#ifndef {big}_H
#define {big}_H

#define {big}_IN_SIZE {program.inputs}
#define {big}_OUT_SIZE {program.outputs}

void {name}_run_float(const float *in, float *out);

/* the same, and d out[r] / d in[c] in jacobian[r * {big}_IN_SIZE + c] */
void {name}_jacobian(const float *in, float *out, float *jacobian);

#endif
"""


def _source(program: FloatProgram) -> str:
    name, size, widest = program.name, program.inputs, program.widest
    kinds = dict.fromkeys(layer.activation for layer in program.layers)
    parts = [
        '#include "network.h"\n\n#include <math.h>\n#include <stddef.h>\n',
        *(_activation(kind) for kind in kinds),
        LAYER_C.format(size=size),
    ]
    for n, layer in enumerate(program.layers):
        parts += [_array(f"layer_{n}_weight", layer.weight), _array(f"layer_{n}_bias", layer.bias)]
    parts += [
        "static struct {\n"
        f"    float a[{widest}], b[{widest}], slopes_a[{widest * size}], "
        f"slopes_b[{widest * size}];\n}} memory;\n",
        _run(program),
        f"void {name}_run_float(const float *in, float *out)\n{{\n    run(in, out, NULL);\n}}\n",
        f"void {name}_jacobian(const float *in, float *out, float *jacobian)\n"
        "{\n    run(in, out, jacobian);\n}\n",
    ]
    return "\n".join(parts)


LAYER_C = """\
#define INPUTS {size}

/* out = phi(W in + b), and with slopes its derivatives: phi' W times those of in */
static void layer(const float *weight, const float *bias, int rows, int columns,
                  void (*phi)(float, float *, float *), const float *in, const float *slopes_in,
                  float *out, float *slopes_out)
{{
    for (int r = 0; r < rows; r++) {{
        const float *w = weight + r * columns;
        float u = bias[r], slope;
        for (int c = 0; c < columns; c++)
            u += w[c] * in[c];
        phi(u, out + r, &slope);
        for (int k = 0; slopes_out && k < INPUTS; k++) {{
            float sum = 0.0f;
            for (int c = 0; c < columns; c++)
                sum += w[c] * (slopes_in ? slopes_in[c * INPUTS + k] : c == k ? 1.0f : 0.0f);
            slopes_out[r * INPUTS + k] = slope * sum;
        }}
    }}
}}
"""


def _activation(kind: str) -> str:
    value, slope = ACTIVATIONS[kind]
    return (
        f"static void {_called(kind)}(float u, float *value, float *slope)\n{{\n"
        f"    const float y = {value};\n    *value = y;\n    *slope = {slope};\n}}\n"
    )


def _called(kind: str) -> str:
    return f"phi_{kind or 'identity'}"


def _run(program: FloatProgram) -> str:
    """Layers that read one vector and write the other, in turns."""
    calls, last = [], len(program.layers) - 1
    for n, layer in enumerate(program.layers):
        rows, columns = layer.weight.shape
        source = ("in", "NULL") if n == 0 else _place(n - 1)
        target = ("out", "jacobian") if n == last else _place(n)
        if n != last:
            target = (target[0], f"jacobian ? {target[1]} : NULL")
        calls.append(
            f"    layer(layer_{n}_weight, layer_{n}_bias, {rows}, {columns}, "
            f"{_called(layer.activation)}, {source[0]}, {source[1]}, {target[0]},\n"
            f"          {target[1]});"
        )
    body = "\n".join(calls)
    return f"static void run(const float *in, float *out, float *jacobian)\n{{\n{body}\n}}\n"


def _place(n: int) -> tuple[str, str]:
    letter = "ab"[n % 2]
    return f"memory.{letter}", f"memory.slopes_{letter}"


def _array(name: str, values: Tensor) -> str:
    numbers = [f"{value!r}f" for value in values.flatten().tolist()]
    rows = [", ".join(numbers[n : n + 4]) for n in range(0, len(numbers), 4)]
    body = ",\n    ".join(rows)
    return f"static const float {name}[{len(numbers)}] = {{\n    {body},\n}};\n"


def _self_test(program: FloatProgram, inputs: Tensor) -> str:
    name, big = program.name, program.name.upper()
    return f"""\
#include "network.h"

#include <math.h>
#include <stdio.h>

#define VECTORS {len(inputs)}

{_array("inputs", inputs.float())}
{_array("outputs", program.run(inputs.float()).float())}
int main(void)
{{
    int wrong = 0;
    float found[{big}_OUT_SIZE];
    for (int n = 0; n < VECTORS; n++) {{
        {name}_run_float(inputs + n * {big}_IN_SIZE, found);
        for (int i = 0; i < {big}_OUT_SIZE; i++) {{
            const float wanted = outputs[n * {big}_OUT_SIZE + i];
            wrong += !(fabsf(found[i] - wanted) <= {TOLERANCE}f * (1.0f + fabsf(wanted)));
        }}
    }}
    printf("{name}: %d vectors, %d outputs differ\\n", VECTORS, wrong);
    return wrong != 0;
}}
"""


def _readme(program: FloatProgram, vectors: int) -> str:
    name = program.name
    rows = "\n".join(
        f"| {n} | {layer.weight.shape[1]} | {len(layer.bias)} | {layer.activation or 'none'} |"
        for n, layer in enumerate(program.layers)
    )
    return f"""\
# {name}

Dense layers in single precision, as plain C99 with the mathematics library and without malloc.

| | |
|---|---|
| read-only tables | {program.rom_bytes} bytes |
| memory | {program.ram_bytes} bytes |
| multiply-accumulates a run | {program.macs} |

- `{name}_run_float(in, out)`
- `{name}_jacobian(in, out, jacobian)`: also d out / d in, row by row of the output

| layer | inputs | outputs | activation |
|---|---|---|---|
{rows}

`make` compiles `self_test.c` and runs it: {vectors} vectors must agree to {TOLERANCE:g}.
"""
