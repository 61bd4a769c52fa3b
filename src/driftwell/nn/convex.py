"""Networks that are convex in their input, dense and convolutional."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.core.papers import Paper

ICNN = Paper(
    key="amos2017icnn",
    title="Input Convex Neural Networks",
    authors="Amos, Brandon and Xu, Lei and Kolter, J. Zico",
    year=2017,
    arxiv="1609.07152",
    venue="ICML 2017",
)

# Spread of the log of the first nonnegative weights.
_SPREAD = 0.5


@final
class InputConvexNetwork(nn.Module):
    """Input-convex network, from Amos, Xu and Kolter, *Input Convex Neural Networks*, 2017,
    arXiv:1609.07152, smooth, as learned proximal networks need it.

    h_1 = s(A_0 y + b_0),  h_{k+1} = s(W_k h_k + A_k y + b_k),
    psi(y) = <w, h_K> + <a, y> + convexity / 2 |y|^2,  W_k >= 0,  w >= 0

    with s(u) = log(1 + exp(sharpness u)) / sharpness, convex and increasing. The nonnegative
    weights are softplus(V) of free parameters V, so psi is convex after *any* update by any
    optimizer, with nothing to clamp and no weight stuck at zero.

    With a sample shape (D,) the A_k and W_k are matrices. With an image shape (C, H, W), or (H, W)
    for one channel, they are 3x3 convolutions, every second one of stride 2, and w has a weight
    for every channel and pixel of h_K.

    Args:
        shape: shape of one sample, (D,), (H, W) or (C, H, W).
        hidden: width, or channels, of every h_k.
        depth: number K of hidden layers, at least 1.
        sharpness: of s; large values approach a rectifier. In units 1 / y.
        convexity: strong convexity added to psi, at least 0.
        seed: of the keyed start parameters.
        dtype: of the parameters.

    Raises:
        InvalidInput: a shape that is none of these, a setting outside its range.

    Example:
        >>> psi = InputConvexNetwork((3,), hidden=8, depth=2, seed=1)
        >>> a, b = torch.zeros(1, 3), torch.ones(1, 3)
        >>> bool(psi((a + b) / 2) <= (psi(a) + psi(b)) / 2)
        True
    """

    papers = (ICNN,)

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden: int = 64,
        depth: int = 4,
        sharpness: float = 10.0,
        convexity: float = 0.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        _check(shape, hidden, depth, sharpness, convexity)
        self.shape, self.hidden, self.depth = tuple(shape), hidden, depth
        self.sharpness, self.convexity = sharpness, convexity
        self.strides = [2 if self.is_image and k % 2 else 1 for k in range(depth)]
        draw = _Draws(seed, dtype)
        kernel = (3, 3) if self.is_image else ()
        taps = math.prod(kernel)
        inputs = 1 if len(shape) == 2 else shape[0]
        scale = 1 / math.sqrt(inputs * taps)
        self.A = nn.ParameterList(
            nn.Parameter(scale * draw(hidden, inputs, *kernel)) for _ in range(depth)
        )
        self.b = nn.ParameterList(nn.Parameter(scale * draw(hidden)) for _ in range(depth))
        self.V = nn.ParameterList(
            nn.Parameter(draw.nonnegative(hidden, hidden, *kernel, fan_in=hidden * taps))
            for _ in range(depth - 1)
        )
        last = self._last_size()
        self.v = nn.Parameter(draw.nonnegative(hidden, *last, fan_in=hidden))
        self.a = nn.Parameter(torch.zeros(shape, dtype=dtype))

    @property
    def is_image(self) -> bool:
        """Whether samples are images."""
        return len(self.shape) > 1

    def extra_repr(self) -> str:
        """Settings shown by print."""
        return (
            f"shape={self.shape}, hidden={self.hidden}, depth={self.depth}, "
            f"sharpness={self.sharpness}, convexity={self.convexity}"
        )

    def forward(self, y: Tensor) -> Tensor:
        """psi of each sample (B, *shape), (B,)."""
        self._check(y)
        h = self._softplus(self._layers(y)[-1])
        psi = (functional.softplus(self.v) * h).flatten(1).sum(1)
        psi = psi + (self.a * y).flatten(1).sum(1)
        if self.convexity:
            psi = psi + 0.5 * self.convexity * y.flatten(1).square().sum(1)
        return psi

    def gradient(self, y: Tensor) -> Tensor:
        """grad psi, like `y`, written out as a network of its own.

        g_K = s'(u_K) w,  g_k = s'(u_k) W_k^T g_{k+1},  grad psi = a + convexity y + sum A_k^T g_k

        with u_k the argument of h_k. It needs no autograd, so that training takes one backward
        pass, and maps built on it can be differentiated forwards, implicitly and in compiled code.
        """
        self._check(y)
        u = self._layers(y)
        down = functional.softplus(self.v)
        total = self.a + self.convexity * y
        for k in reversed(range(self.depth)):
            g = torch.sigmoid(self.sharpness * u[k]) * down
            total = total + self._transposed(g, self.A[k], self._reach(k), y).reshape(y.shape)
            if k:
                down = self._transposed(
                    g, functional.softplus(self.V[k - 1]), self.strides[k], u[k - 1]
                )
        return total

    def _layers(self, y: Tensor) -> list[Tensor]:
        """The arguments u_k of h_k = s(u_k)."""
        seen = y.unsqueeze(1) if len(self.shape) == 2 else y
        u: list[Tensor] = []
        for k in range(self.depth):
            new = self._applied(seen, self.A[k], self._reach(k), self.b[k])
            if k:
                W = functional.softplus(self.V[k - 1])
                new = new + self._applied(self._softplus(u[-1]), W, self.strides[k])
            u.append(new)
        return u

    def _softplus(self, u: Tensor) -> Tensor:
        return functional.softplus(u, beta=self.sharpness)

    def _reach(self, k: int) -> int:
        """Stride from y to layer k."""
        return math.prod(self.strides[: k + 1])

    def _applied(self, h: Tensor, W: Tensor, stride: int, b: Tensor | None = None) -> Tensor:
        if not self.is_image:
            return functional.linear(h, W, b)
        return functional.conv2d(h, W, b, stride=stride, padding=1)

    def _transposed(self, g: Tensor, W: Tensor, stride: int, like: Tensor) -> Tensor:
        """The adjoint of `_applied`, of the size of what it was applied to."""
        if not self.is_image:
            return g @ W
        missing = [
            n - (m - 1) * stride - 1 for n, m in zip(like.shape[-2:], g.shape[-2:], strict=True)
        ]
        return functional.conv_transpose2d(
            g, W, stride=stride, padding=1, output_padding=(missing[0], missing[1])
        )

    def _check(self, y: Tensor) -> None:
        if y.shape[1:] != self.shape:
            raise InvalidInput(
                f"this network takes samples of shape {self.shape}, batch first, "
                f"got {tuple(y.shape)}"
            )

    def _last_size(self) -> tuple[int, ...]:
        if not self.is_image:
            return ()
        height, width = self.shape[-2:]
        for stride in self.strides:
            height, width = -(-height // stride), -(-width // stride)
        return height, width


class _Draws:
    """Keyed start values, one leaf after another."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.seed, self.dtype, self.leaf = seed, dtype, 0

    def __call__(self, *shape: int) -> Tensor:
        made = normal(
            shape, seed=self.seed, purpose=Purpose.PARAMETERS, chains=shape[0], step=0,
            leaf=self.leaf, dtype=self.dtype,
        )  # fmt: skip
        self.leaf += 1
        return made

    def nonnegative(self, *shape: int, fan_in: int) -> Tensor:
        """V with softplus(V) log-normal of mean 1 / fan_in."""
        weights = (_SPREAD * self(*shape) - 0.5 * _SPREAD**2).exp() / fan_in
        return weights.expm1().log()


def _check(
    shape: tuple[int, ...], hidden: int, depth: int, sharpness: float, convexity: float
) -> None:
    if len(shape) not in (1, 2, 3) or any(n < 1 for n in shape):
        raise InvalidInput(
            "the shape of one sample is (D,), (H, W) or (C, H, W), all at least 1, "
            f"got {tuple(shape)}"
        )
    if hidden < 1 or depth < 1:
        raise InvalidInput(f"hidden and depth must be at least 1, got {hidden} and {depth}")
    if not 0.0 < sharpness < float("inf"):
        raise InvalidInput(f"sharpness must be positive and finite, got {sharpness}")
    if not 0.0 <= convexity < float("inf"):
        raise InvalidInput(f"convexity must be finite and not negative, got {convexity}")
