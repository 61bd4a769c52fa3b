"""Where the values of a training step lie, so that those of different moments share memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from driftwell.quantization.edge.training_steps import TrainingOperation, TrainingProgram

Touch = Callable[..., None]
"""Name, size and moments of a buffer that is used then."""


@final
@dataclass(frozen=True)
class Buffer:
    """Entries that are needed from one moment to another, both included.

    Attributes:
        size: entries.
        start: moment of the first write.
        end: moment of the last read.
    """

    size: int
    start: int
    end: int


@final
@dataclass(frozen=True)
class TrainingMemory:
    """The buffers of a training step and their places.

    Moments of n operations: 0 .. n-1 forward, n the loss, 2 n - i the way back of operation i.

    Attributes:
        buffers: by name: ``value v``, ``gradient v``, ``columns t``.
        places: entry of the memory at which each begins.
        homes: the value in whose buffer a value lies: an activation writes over its input if
            nobody else looks at that.
        entries: length of the memory.
    """

    buffers: dict[str, Buffer]
    places: dict[str, int]
    homes: dict[str, str]
    entries: int

    @property
    def peak(self) -> int:
        """Most entries needed at one moment: no placement takes fewer."""
        return _peak(self.buffers)

    def value(self, name: str) -> int:
        """Place of a value."""
        return self.places[f"value {self.homes.get(name, name)}"]

    def gradient(self, name: str) -> int:
        """Place of the gradient of a value."""
        return self.places[f"gradient {self.homes.get(name, name)}"]

    def columns(self, moment: int) -> int:
        """Place of the im2col buffer that is used at a moment."""
        return self.places[f"columns {moment}"]


def plan_memory(program: TrainingProgram) -> TrainingMemory:
    """Lay out all values, gradients of values and im2col buffers of a training step.

    Example:
        >>> from torch import nn
        >>> from driftwell.quantization.edge.training_lowering import lower_training
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> memory = plan_memory(lower_training(model, (3,)))
        >>> memory.entries, memory.peak  # 8 values, 8 gradients and 2 gradients
        (18, 18)
    """
    homes = _homes(program)
    buffers: dict[str, Buffer] = {}

    def touch(name: str, size: int, *moments: int) -> None:
        old = buffers.get(name, Buffer(size, moments[0], moments[0]))
        buffers[name] = Buffer(size, min(old.start, *moments), max(old.end, *moments))

    count = len(program.operations)
    for n, operation in enumerate(program.operations):
        back = 2 * count - n
        here = homes.get(operation.output, operation.output)
        size = program.sizes[operation.output]
        touch(f"value {here}", size, n, n)
        if program.has_gradient(operation.output):
            touch(f"gradient {here}", size, back, back)
            if operation.needs_output:
                touch(f"value {here}", size, back, back)
        for name in operation.inputs:
            _touch_input(program, operation, homes.get(name, name), (n, back), touch)
        for moment in (n, back) if operation.column_entries else ():
            if moment == n or operation.trained or program.passes_back(operation):
                touch(f"columns {moment}", operation.column_entries, moment, moment)
    last, size = homes.get(program.output, program.output), program.sizes[program.output]
    touch(f"value {last}", size, count, count)
    touch(f"gradient {last}", size, count, count)
    places = place(buffers, _peak(buffers))
    return TrainingMemory(buffers, places, homes, _length(places, buffers))


def _touch_input(
    program: TrainingProgram, operation: TrainingOperation, name: str, moments: tuple[int, int],
    touch: Touch,
) -> None:  # fmt: skip
    """An input is read on the way there, and on the way back its gradient is added to."""
    if name == program.input:
        return  # the caller's memory
    forward, back = moments
    size = program.sizes[name]
    touch(f"value {name}", size, forward, forward)
    if program.has_gradient(name):
        touch(f"gradient {name}", size, back, back)
    if operation.needs_input and program.has_gradient(operation.output):
        touch(f"value {name}", size, back, back)


def _homes(program: TrainingProgram) -> dict[str, str]:
    """Values that may lie in the buffer of the value they come from."""
    makers = {operation.output: operation for operation in program.operations}
    homes: dict[str, str] = {}
    for operation in program.operations:
        source = operation.inputs[0]
        maker = makers.get(source)
        if (
            operation.in_place
            and maker is not None
            and not maker.needs_output
            and len(program.users(source)) == 1
        ):
            homes[operation.output] = source
    return homes


def _peak(buffers: Mapping[str, Buffer]) -> int:
    moments = {buffer.start for buffer in buffers.values()}
    return max(
        sum(b.size for b in buffers.values() if b.start <= moment <= b.end) for moment in moments
    )


def place(buffers: Mapping[str, Buffer], floor: int) -> dict[str, int]:
    """Places of buffers: first fit in several orders, each bettered by moves to its front.

    Args:
        buffers: by name.
        floor: entries below which no placement gets; the search stops there.
    """
    by_size = sorted(buffers, key=lambda name: (-buffers[name].size, name))
    orders = [by_size] + [
        sorted(by_size, key=key)
        for key in (
            lambda name: buffers[name].start,
            lambda name: -buffers[name].end,
            lambda name: buffers[name].start - buffers[name].end,
        )
    ]
    found = [_bettered(order, buffers, floor) for order in orders]
    return min(found, key=lambda places: _length(places, buffers))


def _bettered(order: list[str], buffers: Mapping[str, Buffer], floor: int) -> dict[str, int]:
    best = _first_fit(order, buffers)
    shorter = _length(best, buffers) > floor
    while shorter:
        shorter = False
        for name in list(order):
            moved = [name, *(other for other in order if other != name)]
            places = _first_fit(moved, buffers)
            if _length(places, buffers) < _length(best, buffers):
                order, best, shorter = moved, places, True
    return best


def _length(places: Mapping[str, int], buffers: Mapping[str, Buffer]) -> int:
    return max(place + buffers[name].size for name, place in places.items())


def _first_fit(order: list[str], buffers: Mapping[str, Buffer]) -> dict[str, int]:
    """The lowest place of each in turn that is free as long as it lives."""
    places: dict[str, int] = {}
    for name in order:
        buffer = buffers[name]
        taken = sorted(
            (place, place + buffers[other].size)
            for other, place in places.items()
            if buffers[other].start <= buffer.end and buffer.start <= buffers[other].end
        )
        place = 0
        for low, high in taken:
            if place + buffer.size <= low:
                break
            place = max(place, high)
        places[name] = place
    return places
