"""Claims on weight magnitude reduction, where features are nearly dependent."""

from __future__ import annotations

from driftwell.claims.quantization.calibrated_layers import Calibrated, mean_error, wide_layers
from driftwell.claims.registry import Outcome, claim
from driftwell.quantization.formats import Uniform
from driftwell.quantization.post_training import GPTQ, MagR, Method, RoundToNearest, row_errors
from driftwell.quantization.post_training.magr import MAGR


def _reduction(layer: Calibrated, magr: MagR) -> tuple[float, float]:
    """Median over rows of max|v| / max|w|, and the relative change of the layer's output."""
    w, v = layer.weight, magr.reduce(layer.weight, layer.gram)
    change = row_errors(w, v, layer.gram).sum() / row_errors(w, 0 * w, layer.gram).sum()
    return float((v.abs().amax(dim=1) / w.abs().amax(dim=1)).median()), float(change.sqrt())


def _judge_reduction(magr: MagR | None, seed: int) -> Outcome:
    found = []
    for layer in wide_layers(seed):
        if magr is not None:
            found.append(_reduction(layer, magr))
            continue
        # without the outputs in view: clipped at 0.7 of the largest weight
        w = layer.weight
        top = 0.7 * w.abs().amax(dim=1, keepdim=True)
        v = w.clamp(min=-top, max=top)
        change = row_errors(w, v, layer.gram).sum() / row_errors(w, 0 * w, layer.gram).sum()
        found.append((0.7, float(change.sqrt())))
    ratio, output = max(r for r, _ in found), max(c for _, c in found)
    return Outcome(
        holds=ratio <= 0.7 + 1e-6 and output <= 3e-2,
        measured={"largest weight, median ratio": ratio, "relative output change": output},
        bound="median of max|v| / max|w| <= 0.7 at a relative output change <= 0.03, on every "
        "layer",
    )


def _clipped(seed: int) -> Outcome:
    return _judge_reduction(None, seed)


@claim(
    id="magr-reduction",
    paper=MAGR,
    states="largest weights shrink by a third and the layer's output stays",
    stated="max|w| typically more than halved; card: median <= 0.7 at output change <= 3e-2",
    cpu_minutes=0.6,
    control=_clipped,
    control_is="weights clipped at 0.7 of the largest",
    expected="not_reproduced",
)
def reduction(seed: int) -> Outcome:
    """Reduction and output change on the hidden layers of a wide network."""
    return _judge_reduction(MagR(), seed)


def _judge_errors(pairs: tuple[tuple[int, Method, Method], ...], seed: int) -> Outcome:
    """Whether the second method of each pair is better than the first, at so many bits."""
    measured: dict[str, float] = {}
    holds = True
    for bits, plain, ours in pairs:
        found = [mean_error(wide_layers(seed), m, Uniform(bits)) for m in (plain, ours)]
        measured |= {f"W{bits} without": found[0], f"W{bits} with MagR": found[1]}
        holds = holds and found[1] < found[0]
    return Outcome(
        holds=holds,
        measured=measured,
        bound="relative output error, mean over layers, smaller with MagR than without",
    )


def _judge_rounding(alpha: float, seed: int) -> Outcome:
    magr = MagR(then=RoundToNearest(), alpha=alpha, refine=None)
    return _judge_errors(((2, RoundToNearest(), magr), (3, RoundToNearest(), magr)), seed)


def _too_strong_for_rounding(seed: int) -> Outcome:
    return _judge_rounding(1.0, seed)


@claim(
    id="magr-rounding",
    paper=MAGR,
    states="rounding to nearest makes smaller errors on reduced weights",
    stated="card: better after MagR at 2 and 3 bits",
    cpu_minutes=0.5,
    control=_too_strong_for_rounding,
    control_is="a thousand times the weight on |v|_inf, which gives the output up",
)
def rounding(seed: int) -> Outcome:
    """Rounding on the hidden layers of a wide network, with and without MagR."""
    return _judge_rounding(MagR().alpha, seed)


def _too_strong_for_gptq(seed: int) -> Outcome:
    return _judge_errors(((2, GPTQ(), MagR(alpha=1.0, refine=None)),), seed)


@claim(
    id="magr-gptq",
    paper=MAGR,
    states="GPTQ makes smaller errors on reduced weights, on the paper's range and refined "
    "towards the weights themselves",
    stated="card: better after MagR at 2 bits",
    cpu_minutes=0.4,
    control=_too_strong_for_gptq,
    control_is="a thousand times the weight on |v|_inf, which gives the output up",
)
def gptq(seed: int) -> Outcome:
    """GPTQ on the hidden layers of a wide network, with and without MagR."""
    return _judge_errors(((2, GPTQ(), MagR()),), seed)
