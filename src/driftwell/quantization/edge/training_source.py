"""The text of a training step in C: its arrays, its way forward, its way back, its update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from driftwell.quantization.edge.training_kernels import KERNELS_C, TYPES_C
from driftwell.quantization.edge.training_memory import TrainingMemory, plan_memory
from driftwell.quantization.edge.training_plan import TrainingPlan
from driftwell.quantization.edge.training_steps import (
    ACTIVATIONS,
    TrainingOperation,
    TrainingProgram,
    Window,
)
from driftwell.quantization.export.c.source import needed

Loss = Literal["cross_entropy", "mse"]


@final
@dataclass(frozen=True, eq=False)
class Parameter:
    """An array of weights or biases in C.

    Attributes:
        name: in C; that of its gradient ends in ``_gradient``, of its velocity in ``_velocity``.
        values: to begin with.
        trained: whether it has a gradient.
    """

    name: str
    values: Tensor
    trained: bool


def parameters_of(program: TrainingProgram, name: str) -> tuple[Parameter, ...]:
    """All arrays of weights and biases, in the order the layers run."""
    found = []
    for n, layer in enumerate(program.layers):
        for kind, values in (("weight", layer.weight), ("bias", layer.bias)):
            if values is not None:
                found.append(Parameter(f"{name}_{kind}_{n}", values, layer.trained))
    return tuple(found)


def header_text(program: TrainingProgram, plan: TrainingPlan, name: str, loss: Loss) -> str:
    """``network.h``: sizes, arrays and functions."""
    big = name.upper()
    target = target_type(loss)
    arrays = []
    for p in parameters_of(program, name):
        arrays += [f"extern float {each}[{p.values.numel()}];" for each in _arrays(p, plan)]
    return f"""\
/* {name}: a network that learns a sample at a time, in single precision, written by driftwell */
#ifndef {big}_H
#define {big}_H

#define {big}_IN_SIZE {program.sizes[program.input]}
#define {big}_OUT_SIZE {program.sizes[program.output]}
#define {big}_TRAINING_BYTES {plan.total_bytes}

/* what is learned: save it, load it, share it */
{chr(10).join(arrays)}

void {name}_run(const float *in, float *out);

/* the loss of a sample; its gradients are added to the _gradient arrays */
float {name}_gradient(const float *in, {target}target);

/* one step of descent along the gradients, which are then cleared */
void {name}_update(float rate{_momentum(plan)});

/* both */
float {name}_step(const float *in, {target}target, float rate{_momentum(plan)});

#endif
"""


def source_text(program: TrainingProgram, plan: TrainingPlan, name: str, loss: Loss) -> str:
    """``network.c``: functions of layers, arrays, forward, gradient, update."""
    memory = plan_memory(program)
    forward = _forward(program, memory, name)
    ending = _loss(program, memory, loss)
    back = _back(program, memory, name)
    update = _update(program, plan, name)
    out, size = memory.value(program.output), program.sizes[program.output]
    result = [f"dw_copy(memory + {out}, out, {size});"]
    given, passed = _momentum(plan), ", momentum" * (plan.optimizer == "momentum")
    target = target_type(loss)
    parts = [
        '#include "network.h"\n\n#include <math.h>\n#include <stddef.h>\n',
        TYPES_C,
        *needed((KERNELS_C,), [*forward, ending, *back, *update, *result]),
        *(array_text(p.name, p.values) for p in parameters_of(program, name)),
        *(f"float {each}[{p.values.numel()}];" for p in parameters_of(program, name)
          for each in _arrays(p, plan)[1:]),
        f"\n/* activations, their gradients and im2col columns; see README.md */\n"
        f"static float memory[{memory.entries}];\n",
        *_descriptors(program, plan),
        _function("static void forward(const float *in)", forward),
        _function(f"void {name}_run(const float *in, float *out)", ["forward(in);", *result]),
        _function(
            f"float {name}_gradient(const float *in, {target}target)",
            ["float loss;", "forward(in);", ending, *back, "return loss;"],
        ),
        _function(f"void {name}_update(float rate{given})", update),
        _function(
            f"float {name}_step(const float *in, {target}target, float rate{given})",
            [f"const float loss = {name}_gradient(in, target);",
             f"{name}_update(rate{passed});", "return loss;"],
        ),
    ]  # fmt: skip
    return "\n".join(parts)


def array_text(name: str, values: Tensor, c_type: str = "float") -> str:
    """An array with its numbers; whole ones if the type is not float."""
    numbers = [
        f"{value!r}f" if c_type.endswith("float") else str(int(value))
        for value in values.detach().float().flatten().tolist()
    ]
    rows = [", ".join(numbers[n : n + 6]) for n in range(0, len(numbers), 6)]
    body = ",\n    ".join(rows)
    return f"{c_type} {name}[{len(numbers)}] = {{\n    {body},\n}};\n"


def target_type(loss: Loss) -> str:
    """Type of a target: the number of a class, or values."""
    return "int " if loss == "cross_entropy" else "const float *"


def _arrays(p: Parameter, plan: TrainingPlan) -> list[str]:
    """Names of the arrays that belong to a parameter."""
    learned = [f"{p.name}_gradient"] + [f"{p.name}_velocity"] * (plan.optimizer == "momentum")
    return [p.name] + learned * p.trained


def _momentum(plan: TrainingPlan) -> str:
    return ", float momentum" if plan.optimizer == "momentum" else ""


def _function(head: str, statements: list[str]) -> str:
    body = "\n".join(f"    {line}" for line in statements)
    return f"{head}\n{{\n{body}\n}}\n"


def _descriptors(program: TrainingProgram, plan: TrainingPlan) -> list[str]:
    """A constant for each layer with weights, and one for each pool."""
    texts = []
    for n, (operation, layer) in enumerate(zip(program.operations, plan.layers, strict=True)):
        if operation.window is None:
            continue
        if operation.weight is None:
            texts.append(
                f"static const dw_window window_{n} = {_window(operation.window)};"
            )  # fmt: skip
            continue
        done = iter(
            _numbers((p.rows, p.columns, p.inner, t.rows, t.columns, t.inner))
            for p, t in zip(layer.products, layer.tiles, strict=True)
        )
        none = _numbers((0,) * 6)
        forward = next(done)
        weights = next(done) if operation.trained else none
        back = next(done, none)
        texts.append(
            f"static const dw_layer layer_{n} = {{\n    {operation.groups}, "
            f"{_window(operation.window)},\n    {forward}, {weights}, {back}\n}};"
        )
    return [*texts, ""]


def _window(w: Window) -> str:
    return _numbers((w.channels, *w.image, *w.kernel, *w.stride, *w.padding, *w.dilation, *w.out))


def _numbers(values: tuple[int, ...]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"


def _forward(program: TrainingProgram, memory: TrainingMemory, name: str) -> list[str]:
    lines: list[str] = []
    layer = 0
    for n, operation in enumerate(program.operations):
        y, size = f"memory + {memory.value(operation.output)}", program.sizes[operation.output]
        x = [_value(program, memory, each) for each in operation.inputs]
        if operation.weight is not None:
            weight, bias = _weights(operation, name, layer)
            columns = _columns(operation, memory, n)
            lines.append(f"dw_forward(&layer_{n}, {weight}, {bias}, {x[0]}, {columns}, {y});")
            layer += 1
        elif operation.kind == "add":
            lines += [f"dw_copy({x[0]}, {y}, {size});", f"dw_add({x[1]}, {y}, {size});"]
        elif operation.kind in ACTIVATIONS:
            lines += [f"dw_copy({x[0]}, {y}, {size});"] * (x[0] != y)
            lines.append(f"dw_{operation.kind}({y}, {size});")
        else:
            lines.append(f"dw_{operation.kind.replace(' ', '_')}(&window_{n}, {x[0]}, {y});")
    return lines


def _back(program: TrainingProgram, memory: TrainingMemory, name: str) -> list[str]:
    lines: list[str] = []
    layer, count = len(program.layers), len(program.operations)
    begun = {memory.homes.get(program.output, program.output)}
    for n in range(count - 1, -1, -1):
        operation = program.operations[n]
        layer -= operation.weight is not None
        if not program.has_gradient(operation.output):
            continue
        for each in operation.inputs:
            home = memory.homes.get(each, each)
            if program.has_gradient(each) and home not in begun:
                begun.add(home)
                lines.append(f"dw_zero(memory + {memory.gradient(each)}, {program.sizes[each]});")
        dy = f"memory + {memory.gradient(operation.output)}"
        dx = [
            f"memory + {memory.gradient(each)}" if program.has_gradient(each) else ""
            for each in operation.inputs
        ]
        if operation.weight is not None:
            lines += _layer_back(program, memory, operation, 2 * count - n, n, layer, name)
        elif operation.kind == "add":
            size = program.sizes[operation.output]
            lines += [f"dw_add({dy}, {each}, {size});" for each in dx if each]
        elif operation.kind in ACTIVATIONS:
            size = program.sizes[operation.output]
            y = f"memory + {memory.value(operation.output)}"
            lines.append(f"dw_{operation.kind}_back({y}, {dy}, {size});")
            lines += [f"dw_add({dy}, {dx[0]}, {size});"] * (dx[0] != dy)
        else:
            kind = operation.kind.replace(" ", "_")
            x = f"{_value(program, memory, operation.inputs[0])}, " * (kind == "max_pool")
            lines.append(f"dw_{kind}_back(&window_{n}, {x}{dy}, {dx[0]});")
    return lines


def _layer_back(
    program: TrainingProgram, memory: TrainingMemory, operation: TrainingOperation, moment: int,
    n: int, layer: int, name: str,
) -> list[str]:  # fmt: skip
    source = operation.inputs[0]
    dy = f"memory + {memory.gradient(operation.output)}"
    weight, bias = _weights(operation, name, layer)
    columns = _columns(operation, memory, moment)
    lines = []
    if operation.trained:
        x = _value(program, memory, source)
        dbias = "NULL" if bias == "NULL" else f"{bias}_gradient"
        lines.append(f"dw_learn(&layer_{n}, {x}, {dy}, {columns}, {weight}_gradient, {dbias});")
    if program.has_gradient(source):
        dx = f"memory + {memory.gradient(source)}"
        lines.append(f"dw_back(&layer_{n}, {weight}, {dy}, {columns}, {dx});")
    return lines


def _loss(program: TrainingProgram, memory: TrainingMemory, loss: Loss) -> str:
    called = "dw_cross_entropy" if loss == "cross_entropy" else "dw_squares"
    y, dy = memory.value(program.output), memory.gradient(program.output)
    size = program.sizes[program.output]
    return f"loss = {called}(memory + {y}, target, memory + {dy}, {size});"


def _update(program: TrainingProgram, plan: TrainingPlan, name: str) -> list[str]:
    heavy = plan.optimizer == "momentum"
    factor = "momentum" if heavy else "0.0f"
    lines = []
    for p in parameters_of(program, name):
        velocity = f"{p.name}_velocity" if heavy else "NULL"
        if p.trained:
            lines.append(
                f"dw_descend({p.name}, {p.name}_gradient, {velocity}, {p.values.numel()}, rate, "
                f"{factor});"
            )
    return lines


def _value(program: TrainingProgram, memory: TrainingMemory, name: str) -> str:
    return "in" if name == program.input else f"memory + {memory.value(name)}"


def _columns(operation: TrainingOperation, memory: TrainingMemory, moment: int) -> str:
    return f"memory + {memory.columns(moment)}" if operation.column_entries else "NULL"


def _weights(operation: TrainingOperation, name: str, layer: int) -> tuple[str, str]:
    bias = "NULL" if operation.bias is None else f"{name}_bias_{layer}"
    return f"{name}_weight_{layer}", bias
