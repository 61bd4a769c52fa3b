"""PCA whitening as an invertible transform that is fitted to data and saved with the run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.data.transforms import AtanhScaling, Scaling, scaling_from_config

__all__ = ["Whitening"]

_TENSORS = ("mean", "components", "scales")


@final
class Whitening(nn.Module):
    """Principal-component whitening (Hotelling, 1933) after a scaling of the pixels.

        z = (x - mean) C^T / s,    x = mean + (z s) C,    s_k = sqrt(max(l_k, floor))

    x = scaling(images), rows of C (k, d) the leading eigenvectors of the covariance of x, l_k
    its eigenvalues. With k = d it is invertible; with k < d the inverse is the projection onto
    the components. Directions of less variance than `floor` are scaled as if they had it, so
    constant pixels do not blow up. Build it with `Whitening.fit` or `Whitening.load`.

    Args:
        mean: (d,).
        components: (k, d), orthonormal rows.
        scales: (k,), above 0.
        scaling: applied to the images first.

    Raises:
        InvalidInput: shapes that do not fit, or a scale that is not positive.

    Example:
        >>> images = torch.rand(500, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> whitening = Whitening.fit(images)
        >>> z = whitening(images)
        >>> bool((torch.cov(z.T) - torch.eye(16)).abs().max() < 1e-3)
        True
    """

    mean: Tensor
    components: Tensor
    scales: Tensor

    def __init__(
        self, mean: Tensor, components: Tensor, scales: Tensor, scaling: Scaling | None = None
    ) -> None:
        super().__init__()
        d, k = mean.numel(), scales.numel()
        if mean.shape != (d,) or scales.shape != (k,) or components.shape != (k, d):
            raise InvalidInput(
                "whitening needs mean (d,), components (k, d) and scales (k,), not "
                f"{tuple(mean.shape)}, {tuple(components.shape)} and {tuple(scales.shape)}"
            )
        if not bool((scales > 0).all()):
            raise InvalidInput(
                f"whitening needs scales above 0, the least is {float(scales.min())}"
            )
        self.scaling: Scaling = AtanhScaling() if scaling is None else scaling
        for name, tensor in zip(_TENSORS, (mean, components, scales), strict=True):
            self.register_buffer(name, tensor.detach().clone())

    @classmethod
    def fit(
        cls,
        images: Tensor,
        *,
        dimensions: int | None = None,
        floor: float = 1e-3,
        scaling: Scaling | None = None,
        unit_variance: bool = True,
    ) -> Whitening:
        """The whitening of a set of images.

        Args:
            images: in [0, 1], (n, height, width) or (n, d), n >= 2.
            dimensions: k; None: all d.
            floor: least variance that is divided by, in squared units of x, > 0.
            scaling: applied first; None: `AtanhScaling()`.
            unit_variance: False sets s = 1: a rotation onto the principal components, in the
                units of x.

        Raises:
            InvalidInput: fewer than two images, k outside 1..d, or a floor that is not positive.
        """
        first: Scaling = AtanhScaling() if scaling is None else scaling
        x = first.forward(images).double()
        n, d = x.shape
        k = d if dimensions is None else dimensions
        if n < 2:
            raise InvalidInput(f"whitening needs at least two images to be fitted to, not {n}")
        if not 1 <= k <= d:
            raise InvalidInput(f"whitening keeps 1 to {d} dimensions, not {k}")
        if not floor > 0.0:
            raise InvalidInput(f"the variance floor of whitening must be above 0, not {floor:g}")
        values, vectors = torch.linalg.eigh(torch.cov(x.T).reshape(d, d))
        leading = vectors.T.flip(0)[:k]
        # An eigenvector's sign is arbitrary: its largest entry is made positive.
        peak = leading.gather(1, leading.abs().argmax(1, keepdim=True))
        scales = values.flip(0)[:k].clamp(min=floor).sqrt()
        if not unit_variance:
            scales = torch.ones_like(scales)
        kind = images.dtype
        return cls(x.mean(0).to(kind), (leading * peak.sign()).to(kind), scales.to(kind), first)

    def forward(self, images: Tensor) -> Tensor:
        """z (n, k) of images in [0, 1], (n, height, width) or (n, d)."""
        return (self.scaling.forward(images) - self.mean) @ self.components.T / self.scales

    def inverse(self, state: Tensor) -> Tensor:
        """Images (n, d) in [0, 1] of states z (n, k)."""
        return self.scaling.inverse(self.mean + (state * self.scales) @ self.components)

    def to_symmetric(self, state: Tensor) -> Tensor:
        """Images (n, d) in [-1, 1] of states z (n, k)."""
        return self.scaling.to_symmetric(self.mean + (state * self.scales) @ self.components)

    def to_config(self) -> dict[str, Any]:
        """``{"kind": "whitening", "pixels": d, "dimensions": k, "scaling": {...}}``."""
        k, d = self.components.shape
        config = self.scaling.to_config()
        return {"kind": "whitening", "pixels": d, "dimensions": k, "scaling": config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Whitening:
        """A whitening of the right sizes, to be filled by `load_state_dict`.

        Raises:
            InvalidInput: another kind, or keys that are missing or unknown.
        """
        keys = {"kind", "pixels", "dimensions", "scaling"}
        if set(config) != keys or config["kind"] != "whitening":
            raise InvalidInput(
                f"a whitening's config has the keys {', '.join(sorted(keys))} and the kind "
                f"'whitening', not {', '.join(sorted(map(str, config))) or 'nothing'} and "
                f"{config.get('kind')!r}"
            )
        d, k = int(config["pixels"]), int(config["dimensions"])
        scaling = scaling_from_config(config["scaling"])
        return cls(torch.zeros(d), torch.eye(k, d), torch.ones(k), scaling)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write tensors and config into one safetensors file, atomically.

        Raises:
            InvalidInput: the file cannot be written.
        """
        from safetensors.torch import save

        target = Path(path)
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in _TENSORS}
        content = save(tensors, metadata={"driftwell": json.dumps(self.to_config())})
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise InvalidInput(f"{target} cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Whitening:
        """The whitening that `save` wrote.

        Raises:
            InvalidInput: the file does not exist, is corrupt, or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        source = Path(path)
        if not source.is_file():
            raise InvalidInput(f"{source} does not exist: no whitening to load")
        try:
            with safe_open(str(source), framework="pt") as file:
                config = json.loads((file.metadata() or {})["driftwell"])
                tensors = [file.get_tensor(name) for name in _TENSORS]
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise InvalidInput(
                f"{source} is truncated, corrupt or no whitening: {error}"
            ) from error
        scaling = cls.from_config(config).scaling
        mean, components, scales = tensors
        return cls(mean, components, scales, scaling)
