"""A self-test of a training step: losses, gradients and weights against those of PyTorch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from driftwell.quantization.edge.training_plan import TrainingPlan
from driftwell.quantization.edge.training_source import (
    Loss,
    array_text,
    parameters_of,
    target_type,
)
from driftwell.quantization.edge.training_steps import TrainingProgram

TOLERANCE = 1e-5
FLOOR = 0.1
"""|C - wanted| <= TOLERANCE max(FLOOR, largest |wanted|), of losses, of gradients, of weights."""


@final
@dataclass(frozen=True, eq=False)
class TrainingReference:
    """What PyTorch makes of the samples, one a step, in float64.

    Attributes:
        losses: before each step, (N,).
        gradients: of every parameter that learns, in the order layers run, at the first sample.
        weights: of the same, after all steps.
    """

    losses: Tensor
    gradients: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]


def reference(
    program: TrainingProgram, samples: Tensor, targets: Tensor, loss: Loss, rate: float,
    momentum: float,
) -> TrainingReference:  # fmt: skip
    """Run the steps in PyTorch on a copy of the model in float64.

    Args:
        program: what was exported.
        samples: (N, ...).
        targets: classes (N,) or values (N, ...).
        loss: of a sample.
        rate: of learning.
        momentum: 0 for plain descent.
    """
    # weights rounded to float32 first: those are what C begins with
    twin = copy.deepcopy(program.model).float().double()
    names = {id(p): name for name, p in program.model.named_parameters()}
    copies = dict(twin.named_parameters())
    arrays = [p for p in parameters_of(program, "") if p.trained]
    learned = [copies[names[id(p.values)]] for p in arrays]
    optimizer = torch.optim.SGD(learned, lr=rate, momentum=momentum)
    losses: list[Tensor] = []
    gradients: tuple[Tensor, ...] = ()
    for x, t in zip(samples.float().double(), targets, strict=True):
        optimizer.zero_grad()
        found = loss_of(twin(x[None]), t[None], loss)
        found.backward()
        losses.append(found.detach())
        if not gradients:
            gradients = tuple(
                torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learned
            )
        optimizer.step()
    return TrainingReference(
        torch.stack(losses), gradients, tuple(p.detach().clone() for p in learned)
    )


def loss_of(y: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """Cross entropy of the softmax, or the mean of (y - t)^2 over entries."""
    if loss == "cross_entropy":
        return F.cross_entropy(y.flatten(1), target)
    return F.mse_loss(y, target.to(y.dtype).reshape(y.shape))


def self_test_text(
    program: TrainingProgram, plan: TrainingPlan, name: str, samples: Tensor, targets: Tensor,
    loss: Loss, rate: float, momentum: float,
) -> str:  # fmt: skip
    """``self_test.c``: exit status 0 if all agrees; prints the largest differences."""
    wanted = reference(program, samples, targets, loss, rate, momentum)
    learned = [p for p in parameters_of(program, name) if p.trained]
    heavy = plan.optimizer == "momentum"
    arrays = [
        array_text("samples", samples, "static const float"),
        array_text(
            "targets", targets, "static const int" if loss == "cross_entropy" else
            "static const float",
        ),
        array_text("losses", wanted.losses, "static const float"),
    ]  # fmt: skip
    scales = {"gradient": _scale(wanted.gradients), "weight": _scale(wanted.weights)}
    compare: dict[str, list[str]] = {"gradient": [], "weight": []}
    for n, p in enumerate(learned):
        for kind, found, values in (
            ("gradient", f"{p.name}_gradient", wanted.gradients[n]),
            ("weight", p.name, wanted.weights[n]),
        ):
            arrays.append(array_text(f"{kind}_{n}", values, "static const float"))
            compare[kind].append(
                f"worst({found}, {kind}_{n}, {values.numel()}, {scales[kind]!r}f, &{kind}s);"
            )  # fmt: skip
    big, velocity = name.upper(), f", {momentum!r}f" if heavy else ""
    target = "targets[n]" if target_type(loss) == "int " else f"targets + n * {big}_OUT_SIZE"
    gradients = "\n            ".join(compare["gradient"])
    weights = "\n    ".join(compare["weight"])
    return f"""\
#include "network.h"

#include <math.h>
#include <stdio.h>

#define SAMPLES {len(samples)}

{chr(10).join(arrays)}
/* the largest |found - wanted| / scale so far */
static void worst(const float *found, const float *wanted, int size, float scale, float *most)
{{
    for (int i = 0; i < size; i++) {{
        const float off = fabsf(found[i] - wanted[i]) / scale;
        if (!(off <= *most))
            *most = off;
    }}
}}

int main(void)
{{
    float found[SAMPLES], all = 0.0f, gradients = 0.0f, weights = 0.0f;
    for (int n = 0; n < SAMPLES; n++) {{
        found[n] = {name}_gradient(samples + n * {big}_IN_SIZE, {target});
        if (n == 0) {{
            {gradients}
        }}
        {name}_update({rate!r}f{velocity});
    }}
    worst(found, losses, SAMPLES, {_scale((wanted.losses,))!r}f, &all);
    {weights}
    printf("{name}: %d steps, largest differences of losses %.1e, gradients %.1e, weights %.1e\\n",
           SAMPLES, (double)all, (double)gradients, (double)weights);
    return !(all <= {TOLERANCE}f && gradients <= {TOLERANCE}f && weights <= {TOLERANCE}f);
}}
"""


def _scale(wanted: tuple[Tensor, ...]) -> float:
    return max(FLOOR, *(float(each.abs().max()) for each in wanted))
