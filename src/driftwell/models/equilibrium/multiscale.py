"""Equilibria at several resolutions at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper
from driftwell.core.results import FixedPoint
from driftwell.core.state import State, leaves
from driftwell.dynamics.laws import Map
from driftwell.fixed_points import Anderson, Gradient, Implicit, Solver, fixed_point
from driftwell.nn.drawn_layers import drawn_conv, drawn_linear

MDEQ = Paper(
    key="bai2020multiscale",
    title="Multiscale Deep Equilibrium Models",
    authors="Bai, Shaojie and Koltun, Vladlen and Kolter, J. Zico",
    year=2020,
    arxiv="2006.08656",
    venue="NeurIPS 2020",
)


@final
class ResidualBlock(nn.Module):
    """Two convolutions around the state of one resolution, the injected image added.

    u = GN(s(z + x + GN(K_2 s(GN(K_1 z))))),   s = GELU; the inner norm starts at `gain`
    """

    def __init__(
        self, channels: int, groups: int, gain: float, draw: torch.Generator, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.K_1 = drawn_conv(channels, channels, 3, draw, dtype=dtype)
        self.K_2 = drawn_conv(channels, channels, 3, draw, dtype=dtype)
        norms = (nn.GroupNorm(groups, channels, dtype=dtype) for _ in range(3))
        self.norm_1, self.norm_2, self.norm_3 = norms
        with torch.no_grad():
            self.norm_2.weight.fill_(gain)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """u (B, C, H, W) from the state and the injection, each (B, C, H, W)."""
        branch = self.norm_2(self.K_2(functional.gelu(self.norm_1(self.K_1(z)))))
        out: Tensor = self.norm_3(functional.gelu(z + x + branch))
        return out


@final
class MultiscaleLayer(Map):
    """The layer of a multiscale equilibrium model: residual blocks, then fusion across scales.

        u_i = Block_i(z_i, x_i),     f_i = GN(u_i + sum_{j != i} P_ij u_j)

    P_ij leads from resolution j to i: downwards |i - j| convolutions of stride 2, upwards a
    1x1 convolution and a repetition of pixels.

    Args:
        channels: C_i of each resolution, the finest first; each next has half the side.
        groups: of the group norms.
        gain: scale at the start of everything that is not the residual path.
        draw: source of the start weights.
        dtype: of the weights.

    Example:
        >>> layer = MultiscaleLayer((4, 8), 2, 0.2, torch.Generator().manual_seed(0))
        >>> z = (torch.zeros(1, 4, 6, 6), torch.zeros(1, 8, 3, 3))
        >>> [u.shape for u in layer(z, z)]
        [torch.Size([1, 4, 6, 6]), torch.Size([1, 8, 3, 3])]
    """

    def __init__(
        self,
        channels: Sequence[int],
        groups: int,
        gain: float,
        draw: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        scales = range(len(channels))
        self.blocks = nn.ModuleList(
            ResidualBlock(width, groups, gain, draw, dtype) for width in channels
        )
        self.paths = nn.ModuleDict(
            {
                f"{i} from {j}": _path(channels[j], channels[i], i - j, gain, draw, dtype)
                for i in scales
                for j in scales
                if i != j
            }
        )
        self.norms = nn.ModuleList(nn.GroupNorm(groups, width, dtype=dtype) for width in channels)

    def forward(self, z: State, x: Any = None) -> tuple[Tensor, ...]:
        """f(z, x): one tensor (B, C_i, H / 2^i, W / 2^i) for each resolution."""
        u = [block(*pair) for block, *pair in zip(self.blocks, leaves(z), leaves(x), strict=True)]
        return tuple(norm(self._fused(i, u)) for i, norm in enumerate(self.norms))

    def _fused(self, i: int, u: list[Tensor]) -> Tensor:
        others = (self.paths[f"{i} from {j}"](u[j]) for j in range(len(u)) if j != i)
        return sum(others, start=u[i])


def _path(
    inputs: int, outputs: int, down: int, gain: float, draw: torch.Generator, dtype: torch.dtype
) -> nn.Module:
    if down < 0:
        return nn.Sequential(
            drawn_conv(inputs, outputs, 1, draw, gain=gain, dtype=dtype),
            nn.Upsample(scale_factor=2**-down, mode="nearest"),
        )
    halvings = [drawn_conv(inputs, inputs, 3, draw, stride=2, dtype=dtype) for _ in range(down - 1)]
    last = drawn_conv(inputs, outputs, 3, draw, stride=2, gain=gain, dtype=dtype)
    return nn.Sequential(*halvings, last)


@final
class MultiscaleDEQ(nn.Module):
    """Multiscale deep equilibrium classifier, from Bai, Koltun and Kolter, *Multiscale Deep
    Equilibrium Models*, 2020, arXiv:2006.08656.

    The state is a tuple of feature maps, one a resolution, and all come to rest together:

        (z_0*, .., z_n*) = f((z_0*, .., z_n*), x),     logits = V [y_0, .., y_n] + c

    with f a `MultiscaleLayer`, x_i the image, brought to resolution i by a convolution and a norm,
    and y_i the mean over pixels of s(H_i z_i*), H_i a 1x1 convolution (the mean of z_i* itself
    is what its norm fixes, and says nothing). The paper injects at the finest resolution only; here
    every one sees the image, which with the small start `gain` makes f contract near its
    equilibria before training. Nothing bounds f: there may be several, and a solver decides which
    is found. Watch the residual in training, and add `jacobian_regularization` to the loss.

    Args:
        image_channels: of the images.
        channels: C_i of each resolution, the finest (that of the image) first.
        classes: number of classes.
        groups: of the group norms; divides every C_i.
        gain: scale at the start of everything that is not the residual path.
        solver: of the fixed point.
        gradient: how derivatives pass through the solve.
        tol: relative tolerance of the solve, over all resolutions.
        max_steps: evaluations of the layer that are allowed.
        seed: of the start weights.
        dtype: of the weights.

    Raises:
        InvalidInput: no resolution, sizes below 1, fewer than 2 classes, or groups that do not
            divide the channels.

    Example:
        >>> model = MultiscaleDEQ(1, (8, 16), 10, seed=0)
        >>> logits, found = model(torch.linspace(0, 1, 128).view(2, 1, 8, 8))
        >>> logits.shape, [z.shape for z in found.z]
        (torch.Size([2, 10]), [torch.Size([2, 8, 8, 8]), torch.Size([2, 16, 4, 4])])
    """

    papers = (MDEQ,)

    def __init__(
        self,
        image_channels: int,
        channels: Sequence[int],
        classes: int,
        *,
        groups: int = 4,
        gain: float = 0.2,
        solver: Solver = Anderson(),
        gradient: Gradient = Implicit(tol=1e-5),
        tol: float = 1e-4,
        max_steps: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not channels or min(*channels, image_channels, groups) < 1 or classes < 2:
            raise InvalidInput(
                "a multiscale classifier needs at least one resolution, sizes of at least 1 and 2 "
                f"classes, got image_channels={image_channels}, channels={tuple(channels)}, "
                f"groups={groups}, classes={classes}"
            )
        if any(width % groups for width in channels):
            raise InvalidInput(f"groups={groups} must divide every entry of {tuple(channels)}")
        self.channels = tuple(channels)
        self.image_channels = image_channels
        self.solver, self.gradient, self.tol, self.max_steps = solver, gradient, tol, max_steps
        draw = torch.Generator().manual_seed(seed)
        self.stems = nn.ModuleList(
            nn.Sequential(
                drawn_conv(image_channels, width, 3, draw, dtype=dtype),
                nn.GroupNorm(groups, width, dtype=dtype),
            )
            for width in channels
        )
        self.layer = MultiscaleLayer(channels, groups, gain, draw, dtype)
        self.heads = nn.ModuleList(
            drawn_conv(width, width, 1, draw, dtype=dtype) for width in channels
        )
        self.readout = drawn_linear(sum(channels), classes, draw, dtype=dtype)

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """x_i (B, C_i, H / 2^i, W / 2^i) of images (B, image_channels, H, W).

        Raises:
            InvalidInput: images of another shape, or whose sides cannot be halved that often.
        """
        factor = 2 ** (len(self.channels) - 1)
        if x.ndim != 4 or x.shape[1] != self.image_channels or x.shape[2] % factor or (
            x.shape[3] % factor
        ):  # fmt: skip
            raise InvalidInput(
                f"images have the shape (B, {self.image_channels}, H, W) with sides that are "
                f"multiples of {factor}, got {tuple(x.shape)}"
            )
        return tuple(
            stem(functional.avg_pool2d(x, 2**i) if i else x) for i, stem in enumerate(self.stems)
        )

    def forward(self, x: Tensor, throw: bool = False) -> tuple[Tensor, FixedPoint]:
        """Logits (B, classes) of images, and the equilibria they are read off from.

        Args:
            x: images, (B, image_channels, H, W).
            throw: raise if an image does not come to rest; otherwise its status says so.
        """
        injected = self.inject(x)
        found = fixed_point(
            self.layer, tuple(torch.zeros_like(each).detach() for each in injected), injected,
            solver=self.solver, gradient=self.gradient, tol=self.tol, max_steps=self.max_steps,
            throw=throw,
        )  # fmt: skip
        pooled = [
            functional.gelu(head(z)).mean(dim=(2, 3))
            for head, z in zip(self.heads, leaves(found.z), strict=True)
        ]
        logits: Tensor = self.readout(torch.cat(pooled, dim=1))
        return logits, found
