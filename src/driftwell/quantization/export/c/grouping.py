"""Which steps run as one: a product of a matrix, a sum, and what clamps or bends the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn

from driftwell.quantization.export.c.graph import TracedGraph, TracedStep


@final
@dataclass(frozen=True, eq=False)
class Group:
    """A product with all that is done to it before it is rounded to 8 bits.

    Attributes:
        first: the step ``"linear"`` or ``"convolution"``.
        normalize: batch normalisation after it, or None.
        addend: name of a result that is added to it, or None.
        raw: name of the result that `last` clamps or bends.
        ending: a clamp or an elementwise function, or None.
        last: name of the group's result.
    """

    first: TracedStep
    normalize: nn.Module | None
    addend: str | None
    raw: str
    ending: TracedStep | None
    last: str

    def members(self, graph: TracedGraph) -> set[str]:
        """Names of the steps it stands for."""
        found, name = {self.first.name}, self.first.name
        while name != self.last:
            follower = graph.only_user(name)
            if follower is None:
                break
            name = follower.name
            found.add(name)
        return found


def group_of(graph: TracedGraph, first: TracedStep) -> Group:
    """The group that a product begins."""
    name, normalize, addend, ending = first.name, None, None, None
    follower = graph.only_user(name)
    if follower is not None and follower.kind == "normalize":
        normalize, name = follower.module, follower.name
        follower = graph.only_user(name)
    if follower is not None and follower.kind == "add" and _is_last_term(graph, follower, name):
        addend = next(other for other in follower.inputs if other != name)
        name = follower.name
        follower = graph.only_user(name)
    raw = name
    if follower is not None and follower.kind in ("clamp", "elementwise"):
        ending, name = follower, follower.name
    return Group(first, normalize, addend, raw, ending, name)


def _is_last_term(graph: TracedGraph, sum_: TracedStep, name: str) -> bool:
    """Whether `name`, a product of a matrix, is the sum's one product, or its later one."""
    if len(set(sum_.inputs)) < 2:
        return False
    order = [step.name for step in graph.steps]
    candidates = [n for n in sum_.inputs if _ends_product(graph, n)]
    return name == max(candidates, key=order.index, default="")


def _ends_product(graph: TracedGraph, name: str) -> bool:
    step = graph.step(name)
    if step is not None and step.kind == "normalize":
        step = graph.step(step.inputs[0])
    return step is not None and step.kind == "linear" and graph.only_user(name) is not None
