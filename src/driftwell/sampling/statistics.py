"""Statistics of chains: effective sample size, split R-hat and the virial of equipartition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.state import State, batch_size, inner, leaves

__all__ = ["effective_sample_size", "split_rhat", "virial"]

SHORTEST_TRACE = 8


def _halved_chains(trace: Tensor) -> Tensor:
    """The trace as (steps // 2, 2 * chains, ...) in float64: each chain cut into its two halves."""
    if trace.ndim < 2:
        raise InvalidInput(
            f"a trace has the shape (steps, chains) or (steps, chains, ...), not "
            f"{tuple(trace.shape)}: give a single chain as trace[:, None]"
        )
    if trace.shape[1] == 0 or trace.shape[0] < SHORTEST_TRACE:
        raise InvalidInput(
            f"a trace of {trace.shape[0]} steps and {trace.shape[1]} chains is too short: at least "
            f"{SHORTEST_TRACE} steps of one chain are needed"
        )
    if trace.is_complex():
        raise InvalidInput(f"a trace holds real numbers, not {trace.dtype}")
    values = trace.detach().to(torch.float64)
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        raise InvalidInput(
            f"{broken} of {values.numel()} trace entries are NaN or infinite: "
            "drop the diverged chains before measuring the others"
        )
    half = values.shape[0] // 2
    # With an odd number of steps the middle one is dropped, so that both halves are equally long.
    return torch.cat([values[:half], values[-half:]], dim=1)


def _autocovariance(chains: Tensor) -> Tensor:
    """Autocovariance at all lags along the first dimension, each divided by the number of steps."""
    steps = chains.shape[0]
    centred = chains - chains.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * steps, dim=0)
    power = spectrum.real.square() + spectrum.imag.square()
    covariance: Tensor = torch.fft.irfft(power, n=2 * steps, dim=0)
    return covariance[:steps] / steps


def _variances(chains: Tensor) -> tuple[Tensor, Tensor]:
    """Mean within-chain variance W and the pooled estimate var+ = (n-1)/n W + B/n."""
    steps = chains.shape[0]
    within = chains.var(0).mean(0)
    between = chains.mean(0).var(0)
    pooled = within * (steps - 1) / steps + between
    # Rounding of a constant trace leaves ~1e-32 of variance, which means nothing.
    scale = chains.square().mean((0, 1)) * 1e-28
    constant = torch.zeros(())
    return within.where(within > scale, constant), pooled.where(pooled > scale, constant)


def effective_sample_size(trace: Tensor) -> Tensor:
    """Effective sample size of a mean over correlated chains, by Geyer's initial monotone sequence.

    The autocorrelation of the halved chains, `rho_t = 1 - (W - mean_m acov_t) / var+`, is summed
    over pairs `rho_2k + rho_2k+1` while they are positive, each pair capped by the one before
    (Geyer, *Practical Markov chain Monte Carlo*, 1992; many chains as in Vehtari et al.,
    *Rank-normalization, folding, and localization: an improved R-hat*, 2021, arXiv:1903.08008):

        ESS = steps * chains / tau,    tau = -1 + 2 sum_t rho_t

    Chains that disagree in their means count as slowly mixing. Antithetic chains may exceed
    `steps * chains`; the estimate is capped at `log10(steps * chains)` times that.

    Args:
        trace: a scalar followed along the chains, (steps, chains), or several of them,
            (steps, chains, ...); at least 8 steps.

    Returns:
        float64 of the shape trace.shape[2:], in samples; nan where the trace is constant
        (nothing moved, so nothing is known about mixing).

    Raises:
        InvalidInput: fewer than 8 steps, fewer than two dimensions, or NaN/Inf in the trace.

    Example:
        >>> alternating = torch.arange(100) % 2 * 2.0 - 1.0
        >>> bool(effective_sample_size(alternating[:, None]) > 100)
        True
        >>> drift = torch.arange(100.0)
        >>> round(float(effective_sample_size(drift[:, None])))
        1
    """
    chains = _halved_chains(trace)
    steps, count = chains.shape[:2]
    within, pooled = _variances(chains)
    rho = 1.0 - (within - _autocovariance(chains).mean(1)) / pooled
    rho[0] = 1.0
    # Pairs of lags; the longest lags rest on too few products to be of use.
    lags = (max(steps - 3, 2) // 2) * 2
    pairs = rho[0:lags:2] + rho[1:lags:2]
    positive = (pairs > 0).cumprod(0)
    capped = pairs.cummin(0).values * positive
    tau = -1.0 + 2.0 * capped.sum(0)
    # The even lag at which the sequence stopped carries weight one, which keeps the estimate
    # finite for antithetic chains.
    stop = positive.sum(0)
    tau = tau + rho[0 : lags + 1 : 2].gather(0, stop[None])[0].clamp(min=0.0)
    total = float(steps * count)
    # NaN (0/0 of a constant trace) passes through the clamp.
    return total / tau.clamp(min=1.0 / math.log10(total))


def split_rhat(trace: Tensor) -> Tensor:
    """Split R-hat, the potential scale reduction of halved chains (Gelman and Rubin, 1992).

    With W the mean variance within a half chain and `var+ = (n-1)/n W + B/n` of Gelman et al.,
    *Bayesian Data Analysis*, 3rd edition, 2013:

        R-hat = sqrt(var+ / W)

    It tends to 1 when all halves of all chains see the same distribution; above 1.01 they do not.

    Args:
        trace: a scalar followed along the chains, (steps, chains), or several of them,
            (steps, chains, ...); at least 8 steps.

    Returns:
        float64 of the shape trace.shape[2:]; inf where each half is constant but they differ,
        nan where nothing moved at all.

    Raises:
        InvalidInput: fewer than 8 steps, fewer than two dimensions, or NaN/Inf in the trace.

    Example:
        >>> noise = torch.frac(torch.arange(400) * 0.618034).reshape(100, 4)
        >>> round(float(split_rhat(noise)), 1)
        1.0
        >>> round(float(split_rhat(noise + torch.tensor([0.0, 0.0, 0.0, 1.0]))), 1)
        1.9
    """
    within, pooled = _variances(_halved_chains(trace))
    return (pooled / within).sqrt()


def virial(
    z: State,
    gradient: State,
    temperature: float | Tensor,
    free: State | None = None,
) -> Tensor:
    """Virial ratio of each sample, whose mean is 1 at equilibrium (equipartition).

        virial = sum_i z_i dE/dz_i / (n_free T),    <virial> = 1 under exp(-E/T)

    exact for any energy that confines, with sums over the free coordinates: the clamped ones are
    parameters of the conditional law. A single sample fluctuates by about sqrt(2/n_free).

    Args:
        z: states, (B, ...) or a tree of such tensors.
        gradient: dE/dz at z, the same shapes, in energy units per unit of z.
        temperature: T > 0 in energy units; a number, or one for each sample, (B,).
        free: True where a coordinate moves, a tensor (or a tree like z) that broadcasts against
            z; None: all of them.

    Returns:
        (B,) without units, in the dtype of z (float32 for half precision).

    Raises:
        InvalidInput: shapes that differ, a temperature that is not positive, or a sample
            without a free coordinate.

    Example:
        >>> z = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
        >>> virial(z, gradient=z, temperature=1.0)       # E = |z|^2 / 2
        tensor([1., 2.])
        >>> virial(z, z, 1.0, free=torch.tensor([True, False]))
        tensor([1., 4.])
    """
    shapes = [tuple(leaf.shape) for leaf in leaves(z)]
    if shapes != [tuple(leaf.shape) for leaf in leaves(gradient)] or () in shapes or not shapes:
        raise InvalidInput(
            f"the virial needs states (B, ...) and a gradient of the same shapes, not "
            f"{shapes} and {[tuple(leaf.shape) for leaf in leaves(gradient)]}"
        )
    batch = batch_size(z)
    total = inner(z, gradient) if free is None else _free_work(z, gradient, free)
    count = sum(leaf[0].numel() if batch else 1 for leaf in leaves(z))
    thermal = _positive_temperature(temperature, total)
    return total / (thermal * (count if free is None else _free_count(z, free)))


def _positive_temperature(temperature: float | Tensor, like: Tensor) -> Tensor:
    """T as a number or (B,) tensor of the dtype and device of `like`, checked to be above 0."""
    value = torch.as_tensor(temperature, dtype=like.dtype, device=like.device)
    if value.ndim > 1 or (value.ndim == 1 and value.shape != like.shape):
        raise InvalidInput(
            f"the temperature is a number or one for each of the {like.shape[0]} samples, "
            f"not of the shape {tuple(value.shape)}"
        )
    if not bool((value > 0).all()):
        raise InvalidInput(
            f"the virial needs a temperature above 0, not {float(value.min()):g}: "
            "at T = 0 there is no equipartition"
        )
    return value


def _masks(z: State, free: State) -> list[Tensor]:
    """The leaves of `free`, broadcast to those of z, as bool."""
    masks = leaves(free)
    if len(masks) != len(leaves(z)):
        raise InvalidInput(f"free has {len(masks)} tensors, the state has {len(leaves(z))}")
    spread = []
    for mask, leaf in zip(masks, leaves(z), strict=True):
        try:
            spread.append(mask.to(device=leaf.device, dtype=torch.bool).expand_as(leaf))
        except RuntimeError as error:
            raise InvalidInput(
                f"free has the shape {tuple(mask.shape)}, which does not broadcast against "
                f"the state's {tuple(leaf.shape)}"
            ) from error
    return spread


def _free_work(z: State, gradient: State, free: State) -> Tensor:
    # where, not a product: a clamped coordinate may have an infinite gradient.
    moving = [
        torch.where(mask, leaf, 0.0)
        for mask, leaf in zip(_masks(z, free), leaves(gradient), strict=True)
    ]
    return inner(z, tuple(moving))


def _free_count(z: State, free: State) -> Tensor:
    count = torch.stack([mask.reshape(mask.shape[0], -1).sum(1) for mask in _masks(z, free)]).sum(0)
    if count.numel() and int(count.min()) == 0:
        raise InvalidInput("a sample has no free coordinate: its virial is not defined")
    return count
