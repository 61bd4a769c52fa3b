"""A model as the steps of a training step at batch 1: what each computes, and from what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from driftwell.quantization.edge.training_tiles import Product

ACTIVATIONS = ("relu", "tanh", "sigmoid")


@final
@dataclass(frozen=True)
class Window:
    """A kernel that moves over an image (channels, height, width).

    Attributes:
        channels: of the image; of one group of a grouped convolution.
        image: height and width.
        kernel: its height and width.
        stride: of both axes.
        padding: of both axes; zeros, or nothing for a pool.
        dilation: of both axes.
        out: height and width of the result.
    """

    channels: int
    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    out: tuple[int, int] = (1, 1)

    @property
    def places(self) -> int:
        """Entries of a channel of the result."""
        return self.out[0] * self.out[1]

    @property
    def entries(self) -> int:
        """Entries that the kernel sees at a place, of all channels."""
        return self.channels * self.kernel[0] * self.kernel[1]

    @property
    def is_pointwise(self) -> bool:
        """Whether the columns of the image are the image itself."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)


@final
@dataclass(frozen=True, eq=False)
class TrainingOperation:
    """One step of a model; a linear layer is a convolution of an image of one pixel.

    Attributes:
        name: of the layer.
        kind: ``"linear"``, ``"convolution"``, ``"relu"``, ``"tanh"``, ``"sigmoid"``,
            ``"max pool"``, ``"mean pool"`` or ``"add"``.
        inputs: names of the values it takes.
        output: name of the value it gives.
        window: of a layer with weights or a pool.
        groups: of channels.
        weight: of a layer with weights, (R, ...).
        bias: (R,), or None.
        trained: whether weight and bias are learned.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    window: Window | None = None
    groups: int = 1
    weight: Tensor | None = None
    bias: Tensor | None = None
    trained: bool = False

    @property
    def in_place(self) -> bool:
        """Whether it may write over its input."""
        return self.kind in ACTIVATIONS

    @property
    def needs_input(self) -> bool:
        """Whether its way back looks at its input."""
        return self.trained or self.kind == "max pool"

    @property
    def needs_output(self) -> bool:
        """Whether its way back looks at its output: slopes of activations are functions of y."""
        return self.kind in ACTIVATIONS

    @property
    def column_entries(self) -> int:
        """Entries of the im2col buffer: one group's columns; none where they are the image."""
        if self.weight is None or self.window is None or self.window.is_pointwise:
            return 0
        return self.window.entries * self.window.places

    @property
    def parameters(self) -> int:
        """Entries of weight and bias."""
        return sum(each.numel() for each in (self.weight, self.bias) if each is not None)

    def products(self, passes_back: bool) -> tuple[Product, ...]:
        """Y = W col(X), then dW = dY col(X)^T if it learns, then dcol = W^T dY if it passes back.

        The last is scattered back to dX. With a stride this takes fewer multiplications than a
        product with the columns of dY, most of which would be zeros.
        """
        if self.weight is None or self.window is None:
            return ()
        r, k, p = len(self.weight) // self.groups, self.window.entries, self.window.places
        forward, weights, back = (r, p, k), (r, k, p), (k, p, r)
        sizes = [forward] + [weights] * self.trained + [back] * passes_back
        return tuple(Product(*size, repeats=self.groups) for size in sizes)


@final
@dataclass(frozen=True, eq=False)
class TrainingProgram:
    """A model as its operations, in the order they run.

    Attributes:
        operations: all of them.
        sizes: entries of each value.
        input: name of the value a caller gives.
        output: name of the value the loss takes.
        model: that it was made from.
    """

    operations: tuple[TrainingOperation, ...]
    sizes: dict[str, int]
    input: str
    output: str
    model: nn.Module

    @property
    def layers(self) -> tuple[TrainingOperation, ...]:
        """The operations with weights."""
        return tuple(each for each in self.operations if each.weight is not None)

    def users(self, value: str) -> tuple[int, ...]:
        """Which operations take a value, by number."""
        return tuple(n for n, each in enumerate(self.operations) if value in each.inputs)

    def has_gradient(self, value: str) -> bool:
        """Whether anything that is learned lies before a value."""
        return value in self._learned()

    def passes_back(self, operation: TrainingOperation) -> bool:
        """Whether an operation must give the gradient of an input."""
        learned = self._learned()
        return any(name in learned for name in operation.inputs)

    def _learned(self) -> set[str]:
        found: set[str] = set()
        for each in self.operations:
            if each.trained or found & set(each.inputs):
                found.add(each.output)
        return found
