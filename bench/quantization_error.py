"""Output error, held-out loss and seconds of post-training methods on four small networks.

    DRIFTWELL_DATA=FOLDER python bench/quantization_error.py        about ten minutes

Networks: a character transformer (width 128, 3 blocks, context 64, 900 updates) on tinyshakespeare;
a perceptron 784-512-512-10, a patch transformer (width 96, 2 blocks, 7 x 7 patches) and a
convolutional network on Fashion-MNIST. Weights only, a scale and zero per output channel, heads and
embeddings in float; layer by layer on the float network's inputs ("error", "method s") and by
`quantize`, each layer on inputs from the rounded layers before it ("loss", "whole s").
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timing import Goal, options, say_goals, say_machine, table, write_results
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from driftwell.data import load
from driftwell.data.texts import Characters, read_text, windows
from driftwell.models.sequence.transformer import CharacterTransformer, TransformerBlock
from driftwell.quantization.formats import Uniform
from driftwell.quantization.post_training import (
    COMQ,
    GPTQ,
    GPTQThenCOMQ,
    Gram,
    MagR,
    Method,
    RoundToNearest,
    output_error,
)  # fmt: skip
from driftwell.quantization.post_training.calibration import Inputs
from driftwell.quantization.post_training.verb import quantize

METHODS: dict[str, Method] = {
    "rounding": RoundToNearest(),
    "rounding, clip on output": RoundToNearest("output"),
    "GPTQ": GPTQ(),
    "COMQ": COMQ(),
    "MagR + GPTQ": MagR(),
    "GPTQ then COMQ": GPTQThenCOMQ(),
    "the same, whole zeros": GPTQThenCOMQ(
        then=COMQ(sweeps=2, order="cyclic", fit="whole zero", pairs=1)
    ),
}
OURS = "GPTQ then COMQ"
Draw = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Problem:
    """A trained network with its calibration inputs, held-out batches and layers left in float."""

    name: str
    model: nn.Module
    calibration: list[Tensor]
    held_out: list[tuple[Tensor, Tensor]]
    skip: tuple[str, ...]


class PatchTransformer(nn.Module):
    """16 patches of 7 x 7 pixels through transformer blocks; the last one tells the class."""

    def __init__(self, draw: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Linear(49, 96)
        self.position = nn.Parameter(0.02 * torch.randn(16, 96, generator=draw))
        self.blocks = nn.ModuleList(TransformerBlock(96, 4, draw=draw) for _ in range(2))
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 1, 28, 28) -> logits (B, 10)."""
        patches = x.reshape(-1, 4, 7, 4, 7).transpose(2, 3).reshape(-1, 16, 49)
        z = self.embedding(patches) + self.position
        for block in self.blocks:
            z = block(z)
        logits: Tensor = self.head(z[:, -1])
        return logits


def main(given: list[str] | None = None) -> int:
    chosen = options(__doc__, given=given)
    say_machine()
    measured, rows = {}, []
    for make in (_characters, _perceptron, _patches, _convolutions):
        problem = make(20 if chosen.quick else 900)
        measured[problem.name] = _measure(problem)
        rows += _rows(problem.name, measured[problem.name])
    heads = ["network", "bits", "method", "error", "loss", "method s", "whole s"]
    print(table("weights of 2 and 3 bits", heads, rows))
    goals = _goals(measured)
    say_goals(goals)
    write_results("quantization_error", {"networks": measured}, goals)
    return 0


# ---------------------------------------------------------------- measuring

Row = dict[str, float]


def _measure(problem: Problem) -> dict[str, Row]:
    layers = _layers(problem)
    found: dict[str, Row] = {"float": {"loss": _loss(problem, problem.model)}}
    for bits in (2, 3):
        for name, method in METHODS.items():
            began = time.perf_counter()
            coded = [method.quantize(w, gram, Uniform(bits)) for w, gram in layers]
            seconds = time.perf_counter() - began
            errors = [
                output_error(w, q.decode(), g) for (w, g), q in zip(layers, coded, strict=True)
            ]
            began = time.perf_counter()
            result = quantize(
                problem.model, Inputs(problem.calibration), format=Uniform(bits), method=method,
                skip=problem.skip,
            )  # fmt: skip
            whole = time.perf_counter() - began
            found[f"{bits} {name}"] = {
                "error": sum(errors) / len(errors), "loss": _loss(problem, result.model),
                "method_seconds": seconds, "whole_seconds": whole,
            }  # fmt: skip
    return found


@torch.no_grad()
def _loss(problem: Problem, model: nn.Module) -> float:
    losses = [cross_entropy(model(x).flatten(0, -2), y.flatten()) for x, y in problem.held_out]
    return float(torch.stack(losses).mean())


def _layers(problem: Problem) -> list[tuple[Tensor, Tensor]]:
    """Weights (R, ...) and Gram matrices of the layers that are quantized, on float inputs."""
    grams, weights = {}, {}
    hooks = []
    for name, layer in problem.model.named_modules():
        if name in problem.skip or not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        weights[name] = layer.weight.detach()
        grams[name] = Gram(weights[name][0].numel())
        hooks.append(layer.register_forward_pre_hook(_watch(grams[name])))
    with torch.no_grad():
        for x in problem.calibration:
            problem.model(x)
    for hook in hooks:
        hook.remove()
    return [(weights[name], grams[name].matrix) for name in weights]


def _watch(gram: Gram) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def see(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0]
        if isinstance(layer, nn.Conv2d):
            x = nn.functional.unfold(x, layer.kernel_size, padding=layer.padding,
                                     stride=layer.stride).mT  # fmt: skip
        gram.update(x)

    return see


def _rows(name: str, found: dict[str, Row]) -> list[list[object]]:
    rows: list[list[object]] = [[name, "", "float", None, found["float"]["loss"], None, None]]
    for key, row in found.items():
        if key != "float":
            rows.append([name, key[0], key[2:], *row.values()])
    return rows


def _goals(measured: dict[str, dict[str, Row]]) -> list[Goal]:
    def mean(share: Callable[[dict[str, Row]], float]) -> float:
        return sum(share(found) for found in measured.values()) / len(measured)

    def recovered(found: dict[str, Row]) -> float:
        lost = found["2 rounding"]["loss"] - found["float"]["loss"]
        return (found["2 rounding"]["loss"] - found[f"2 {OURS}"]["loss"]) / lost

    def share(key: str, bits: int) -> Callable[[dict[str, Row]], float]:
        return lambda found: found[f"{bits} {OURS}"][key] / found[f"{bits} GPTQ"][key]

    goals = []
    for bits, bound in ((2, 0.70), (3, 0.85)):
        value = mean(share("error", bits))
        goals.append(Goal(f"error at {bits} bits <= {bound} of GPTQ's", value, value <= bound))
    value = mean(recovered)
    goals.append(Goal("of rounding's lost loss at 2 bits recovered >= 0.85", value, value >= 0.85))
    value = mean(share("whole_seconds", 2))
    goals.append(Goal("seconds of quantize <= 1.5 of GPTQ's", value, value <= 1.5))
    return goals


# ---------------------------------------------------------------- networks


def _trained(model: nn.Module, draw: Draw, updates: int, rate: float) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=updates)
    for step in range(updates):
        x, y = draw(step)
        optimizer.zero_grad()
        cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def _characters(updates: int) -> Problem:
    text = read_text("tinyshakespeare")
    letters = Characters.of(text)
    numbers = letters.encode(text)
    learn, judge = numbers[: len(numbers) * 9 // 10], numbers[len(numbers) * 9 // 10 :]
    model = CharacterTransformer(len(letters.alphabet), seed=0)
    _trained(model, lambda step: windows(learn, 64, 32, seed=0, step=step), updates, 3e-3)
    calibration = [windows(learn, 64, 32, seed=1, step=step)[0] for step in range(4)]
    held_out = [windows(judge, 64, 64, seed=2, step=step) for step in range(12)]
    return Problem("characters", model, calibration, held_out, ("embedding", "position", "head"))


def _images(name: str, model: nn.Module, updates: int, skip: tuple[str, ...]) -> Problem:
    train, test = load("fashion", "train"), load("fashion", "test")
    x, y = train.images.reshape(-1, 1, 28, 28).float(), train.labels
    u, v = test.images.reshape(-1, 1, 28, 28).float(), test.labels
    draw = torch.Generator().manual_seed(0)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (64,), generator=draw)
        return x[rows], y[rows]

    _trained(model, batch, updates, 2e-3)
    held_out = [(u[i : i + 500], v[i : i + 500]) for i in range(0, 5000, 500)]
    return Problem(name, model, [x[i : i + 256] for i in range(0, 2048, 256)], held_out, skip)


def _perceptron(updates: int) -> Problem:
    parts = (nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    return _images("perceptron", _drawn(*parts, nn.Linear(512, 10)), updates, ("5",))


def _patches(updates: int) -> Problem:
    model = _drawn(PatchTransformer(torch.Generator().manual_seed(0)))
    return _images("patches", model, updates, ("0.head",))


def _convolutions(updates: int) -> Problem:
    parts = (
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    return _images("convolutions", _drawn(*parts), updates, ("9",))


def _drawn(*parts: nn.Module) -> nn.Module:
    """The parts in a row, their linear maps drawn from a seed of their own."""
    draw, model = torch.Generator().manual_seed(0), nn.Sequential(*parts)
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) / fan**0.5)
    return model


if __name__ == "__main__":
    raise SystemExit(main())
