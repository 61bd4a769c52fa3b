"""Invertible transforms between images in [0, 1] and the states of a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, final

from torch import Tensor

from driftwell.core.errors import InvalidInput

__all__ = ["AtanhScaling", "PlainScaling", "Scaling", "Transform", "scaling_from_config"]


class Transform(Protocol):
    """What every transform can do: `forward`, `inverse`, `to_symmetric`, `to_config`."""

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], (n, height, width) or (n, d), as states (n, d)."""
        ...

    def inverse(self, state: Tensor) -> Tensor:
        """States (n, d) as images in [0, 1], (n, d)."""
        ...

    def to_symmetric(self, state: Tensor) -> Tensor:
        """States (n, d) as images in [-1, 1], where distances between images are measured."""
        ...

    def to_config(self) -> dict[str, Any]:
        """Plain values that rebuild it, with its kind under "kind"."""
        ...


@final
@dataclass(frozen=True)
class AtanhScaling:
    """Inverse hyperbolic tangent of the pixels, from Yu, Huang and Huang, *Neural Langevin
    Machine: a local asymmetric learning rule can be creative*, 2025, arXiv:2506.23546 (v2).

        x = atanh(clip(2p - 1, -c, c)),    p = (tanh(x) + 1) / 2

    The rate tanh(x) of a neuron is then its pixel. Clipping keeps |x| <= atanh(c), 2.09 for
    c = 0.97; pixels nearer to black or white than (1 - c)/2 come back at that distance.

    Args:
        clip: c, in (0, 1).

    Raises:
        InvalidInput: c outside (0, 1).

    Example:
        >>> import torch
        >>> scaling = AtanhScaling()
        >>> state = scaling.forward(torch.tensor([[0.0, 0.25, 1.0]]))
        >>> state
        tensor([[-2.0923, -0.5493,  2.0923]])
        >>> scaling.inverse(state)
        tensor([[0.0150, 0.2500, 0.9850]])
    """

    clip: float = 0.97

    def __post_init__(self) -> None:
        if not 0.0 < self.clip < 1.0:
            raise InvalidInput(f"the clip of the atanh scaling is in (0, 1), not {self.clip:g}")

    def forward(self, images: Tensor) -> Tensor:
        """x (n, d) of images p in [0, 1], (n, height, width) or (n, d)."""
        return (2.0 * _flat(images) - 1.0).clamp(-self.clip, self.clip).atanh()

    def inverse(self, state: Tensor) -> Tensor:
        """p (n, d) in [0, 1] of states x (n, d)."""
        return (0.5 * (state.tanh() + 1.0)).clamp(0.0, 1.0)

    def to_symmetric(self, state: Tensor) -> Tensor:
        """tanh(x), in [-1, 1]."""
        return state.tanh()

    def to_config(self) -> dict[str, Any]:
        """``{"kind": "atanh", "clip": c}``."""
        return {"kind": "atanh", **asdict(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> AtanhScaling:
        """The scaling of `to_config`.

        Raises:
            InvalidInput: another kind, or an unknown key.
        """
        return cls(**_settings(config, "atanh", ("clip",)))


@final
@dataclass(frozen=True)
class PlainScaling:
    """Affine map of [0, 1] onto [low, high]: x = low + (high - low) p.

    Args:
        low: x of a black pixel.
        high: x of a white one, above `low`.
        shown_as_rate: show states by the rate, p = (tanh(x) + 1) / 2, instead of inverting the
            map: what version 1 of the Neural Langevin Machine did. Black and white then come
            back as (1 -+ tanh(1)) / 2.

    Raises:
        InvalidInput: low not below high.

    Example:
        >>> import torch
        >>> PlainScaling().forward(torch.tensor([[0.0, 0.5, 1.0]]))
        tensor([[-1.,  0.,  1.]])
    """

    low: float = -1.0
    high: float = 1.0
    shown_as_rate: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InvalidInput(
                f"the plain scaling needs low below high, not {self.low:g} and {self.high:g}"
            )

    def forward(self, images: Tensor) -> Tensor:
        """x (n, d) of images p in [0, 1], (n, height, width) or (n, d)."""
        return self.low + (self.high - self.low) * _flat(images)

    def inverse(self, state: Tensor) -> Tensor:
        """p (n, d) of states x (n, d), clipped to [0, 1]."""
        if self.shown_as_rate:
            return 0.5 * (state.tanh() + 1.0)
        return ((state - self.low) / (self.high - self.low)).clamp(0.0, 1.0)

    def to_symmetric(self, state: Tensor) -> Tensor:
        """2p - 1, in [-1, 1]."""
        return 2.0 * self.inverse(state) - 1.0

    def to_config(self) -> dict[str, Any]:
        """``{"kind": "plain", "low": low, "high": high, "shown_as_rate": shown}``."""
        return {"kind": "plain", **asdict(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PlainScaling:
        """The scaling of `to_config`.

        Raises:
            InvalidInput: another kind, or an unknown key.
        """
        shown = bool(config.get("shown_as_rate", False))
        rest = {key: value for key, value in config.items() if key != "shown_as_rate"}
        return cls(**_settings(rest, "plain", ("low", "high")), shown_as_rate=shown)


Scaling = AtanhScaling | PlainScaling


def scaling_from_config(config: Mapping[str, Any]) -> Scaling:
    """The scaling that `to_config` described, by its kind.

    Raises:
        InvalidInput: no or an unknown kind, or an unknown key.

    Example:
        >>> scaling_from_config({"kind": "atanh", "clip": 0.9})
        AtanhScaling(clip=0.9)
    """
    kinds: dict[str, type[AtanhScaling] | type[PlainScaling]] = {
        "atanh": AtanhScaling,
        "plain": PlainScaling,
    }
    kind = config.get("kind")
    if kind not in kinds:
        raise InvalidInput(f"the kind of a scaling is {' or '.join(kinds)}, not {kind!r}")
    return kinds[kind].from_config(config)


def _settings(config: Mapping[str, Any], kind: str, fields: tuple[str, ...]) -> dict[str, float]:
    if config.get("kind") != kind:
        raise InvalidInput(f"the config of a {config.get('kind')!r} scaling, not of {kind!r}")
    settings = {key: value for key, value in config.items() if key != "kind"}
    for key, value in settings.items():
        if key not in fields:
            raise InvalidInput(f"the {kind} scaling has {', '.join(fields)}, but no {key!r}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidInput(f"{key} of the {kind} scaling is a number, not {value!r}")
    return {key: float(value) for key, value in settings.items()}


def _flat(images: Tensor) -> Tensor:
    if images.ndim not in (2, 3):
        raise InvalidInput(
            f"images have the shape (n, height, width) or (n, d), not {tuple(images.shape)}"
        )
    return images.reshape(len(images), -1)
