"""Where buffers lie in memory: those that are not needed at the same time share a place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from driftwell.quantization.export.c.program import C_TYPES, Buffer, IntegerProgram, Operation

ARENAS = {8: "bytes", 16: "halves", 32: "words"}
"""Name of the arena of each width: one a type, so that no byte is ever read as another type."""


@final
@dataclass(frozen=True)
class Arena:
    """The plan of a program's memory.

    Attributes:
        places: entry of its arena at which each buffer begins.
        entries: length of the arena of each width in bits.
        kept_bytes: bytes of the buffers that last from run to run, which share nothing.
    """

    places: dict[str, int]
    entries: dict[int, int]
    kept_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arenas and of the state; the caller's input and output are not in it."""
        return self.kept_bytes + sum(bits // 8 * size for bits, size in self.entries.items())


def plan(program: IntegerProgram) -> Arena:
    """Lay out the buffers of a program by first fit, largest first.

    A buffer lives from the operation that writes it first to the one that reads it last; whatever
    enters a loop from outside, and its state, lives to the loop's end.
    """
    lives = _lives(program)
    places: dict[str, int] = {}
    entries: dict[int, int] = {}
    inner = [b for b in program.buffers if not b.kept and b.name in lives]
    inner = [b for b in inner if b.name not in (program.input, program.output)]
    placed: list[Buffer] = []
    for buffer in sorted(inner, key=lambda b: (-b.size, lives[b.name], b.name)):
        start, end = lives[buffer.name]
        taken = sorted(
            (places[other.name], places[other.name] + other.size)
            for other in placed
            if other.bits == buffer.bits
            and lives[other.name][0] <= end
            and start <= lives[other.name][1]
        )
        place = 0
        for low, high in taken:
            if place + buffer.size <= low:
                break
            place = max(place, high)
        places[buffer.name] = place
        placed.append(buffer)
        entries[buffer.bits] = max(entries.get(buffer.bits, 0), place + buffer.size)
    ordered = {bits: entries[bits] for bits in sorted(entries)}
    return Arena(places, ordered, sum(buffer.nbytes for buffer in program.state))


def pointers(program: IntegerProgram, arena: Arena) -> dict[str, str]:
    """Expression in C that points at each buffer."""
    found = {}
    for buffer in program.buffers:
        if buffer.name == program.input:
            found[buffer.name] = "in"
        elif buffer.name == program.output:
            found[buffer.name] = "out"
        elif buffer.kept:
            found[buffer.name] = f"memory.{buffer.name}"
        elif buffer.name in arena.places:
            place = arena.places[buffer.name]
            found[buffer.name] = f"memory.{ARENAS[buffer.bits]}" + (f" + {place}" if place else "")
    return found


def members(program: IntegerProgram, arena: Arena) -> tuple[str, ...]:
    """Members of the C struct that holds all of it."""
    lines = [f"{C_TYPES[bits]} {ARENAS[bits]}[{size}];" for bits, size in arena.entries.items()]
    lines += [f"{C_TYPES[b.bits]} {b.name}[{b.size}]; /* state */" for b in program.state]
    return tuple(lines)


def _lives(program: IntegerProgram) -> dict[str, tuple[int, int]]:
    """First and last moment of each buffer."""
    lives: dict[str, tuple[int, int]] = {program.input: (0, 0)}
    moment = 0

    def touch(name: str, at: int) -> None:
        start, end = lives.get(name, (at, at))
        lives[name] = (min(start, at), max(end, at))

    def walk(operations: tuple[Operation, ...]) -> None:
        nonlocal moment
        for operation in operations:
            moment += 1
            first, before = moment, set(lives)
            for name in (*operation.inputs, operation.output):
                touch(name, first)
            walk(operation.body())
            if operation.body():
                # what a loop reads from outside must be there when it comes round again
                used = {n for inner in operation.body() for n in _names(inner)} & before
                for name in (*used, *operation.inputs, operation.output):
                    touch(name, moment)

    walk(program.operations)
    return lives


def _names(operation: Operation) -> set[str]:
    inner = {name for part in operation.body() for name in _names(part)}
    return {*operation.inputs, operation.output} | inner
