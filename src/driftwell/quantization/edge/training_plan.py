"""What a training step costs on a small device: bytes, multiplications, tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.quantization.edge.training_lowering import lower_training
from driftwell.quantization.edge.training_memory import plan_memory
from driftwell.quantization.edge.training_steps import TrainingOperation, TrainingProgram
from driftwell.quantization.edge.training_tiles import Product, Tile, choose_tile

PULP_TRAINLIB = Paper(
    "nadalini2023reduced",
    "Reduced Precision Floating-Point Optimization for Deep Neural Network On-Device Learning on "
    "MicroControllers",
    "Nadalini, Davide and Rusci, Manuele and Benini, Luca and Conti, Francesco",
    2023,
    arxiv="2305.19167",
)
Precision = Literal["float32", "float16"]
Optimizer = Literal["sgd", "momentum"]
WIDTHS: dict[str, int] = {"float32": 4, "float16": 2}
COLUMNS = ("layer", "kind", "weights", "gradients", "in", "out", "im2col", "MACs", "dW", "dX",
           "tile m x n x k")  # fmt: skip


@final
@dataclass(frozen=True)
class LayerPlan:
    """What one layer of a training step costs at batch 1.

    Attributes:
        name: of the layer.
        kind: see `TrainingOperation`.
        weight_bytes: of weight and bias.
        gradient_bytes: of their gradients; 0 if frozen.
        input_bytes: of its inputs.
        output_bytes: of its output.
        column_bytes: of its im2col buffer.
        products: on the way there, for the weights, for the input; without those it does not do.
        macs: multiply-accumulates of these three; 0 for those it does not do.
        tiles: one a product.
    """

    name: str
    kind: str
    weight_bytes: int
    gradient_bytes: int
    input_bytes: int
    output_bytes: int
    column_bytes: int
    products: tuple[Product, ...]
    macs: tuple[int, int, int]
    tiles: tuple[Tile, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the layer by itself: weights, gradients, activations, im2col buffer."""
        own = self.weight_bytes + self.gradient_bytes + self.column_bytes
        return own + self.input_bytes + self.output_bytes


@final
@dataclass(frozen=True)
class TrainingPlan:
    """What a training step costs at batch 1.

    Attributes:
        layers: in the order they run.
        precision: of what is stored.
        optimizer: ``"sgd"`` or ``"momentum"``.
        fast_bytes: of the memory that tiles fit.
        input_bytes: of a sample, in the caller's memory and in no sum here.
        weight_bytes: of all parameters.
        gradient_bytes: of the gradients of those that learn.
        optimizer_bytes: velocities, and float32 masters of float16 weights.
        arena_bytes: of activations, their gradients and im2col buffers, which share memory.
        peak_bytes: of these at the worst moment; what first fit loses is arena - peak.
    """

    layers: tuple[LayerPlan, ...]
    precision: Precision
    optimizer: Optimizer
    fast_bytes: int
    input_bytes: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    arena_bytes: int
    peak_bytes: int

    @property
    def total_bytes(self) -> int:
        """All memory of a step but the caller's sample."""
        kept = self.weight_bytes + self.gradient_bytes + self.optimizer_bytes
        return kept + self.arena_bytes

    @property
    def unshared_bytes(self) -> int:
        """Sum over layers of what each needs by itself."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def macs(self) -> tuple[int, int, int]:
        """Multiply-accumulates forward, for the weights, for the inputs."""
        forward, weights, inputs = zip(*(layer.macs for layer in self.layers), strict=True)
        return sum(forward), sum(weights), sum(inputs)

    def table(self) -> str:
        """The plan as text, a line a layer, bytes and multiply-accumulates; totals below.

        Example:
            >>> print(plan_training(nn.Linear(3, 2), (3,)).table().splitlines()[0][:33])
            layer    kind    weights  gradien
        """
        rows = [COLUMNS, *(_row(layer) for layer in self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
        forward, weights, inputs = self.macs
        return "\n".join(
            [line.rstrip() for line in lines]
            + [
                "",
                f"{self.precision}, batch 1, {self.optimizer}; tiles fit {self.fast_bytes} bytes",
                f"multiply-accumulates  {forward} + {weights} + {inputs} = {sum(self.macs)}",
                f"weights               {self.weight_bytes} bytes",
                f"gradients             {self.gradient_bytes} bytes",
                f"optimizer             {self.optimizer_bytes} bytes",
                f"shared memory         {self.arena_bytes} bytes, {self.peak_bytes} at the peak",
                f"together              {self.total_bytes} bytes",
            ]
        )


def plan_training(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    precision: Precision = "float32",
    optimizer: Optimizer = "sgd",
    master: bool = True,
    fast_bytes: int = 64 * 1024,
) -> TrainingPlan:
    """Memory, multiplications and tiles of a training step at batch 1, from Nadalini et al.,
    *Reduced Precision Floating-Point Optimization for Deep Neural Network On-Device Learning on
    MicroControllers*, 2023, arXiv:2305.19167.

    Every layer with weights is three products of matrices, with col(X) the im2col columns of X:

        Y = W col(X),    dW = dY col(X)^T,    dcol(X) = W^T dY

    A layer needs weights + gradients + activations in and out + an im2col buffer. Over the whole
    step an activation is kept until the way back has looked at it for the last time, gradients of
    activations and im2col buffers come and go, and what is not needed at the same moment shares a
    place. Each product is cut into tiles that fit the fast memory and carry the fewest entries.

    Args:
        model: of the layers of `lower_training`; frozen ones have no gradients.
        input_shape: of one sample, without the batch.
        precision: of weights, gradients and activations; sums are float32.
        optimizer: ``"momentum"`` keeps a velocity of each parameter.
        master: keep float32 masters of float16 weights; see `MasterWeights`.
        fast_bytes: memory that the tiles of a product fit, such as a level-1 cache.

    Raises:
        InvalidInput: a layer that cannot be carried, a shape the model does not run on, an
            unknown setting.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
        ...                       nn.Linear(256, 10))
        >>> plan = plan_training(model, (1, 8, 8))
        >>> plan.macs  # 4 x 64 x 9 + 10 x 256, and no gradient of the sample
        (4864, 4864, 2560)
        >>> plan.weight_bytes, plan.gradient_bytes, plan.arena_bytes
        (10440, 10440, 3328)
    """
    if precision not in WIDTHS:
        raise InvalidInput(f'precision is "float32" or "float16", got {precision!r}')
    if optimizer not in ("sgd", "momentum"):
        raise InvalidInput(f'the optimizer is "sgd" or "momentum", got {optimizer!r}')
    program = lower_training(model, input_shape)
    return plan_of(program, precision, optimizer, master, fast_bytes)


def plan_of(
    program: TrainingProgram, precision: Precision, optimizer: Optimizer, master: bool,
    fast_bytes: int,
) -> TrainingPlan:  # fmt: skip
    """The plan of a program; see `plan_training`."""
    width = WIDTHS[precision]
    memory = plan_memory(program)
    learned = sum(layer.parameters for layer in program.layers if layer.trained)
    kept = 4 * learned if precision == "float16" and master else 0
    velocities = width * learned if optimizer == "momentum" else 0
    return TrainingPlan(
        tuple(_layer(program, each, width, fast_bytes) for each in program.operations),
        precision,
        optimizer,
        fast_bytes,
        width * program.sizes[program.input],
        width * sum(layer.parameters for layer in program.layers),
        width * learned,
        kept + velocities,
        width * memory.entries,
        width * memory.peak,
    )


def _layer(
    program: TrainingProgram, operation: TrainingOperation, width: int, fast_bytes: int
) -> LayerPlan:
    back = program.passes_back(operation)
    products = operation.products(back)
    counts = [product.macs for product in products]
    if counts and not operation.trained:
        counts.insert(1, 0)
    forward, weights, inputs = (*counts, 0, 0, 0)[:3]
    return LayerPlan(
        operation.name,
        operation.kind,
        width * operation.parameters,
        width * operation.parameters if operation.trained else 0,
        width * sum(program.sizes[name] for name in operation.inputs),
        width * program.sizes[operation.output],
        width * operation.column_entries,
        products,
        (forward, weights, inputs),
        tuple(choose_tile(product, fast_bytes, width) for product in products),
    )


def _row(layer: LayerPlan) -> tuple[str, ...]:
    tiles = ", ".join(f"{t.rows}x{t.columns}x{t.inner}" for t in layer.tiles)
    numbers = (
        layer.weight_bytes, layer.gradient_bytes, layer.input_bytes, layer.output_bytes,
        layer.column_bytes, *layer.macs,
    )  # fmt: skip
    return (layer.name, layer.kind, *map(str, numbers), tiles)
