"""What `driftwell quantize` is asked: bits, format and method by name, checked at once."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import (
    Binary,
    Format,
    NormalFloat,
    PowerOfSqrtTwo,
    PowerOfTwo,
    Ternary,
    Uniform,
)
from driftwell.quantization.formats.format import Granularity
from driftwell.quantization.post_training import (
    COMQ,
    GPTQ,
    GPTQThenCOMQ,
    MagR,
    Method,
    RoundToNearest,
)

METHODS: dict[str, Method] = {
    "gptq+comq": GPTQThenCOMQ(),
    "gptq": GPTQ(),
    "comq": COMQ(),
    "magr": MagR(),
    "rtn": RoundToNearest(),
    "rtn-clip": RoundToNearest(clip="output"),
}
FORMATS = ("uniform", "symmetric", "binary", "ternary", "power-of-two", "power-of-sqrt-two", "nf")
ACTIVATIONS = ("float", "int8")


@final
@dataclass(frozen=True)
class QuantizationPlan:
    """How a run is quantized.

    Attributes:
        bits: a weight, 1 to 8.
        method: a name of `METHODS`.
        format: a name of `FORMATS`.
        per: which weights share a scale, "tensor", "channel" or "group".
        group_size: columns of a group.
        activations: "float", or "int8" for products in integers.
        samples: how many data or chains calibrate.
        seed: of what is drawn for it.

    Raises:
        InvalidInput: an unknown name, or bits that the format does not have.

    Example:
        >>> QuantizationPlan(bits=3, method="gptq").to_format()
        Uniform(bits=3, symmetric=False, per='channel', group_size=None)
    """

    bits: int = 8
    method: str = "gptq+comq"
    format: str = "uniform"
    per: Granularity = "channel"
    group_size: int | None = None
    activations: Literal["float", "int8"] = "float"
    samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise on what cannot be, before anything is read."""
        _check("method", self.method, tuple(METHODS))
        _check("format", self.format, FORMATS)
        _check("activations", self.activations, ACTIVATIONS)
        if self.samples < 1:
            raise InvalidInput(f"calibration takes at least one sample, not {self.samples}")
        self.to_format()

    def to_format(self) -> Format:
        """The format of the weights.

        Raises:
            InvalidInput: bits that it does not have, or a group that cannot be.
        """
        per, group = self.per, self.group_size
        if self.format in ("binary", "ternary"):
            only = 1 if self.format == "binary" else 2
            if self.bits != only:
                raise InvalidInput(
                    f"{self.format} weights are stored in {only} bit{'s' * (only > 1)}, "
                    f"not {self.bits}: give --bits {only}"
                )
            return Binary(per, group) if self.format == "binary" else Ternary(per, group)
        if self.format == "power-of-two":
            return PowerOfTwo(self.bits, per, group)
        if self.format == "power-of-sqrt-two":
            return PowerOfSqrtTwo(self.bits, per, group)
        if self.format == "nf":
            return NormalFloat(self.bits, per, group)
        return Uniform(self.bits, self.format == "symmetric", per, group)

    def to_method(self) -> Method:
        """The method."""
        return METHODS[self.method]

    def to_json(self) -> dict[str, Any]:
        """All settings as plain values."""
        return asdict(self)


def _check(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidInput(f"no {what} {name!r}: {hint}there are {', '.join(known)}")
