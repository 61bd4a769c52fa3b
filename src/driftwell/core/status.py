"""Per-sample outcome of a run, as an int8 code with a sentence behind it."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What happened to one sample; codes up to `COMPLETED` are good.

    Example:
        >>> Status(3).sentence
        'left the finite numbers'
    """

    CONVERGED = 0
    COMPLETED = 1
    BUDGET_REACHED = 2
    DIVERGED = 3
    STEP_UNDERFLOW = 4

    @property
    def good(self) -> bool:
        """Whether the result may be used as it is."""
        return self <= Status.COMPLETED

    @property
    def sentence(self) -> str:
        """What the code says, for a person."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "reached its tolerance",
    Status.COMPLETED: "ran all its steps",
    Status.BUDGET_REACHED: "used up its steps before it reached its tolerance",
    Status.DIVERGED: "left the finite numbers",
    Status.STEP_UNDERFLOW: "needed a step size below what its dtype can resolve",
}
