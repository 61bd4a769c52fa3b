"""Integer programs: the list of whole-number operations that Python simulates and C runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput

C_TYPES = {8: "int8_t", 16: "int16_t", 32: "int32_t"}


@final
@dataclass(frozen=True)
class Buffer:
    """Numbers that an operation writes: value = scale * (q - zero), q an integer of `bits`.

    Attributes:
        name: unique in its program.
        shape: without the batch.
        bits: 8, 16 or 32.
        scale: units of a step; 1 where the steps differ by channel, or have no unit.
        zero: the integer that means 0.
        kept: whether it lasts from one run to the next (a state).
    """

    name: str
    shape: tuple[int, ...]
    bits: int = 8
    scale: float = 1.0
    zero: int = 0
    kept: bool = False

    @property
    def size(self) -> int:
        """Entries."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a sample."""
        return self.size * self.bits // 8

    def quantize(self, x: Tensor) -> Tensor:
        """Nearest integers (halves to even) of values, int64, cut to the bits."""
        limit = 2 ** (self.bits - 1)
        q = torch.round(x.double() / self.scale) + self.zero
        return q.clamp(-limit, limit - 1).to(torch.int64)

    def dequantize(self, q: Tensor) -> Tensor:
        """Values of integers, float64."""
        return (q - self.zero).double() * self.scale


@final
@dataclass(frozen=True, eq=False)
class Constant:
    """An array of integers in read-only memory.

    Attributes:
        name: unique in its program.
        values: int64, any shape.
        c_type: element type, such as ``"uint8_t"``.
    """

    name: str
    values: Tensor
    c_type: str

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self.values.numel() * int(self.c_type.strip("uint_")) // 8


class Operation(ABC):
    """One step of an integer program: it reads buffers and writes one.

    What it does is said twice, in `run` for tensors of int64 and in `code` as a call in C of the
    functions in `kernels`; the generated self-test holds the two to the same bits.
    """

    inputs: tuple[str, ...]
    output: str

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiplications of a weight or a state by a number, for one sample."""

    @property
    @abstractmethod
    def kernels(self) -> tuple[str, ...]:
        """Texts of the C functions that `code` calls, each after those it needs."""

    @abstractmethod
    def constants(self) -> tuple[Constant, ...]:
        """Its read-only arrays."""

    @abstractmethod
    def run(self, values: dict[str, Tensor]) -> None:
        """Write `values[self.output]` (B, entries), int64, from the buffers of the inputs."""

    @abstractmethod
    def code(self, pointers: Mapping[str, str]) -> tuple[str, ...]:
        """Statements in C, given the expression that points at each buffer."""

    def declarations(self) -> tuple[str, ...]:
        """What stands before the functions of the program besides the constants."""
        return ()

    def body(self) -> tuple[Operation, ...]:
        """Operations inside this one, which it repeats."""
        return ()


@final
@dataclass(frozen=True, eq=False)
class IntegerProgram:
    """A network in whole numbers: what `simulate` runs in Python and `emit` writes as C.

    Attributes:
        name: prefix of all names in C.
        buffers: all that operations read and write.
        operations: in the order they run.
        input: name of the buffer the caller fills.
        output: name of the buffer the caller reads.

    Example:
        >>> from driftwell.quantization.export.c import lower
        >>> program = lower(torch.nn.Linear(4, 2).eval(), torch.randn(20, 4), bits=4)
        >>> program.macs, program.rom_bytes, program.buffer("input").shape
        (8, 22, (4,))
    """

    name: str
    buffers: tuple[Buffer, ...]
    operations: tuple[Operation, ...]
    input: str
    output: str

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name."""
        return next(buffer for buffer in self.buffers if buffer.name == name)

    @property
    def state(self) -> tuple[Buffer, ...]:
        """Buffers that last from one run to the next."""
        return tuple(buffer for buffer in self.buffers if buffer.kept)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(operation.macs for operation in self.operations)

    def constants(self) -> tuple[Constant, ...]:
        """Every read-only array, once."""
        found: dict[str, Constant] = {}
        for operation in flattened(self.operations):
            found |= {constant.name: constant for constant in operation.constants()}
        return tuple(found.values())

    @property
    def rom_bytes(self) -> int:
        """Bytes of all read-only arrays."""
        return sum(constant.nbytes for constant in self.constants())


def flattened(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """All operations, those inside others after these."""
    return tuple(
        inner for operation in operations
        for inner in (operation, *flattened(operation.body()))
    )  # fmt: skip


def simulate(program: IntegerProgram, q: Tensor, state: dict[str, Tensor] | None = None) -> Tensor:
    """What the C program computes, to the last bit, for a batch.

    Args:
        program: the network in integers.
        q: integers of the input buffer, (B, ...), of any integer type.
        state: buffers that last from one run to the next, int64; rewritten in place. None starts
            them at 0 and forgets them after.

    Returns:
        integers of the output buffer, int64 (B, ...).

    Raises:
        InvalidInput: numbers that are not integers of the buffer, or another shape.

    Example:
        >>> from driftwell.quantization.export.c import lower
        >>> program = lower(torch.nn.ReLU().eval(), torch.linspace(-1, 1, 9)[:, None])
        >>> q = program.buffer("input").quantize(torch.tensor([[-1.0], [0.5]]))
        >>> found = program.buffer(program.output).dequantize(simulate(program, q))
        >>> found.round(decimals=2).tolist()
        [[0.0], [0.5]]
    """
    into = program.buffer(program.input)
    limit = 2 ** (into.bits - 1)
    if q.is_floating_point() or q.shape[1:].numel() != into.size:
        raise InvalidInput(
            f"{program.name} takes integers of shape (batch, {', '.join(map(str, into.shape))}), "
            f"got {q.dtype} of shape {tuple(q.shape)}: quantize values with the input's buffer"
        )
    if len(q) and (int(q.min()) < -limit or int(q.max()) >= limit):
        raise InvalidInput(
            f"inputs of {program.name} must be {into.bits}-bit integers in [{-limit}, {limit - 1}]"
            f", got {int(q.min())} to {int(q.max())}"
        )
    values = {program.input: q.to(torch.int64).reshape(len(q), -1)}
    kept = {} if state is None else state
    for buffer in program.state:
        start = torch.full((len(q), buffer.size), buffer.zero)
        values[buffer.name] = kept.get(buffer.name, start)
    for operation in program.operations:
        operation.run(values)
    kept.update({buffer.name: values[buffer.name] for buffer in program.state})
    return values[program.output].reshape(-1, *program.buffer(program.output).shape)
