"""The range of a layer's inputs on the states of a calibration, for static activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.modules.activations import RULES
from driftwell.quantization.post_training.calibration import Calibration

_BINS = 2048
_SHRINKS = 80
# Share of inputs on either side that the rule "percentile" clips.
_TAIL = 1e-4


def activation_ranges(
    model: nn.Module,
    calibration: Calibration,
    names: Sequence[str],
    *,
    rule: str = "mse",
    bits: int = 8,
) -> dict[str, tuple[float, float]]:
    """Ranges (low, high) of the inputs of named modules, over all states of a calibration.

    Two runs: one for the least and the largest input, one for a histogram of 2048 bins.

        minmax      low = min x, high = max x
        percentile  all but 1e-4 of the inputs on either side
        mse         a [min x, max x], a in (0, 1], least mean square error of b-bit rounding

    Args:
        model: the model.
        calibration: what it is run on.
        names: of its modules.
        rule: ``"mse"``, ``"minmax"`` or ``"percentile"``.
        bits: b of the rule ``"mse"``.

    Returns:
        name -> (low, high), with low <= 0 <= high.

    Raises:
        InvalidInput: a name that is no module's, a module that was not called, inputs that are
            NaN or infinite, another rule.

    Example:
        >>> from driftwell.quantization.post_training.calibration import Inputs
        >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 1))
        >>> x = torch.tensor([[-3.0, 2.0]])
        >>> activation_ranges(model, Inputs([x]), ["1"], rule="minmax")
        {'1': (0.0, 2.0)}
    """
    if rule not in RULES:
        raise InvalidInput(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise InvalidInput(f"the model has no module {name!r}")
    watched = {name: modules[name] for name in names}
    prepared = calibration.prepared(model)
    ends: dict[str, tuple[float, float]] = {}

    def widen(name: str, x: Tensor) -> None:
        low, high = ends.get(name, (0.0, 0.0))
        least, largest = (float(end) for end in x.aminmax())
        if not abs(least) < float("inf") or not abs(largest) < float("inf"):
            raise InvalidInput(f"inputs of {name!r} are NaN or infinite on the calibration states")
        ends[name] = min(low, least), max(high, largest)

    _watch(model, prepared, watched, widen)
    for name in names:
        if name not in ends:
            raise InvalidInput(f"the calibration never called {name!r}")
        if ends[name] == (0.0, 0.0):
            ends[name] = (0.0, 1.0)  # only zeros: any range holds them
    if rule == "minmax":
        return ends
    counts = {name: torch.zeros(_BINS, dtype=torch.float64) for name in names}

    def count(name: str, x: Tensor) -> None:
        low, high = ends[name]
        counts[name] += torch.histc(x.float().cpu(), _BINS, low, high).double()

    _watch(model, prepared, watched, count)
    choose = _percentile if rule == "percentile" else lambda n, low, high: _mse(n, low, high, bits)
    return {name: choose(counts[name], *ends[name]) for name in names}


def _watch(
    model: nn.Module,
    calibration: Calibration,
    watched: dict[str, nn.Module],
    seen: Callable[[str, Tensor], None],
) -> None:
    """Run the calibration with `seen(name, x)` called for the first input of every module."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, arguments: seen(name, arguments[0].detach())

    modes = [(module, module.training) for module in model.modules()]
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in watched.items()]
    model.eval()
    try:
        with torch.no_grad():
            calibration.run(model)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


def _percentile(counts: Tensor, low: float, high: float) -> tuple[float, float]:
    share = counts.cumsum(0) / counts.sum()
    width = (high - low) / _BINS
    first = int((share <= _TAIL).sum())
    last = int((share < 1.0 - _TAIL).sum())
    return min(low + first * width, 0.0), max(low + (last + 1) * width, 0.0)


def _mse(counts: Tensor, low: float, high: float, bits: int) -> tuple[float, float]:
    """The factor a on both ends with the least mean square error over the histogram."""
    width = (high - low) / _BINS
    x = low + width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)
    a = torch.linspace(1.0 / _SHRINKS, 1.0, _SHRINKS, dtype=torch.float64)[:, None]
    s = a * (high - low) / (2**bits - 1)
    zero = torch.round(-a * low / s)
    rounded = s * (torch.clamp(torch.round(x / s) + zero, 0, 2**bits - 1) - zero)
    errors = ((rounded - x).square() * counts).sum(dim=1)
    best = float(a[int(errors.argmin()), 0])
    return best * low, best * high
