"""The verb `quantize`: a model with its weights in few bits, right on the states it visits."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.execution import Activations
from driftwell.quantization.formats import Format, Quantized, Uniform
from driftwell.quantization.modules import PackedWeight, RoundedInput, StaticActivations
from driftwell.quantization.modules.packed_weight import checked_activations
from driftwell.quantization.post_training.activation_ranges import activation_ranges
from driftwell.quantization.post_training.calibration import Calibration
from driftwell.quantization.post_training.cascade import GPTQThenCOMQ
from driftwell.quantization.post_training.layer_report import (
    LayerReport,
    QuantizationResult,
    clipped_share,
    relative_error,
)
from driftwell.quantization.post_training.method import Method
from driftwell.quantization.post_training.sites import Root, Site, replace, sites, taken_apart
from driftwell.quantization.post_training.watching import Seen, in_order, input_grams

Formats = Format | Mapping[str, Format]


def quantize(
    model: nn.Module,
    calibration: Calibration,
    *,
    format: Formats = Uniform(4),
    method: Method = GPTQThenCOMQ(),
    activations: Activations | StaticActivations = "float",
    skip: Sequence[str] = (),
    sequential: bool = True,
    exact: bool | None = None,
) -> QuantizationResult:
    """A copy of a model with packed weights that are right on the states the model visits.

    The calibration runs the model, and every product of a weight with a state is watched: in
    linear layers, convolutions, recurrent nets and attention, and of matrices that are no layer's
    parameter, such as the W of an equilibrium layer or the J of a Langevin machine. Of each weight
    only the Gram matrix G = X^T X of its inputs is kept, and `method` picks the codes that keep
    |X (W - Q)^T| small.

    Sequentially, weights are taken in the order in which the model first uses them, those that
    read one tensor (query, key and value) together, and each step's inputs come from the model
    with all earlier weights rounded already; a model of n steps is run n + 1 times. Otherwise all
    inputs come from the float model, which is run twice. Either way a layer aims at its own float
    output, not at undoing what earlier layers lost, so that the two end about equally far.

    Layers become `QuantizedLinear`, `QuantizedConv1d`, `QuantizedConv2d` or, where a format names
    them, `QuantizedEmbedding`; recurrent nets become `Recurrent` with such layers inside; other
    matrices are held by a `QuantizedParameter`. A weight used in several places is packed once.
    Parametrizations of a layer's weight are written out first. Dropout is off meanwhile.

    Args:
        model: any module; it is not changed.
        calibration: what to run it on: `Inputs`, `FixedPointIterates`, `LangevinStates`,
            `DiffusionTimes`, ...
        format: of all weights, or by name (``{"head": Uniform(8), "blocks.*": Uniform(3)}``, first
            match); what matches none stays as it is. Embeddings stay unless a name says otherwise.
        method: how codes are chosen.
        activations: ``"float"``; ``"int8"`` to round the inputs of layers row by row as they
            come; or `StaticActivations`, one grid a layer with its range from the calibration.
        skip: names of layers or parameters left as they are, with wildcards.
        sequential: whether each layer's inputs come from the quantized prefix.
        exact: layers multiply in float32 or better; otherwise they may in bfloat16, which is
            faster, and too coarse for solves to tolerances below about 1e-2. None: those that are
            used several times in a call of the model, as in a solve.

    Returns:
        The quantized copy, a report on each weight, and what was skipped and why.

    Raises:
        InvalidInput: an argument that cannot be used, a name that fits nothing, a weight asked for
            by name that cannot be quantized, a state that is NaN or infinite, or a model in which
            no weight can be.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
        >>> x = torch.linspace(-1, 1, 64 * 16).reshape(64, 16)
        >>> from driftwell.quantization.post_training.calibration import Inputs
        >>> result = quantize(model, Inputs([x]), format=Uniform(8))
        >>> [layer.name for layer in result.layers]
        ['0', '2']
        >>> bool((result.model(x) - model(x)).abs().max() < 0.05)
        True
    """
    _check(model, calibration, format, method, activations)
    root = Root(copy.deepcopy(model))
    taken_apart(root)
    modes = [(module, module.training) for module in root.modules()]
    root.eval()
    chosen, skipped = _chosen(sites(root), format, skip)
    with torch.no_grad():
        calibration = calibration.prepared(root.model)
        steps = _steps(root, chosen, calibration, skipped, _named(format), sequential)
        done = _rounded(root, steps, calibration, method, chosen)
    word = "float" if isinstance(activations, StaticActivations) else activations
    for site, quantized, _ in done:
        precise = site.iterated if exact is None else exact
        replace(root, site, PackedWeight(quantized.pack(), word, exact=precise))
    for module, training in modes:
        module.training = training
    if isinstance(activations, StaticActivations):
        _round_inputs(root.model, calibration, activations)
    return QuantizationResult(root.model, tuple(report for *_, report in done), skipped)


Chosen = dict[str, tuple[Site, Format]]


def _chosen(
    found: list[Site], format: Formats, skip: Sequence[str]
) -> tuple[Chosen, dict[str, str]]:
    """The weights to quantize, with their formats; and those that are left, with the reason."""
    names = [name for site in found for name in site.names]
    patterns = list(_named(format)) + list(skip)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise InvalidInput(
                f"no weight of the model is called {pattern!r}; there are: {known or 'none'}"
            )
    chosen: Chosen = {}
    skipped: dict[str, str] = {}
    for site in found:
        picked, reason = _format_of(site, format)
        if any(fnmatch.filter(site.names, pattern) for pattern in skip):
            picked, reason = None, "as skip= asks"
        if picked is None:
            skipped[site.name] = reason
        else:
            chosen[site.name] = site, picked
    return chosen, skipped


def _format_of(site: Site, format: Formats) -> tuple[Format | None, str]:
    if isinstance(format, Format):
        if site.kind == "Embedding":
            return None, "as embeddings are unless a format names them"
        return format, ""
    for pattern, named in format.items():
        if fnmatch.filter(site.names, pattern):
            return named, ""
    return None, "as no format names it"


def _named(format: Formats) -> Mapping[str, Format]:
    return {} if isinstance(format, Format) else format


def _steps(
    root: Root,
    chosen: Chosen,
    calibration: Calibration,
    skipped: dict[str, str],
    named: Mapping[str, Format],
    sequential: bool,
) -> list[list[str]]:
    """Names of the weights in the order of use, those that are quantized together in one list."""
    weights = {name: site.weight for name, (site, _) in chosen.items()}
    seen: Seen = in_order(root.model, calibration, weights)
    for name, (site, _) in chosen.items():
        if name in seen.order:
            site.transposed, site.iterated = name in seen.transposed, name in seen.iterated
            continue
        reason = site.unseen(name in seen.altered)
        if any(name_of in named for name_of in site.names):
            raise InvalidInput(f"{name!r} cannot be quantized as the format asks: {reason}")
        skipped[name] = reason
    if not seen.order:
        raise InvalidInput(
            "no weight of the model can be quantized: "
            + ("; ".join(f"{name}: {why}" for name, why in skipped.items()) or "it has none")
        )
    return seen.steps if sequential else [[name for step in seen.steps for name in step]]


def _rounded(
    root: Root, steps: list[list[str]], calibration: Calibration, method: Method, chosen: Chosen
) -> list[tuple[Site, Quantized, LayerReport]]:
    done = []
    for step in steps:
        at = {name: chosen[name] for name in step}
        # Before the run: a format that does not fit a weight is said at once.
        plain = {name: format.fake(site.matrix) for name, (site, format) in at.items()}
        grams, counts = input_grams(
            root.model, calibration, {name: site for name, (site, _) in at.items()}
        )
        for name, (site, format) in at.items():
            w = site.matrix.clone()
            quantized = _by_group(w, grams[name], format, method)
            what = quantized.decode()
            report = LayerReport(
                name=name,
                kind=site.kind,
                bits=format.bits,
                error=relative_error(w, what, grams[name]),
                rounded=relative_error(w, plain[name], grams[name]),
                clip=clipped_share(format.matrix(w), quantized),
                weights=w.numel(),
                nbytes=quantized.pack().nbytes,
                float_bytes=w.numel() * w.element_size(),
                inputs=counts[name],
            )
            site.write(what)
            done.append((site, quantized, report))
    return done


def _by_group(w: Tensor, grams: list[Tensor], format: Format, method: Method) -> Quantized:
    """Codes of W, whose rows are in as many equal groups as there are Gram matrices."""
    if len(grams) == 1 or format.blocks[0] == "tensor":
        # One scale for all rows can only be chosen for all of them.
        return method.quantize(w, torch.stack(grams).mean(dim=0), format)
    parts = [
        method.quantize(part, gram, format)
        for part, gram in zip(w.chunk(len(grams)), grams, strict=True)
    ]
    grid = parts[0].grid.replaced(
        scale=torch.cat([part.grid.scale for part in parts]),
        zero=torch.cat([part.grid.zero for part in parts]),
    )
    codes = torch.cat([part.codes for part in parts])
    return Quantized(codes, grid, tuple(w.shape), w.dtype)


def _round_inputs(
    model: nn.Module, calibration: Calibration, activations: StaticActivations
) -> None:
    layers = {
        name: module for name, module in model.named_modules() if hasattr(module, "rounded_input")
    }
    ranges = activation_ranges(
        model, calibration, list(layers), rule=activations.rule, bits=activations.bits
    )
    for name, module in layers.items():
        reference: Tensor = module.packed_weight.scale
        rounded = RoundedInput(activations.bits, *ranges[name])
        module.rounded_input = rounded.to(reference.device)


def _check(
    model: nn.Module,
    calibration: Calibration,
    format: Formats,
    method: Method,
    activations: Activations | StaticActivations,
) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"quantize takes a torch module, got {type(model).__name__}")
    if not isinstance(calibration, Calibration):
        raise InvalidInput(
            "quantize needs a calibration such as Inputs([x]) to know what states the model "
            f"visits, got {type(calibration).__name__}"
        )
    given = [format] if not isinstance(format, Mapping) else list(format.values())
    for each in given:
        if not isinstance(each, Format):
            raise InvalidInput(
                "format must be a Format such as Uniform(4), or a dict of them by name, got "
                f"{each!r}"
            )
    if not given:
        raise InvalidInput("format is an empty dict: nothing would be quantized")
    if not isinstance(method, Method):
        raise InvalidInput(f"method must be a Method such as GPTQThenCOMQ(), got {method!r}")
    if not isinstance(activations, StaticActivations):
        checked_activations(activations)
