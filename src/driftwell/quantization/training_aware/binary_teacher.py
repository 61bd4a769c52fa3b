"""The two-layer binary model in which coarse gradients are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.straight_through import (
    YIN_STE,
    IdentitySTE,
    ReLUSTE,
    StraightThrough,
    through,
)

__all__ = ["BinaryTeacher"]


@final
@dataclass(frozen=True, eq=False)
class BinaryTeacher:
    """A teacher y = v*^T s(Z w*), s(u) = 1[u > 0], that a student (v, w) of the same form
    imitates, from Yin et al., *Understanding Straight-Through Estimator in Training Activation
    Quantized Neural Nets*, 2019, arXiv:1903.05662.

    Z is (m, n) with standard normal entries, the loss 1/2 (v^T s(Z w) - y)^2. With t the angle
    between w and w*, e = w / |w|, and S = I + 1 1^T, its mean and gradients are

        f     = 1/8 [v^T S v - 2 v^T ((1 - 2t/pi) I + 1 1^T) v* + v*^T S v*]
        df/dv = 1/4 [S v - ((1 - 2t/pi) I + 1 1^T) v*]
        df/dw = -(v^T v*) / (2 pi |w|)  P / |P|,      P = w* - e (e^T w*)

    Leading dimensions of the teacher's and the student's v and w broadcast: many at once.

    Args:
        v: v*, (..., m).
        w: w*, (..., n); only its direction matters, and it is scaled to length 1.

    Raises:
        InvalidInput: no vectors, two dtypes, or a w that is zero.

    Example:
        >>> teacher = BinaryTeacher(torch.ones(3), torch.tensor([3.0, 4.0]))
        >>> float(teacher.loss(teacher.v, teacher.w))
        0.0
    """

    papers = (YIN_STE,)

    v: Tensor
    w: Tensor

    def __post_init__(self) -> None:
        v, w = self.v, self.w
        if v.ndim < 1 or w.ndim < 1 or v.dtype != w.dtype:
            raise InvalidInput(
                "a teacher needs vectors v (..., m) and w (..., n) of one dtype, got "
                f"{tuple(v.shape)} {v.dtype} and {tuple(w.shape)} {w.dtype}"
            )
        length = torch.linalg.vector_norm(w, dim=-1)
        if not bool(((length > 0.0) & length.isfinite()).all()):
            raise InvalidInput("the teacher's w must have a direction: it is zero or not finite")
        object.__setattr__(self, "w", _unit(w))

    def angle(self, w: Tensor) -> Tensor:
        """t, the angle between w (..., n) and w*, in radians: accurate near 0 and pi too."""
        e = _unit(w)
        return 2.0 * torch.atan2((e - self.w).norm(dim=-1), (e + self.w).norm(dim=-1))

    def loss(self, v: Tensor, w: Tensor) -> Tensor:
        """f(v, w), the population loss, (...)."""
        mixed = (v * self._seen(w)).sum(-1)
        return (_quadratic(v) - 2.0 * mixed + _quadratic(self.v)) / 8.0

    def gradients(self, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """df/dv (..., m) and df/dw (..., n); df/dw is 0 where w is parallel to w*, where f has
        a kink.
        """
        d_v = (v + v.sum(-1, keepdim=True) - self._seen(w)) / 4.0
        e = _unit(w)
        across = self.w - e * _dot(e, self.w)
        length = across.norm(dim=-1, keepdim=True)
        # what rounding leaves of P at a parallel w has no direction
        across = torch.where(length > 16 * torch.finfo(w.dtype).eps, across / length, 0.0)
        d_w = -_dot(v, self.v) / (2.0 * math.pi * w.norm(dim=-1, keepdim=True)) * across
        return d_v, d_w

    def expected_coarse_gradient(self, v: Tensor, w: Tensor, ste: StraightThrough) -> Tensor:
        """E g for w, (..., n), in closed form.

            ReLU:      h / (2 sqrt(2 pi)) e - cos(t/2) (v^T v*) / sqrt(2 pi) (e + w*) / |e + w*|
            identity:  (|v|^2 e - (v^T v*) w*) / sqrt(2 pi)

        with h = |v|^2 + (1^T v)^2 - (1^T v)(1^T v*) + v^T v*.

        Raises:
            InvalidInput: an estimator other than `ReLUSTE` and `IdentitySTE`.
        """
        e, overlap, square = _unit(w), _dot(v, self.v), _dot(v, v)
        if isinstance(ste, IdentitySTE):
            return (square * e - overlap * self.w) / math.sqrt(2.0 * math.pi)
        if isinstance(ste, ReLUSTE):
            total = v.sum(-1, keepdim=True)
            h = square + total.square() - total * self.v.sum(-1, keepdim=True) + overlap
            # cos(t/2) (e + w*) / |e + w*| = (e + w*) / 2, also where e = -w*
            return (h * e - overlap * (e + self.w)) / (2.0 * math.sqrt(2.0 * math.pi))
        raise InvalidInput(
            f"no closed form is known for {ste}: take ReLUSTE() or IdentitySTE(), "
            "or sampled_gradients() with many samples"
        )

    def sampled_gradients(
        self, v: Tensor, w: Tensor, z: Tensor, ste: StraightThrough
    ) -> tuple[Tensor, Tensor]:
        """Mean over N samples of dl/dv (..., m) and of the coarse gradient g for w (..., n), by
        backpropagation through the student; z is (..., N, m, n).
        """
        with torch.enable_grad():
            v, w = (each.detach().requires_grad_() for each in (v, w))
            u, target = _preactivations(z, w), _preactivations(z, self.w)
            y = (target > 0).to(z.dtype) @ self.v[..., None]
            out = through((u > 0).to(u.dtype), u, ste) @ v[..., None]
            loss = 0.5 * (out - y).square().mean((-2, -1))
            d_v, d_w = torch.autograd.grad(loss.sum(), (v, w))
        return d_v, d_w

    def spurious_minimum(self) -> tuple[Tensor, Tensor]:
        """(v, w) at the local minimum w = -w*, v = (I + 1 1^T)^-1 (1 1^T - I) v*."""
        target = self.v.sum(-1, keepdim=True) - self.v
        return target - target.sum(-1, keepdim=True) / (1 + target.shape[-1]), -self.w

    def _seen(self, w: Tensor) -> Tensor:
        """((1 - 2t/pi) I + 1 1^T) v*, (..., m)."""
        return (1.0 - 2.0 * self.angle(w) / math.pi)[..., None] * self.v + self.v.sum(
            -1, keepdim=True
        )


def _unit(w: Tensor) -> Tensor:
    e: Tensor = w / torch.linalg.vector_norm(w, dim=-1, keepdim=True)
    return e


def _preactivations(z: Tensor, w: Tensor) -> Tensor:
    """Z w, (..., N, m), as one product for all samples."""
    return (z.flatten(-3, -2) @ w[..., None]).reshape(z.shape[:-1])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _quadratic(v: Tensor) -> Tensor:
    """v^T (I + 1 1^T) v."""
    return v.square().sum(-1) + v.sum(-1).square()
