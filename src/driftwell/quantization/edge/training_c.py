"""A training step as a folder of plain C."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.training_lowering import lower_training
from driftwell.quantization.edge.training_plan import Optimizer, TrainingPlan, plan_of
from driftwell.quantization.edge.training_self_test import TOLERANCE, self_test_text
from driftwell.quantization.edge.training_source import Loss, header_text, source_text, target_type
from driftwell.quantization.edge.training_steps import TrainingProgram
from driftwell.quantization.export.c.exporting import CReport
from driftwell.quantization.export.c.lowered_model import check_name
from driftwell.quantization.export.c.self_test import MAKEFILE


def export_training_c(
    model: nn.Module,
    folder: Path | str,
    *,
    samples: Tensor,
    targets: Tensor,
    loss: Loss = "cross_entropy",
    optimizer: Optimizer = "sgd",
    rate: float = 0.01,
    momentum: float = 0.0,
    name: str = "network",
    vectors: int = 8,
    fast_bytes: int = 64 * 1024,
) -> CReport:
    """A training step at batch 1 as plain C99, from Nadalini et al., *Reduced Precision
    Floating-Point Optimization for Deep Neural Network On-Device Learning on MicroControllers*,
    2023, arXiv:2305.19167; here in single precision.

    ``NAME_step(in, target, rate)`` runs the network forward, takes the gradient of the loss and
    moves the weights, w <- w - rate dL/dw; ``NAME_gradient`` and ``NAME_update`` are its halves, so
    that gradients of several samples can be added up. No malloc: all arrays are static, and their
    bytes are those of `plan_training`. The self-test takes a step on each of the first samples and
    compares losses, gradients and weights with PyTorch in float64, to 1e-5.

    Args:
        model: see `plan_training`; its weights are what the device begins with.
        folder: made if it is not there; files of the same names are overwritten.
        samples: inputs for the self-test, (N, ...).
        targets: classes (N,) for ``"cross_entropy"``, values (N, ...) of the output for ``"mse"``.
        loss: cross entropy of the softmax, or mean of (y - t)^2 over the entries of the output.
        optimizer: ``"momentum"`` keeps velocities, v <- momentum v + dL/dw, w <- w - rate v.
        rate: of learning, in the self-test; a caller in C gives its own.
        momentum: in the self-test, likewise; only with ``"momentum"``.
        name: prefix of all names in C.
        vectors: samples in the self-test.
        fast_bytes: memory that the tiles of a product fit.

    Returns:
        the bytes of the weights to begin with and of all arrays, and the operations of a step.

    Raises:
        InvalidInput: before anything is written, what cannot be carried or does not fit together.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_training_c(model, folder, samples=torch.ones(2, 4),
        ...                                targets=torch.tensor([0, 2]))
        >>> report.files, report.rom_bytes, report.macs
        (('network.h', 'network.c', 'self_test.c', 'Makefile', 'README.md'), 268, 136)
    """
    check_name(name)
    if not isinstance(samples, Tensor) or samples.ndim < 2 or len(samples) < 1 or vectors < 1:
        raise InvalidInput("samples are a batch of inputs (N, ...) with at least one, for vectors")
    if optimizer == "sgd" and momentum != 0.0:
        raise InvalidInput('momentum needs optimizer="momentum"')
    if optimizer not in ("sgd", "momentum"):
        raise InvalidInput(f'the optimizer is "sgd" or "momentum", got {optimizer!r}')
    program = lower_training(model, tuple(samples.shape[1:]))
    targets = _targets(program, samples, targets, loss)
    plan = plan_of(program, "float32", optimizer, False, fast_bytes)
    samples, targets = samples[:vectors].cpu(), targets[:vectors].cpu()
    texts = {
        "network.h": header_text(program, plan, name, loss),
        "network.c": source_text(program, plan, name, loss),
        "self_test.c": self_test_text(
            program, plan, name, samples, targets, loss, float(rate), float(momentum)
        ),
        "Makefile": MAKEFILE,
        "README.md": _readme(plan, name, loss, len(samples)),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    rom = 4 * sum(layer.parameters for layer in program.layers)
    return CReport(rom, plan.total_bytes, sum(plan.macs), tuple(texts), len(samples))


def _targets(program: TrainingProgram, samples: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Targets that fit samples and loss."""
    out = program.sizes[program.output]
    if loss not in ("cross_entropy", "mse"):
        raise InvalidInput(f'the loss is "cross_entropy" or "mse", got {loss!r}')
    if len(targets) != len(samples):
        raise InvalidInput(f"{len(samples)} samples have {len(targets)} targets: give one each")
    if not bool(torch.isfinite(samples).all()):
        raise InvalidInput("samples have entries that are not finite")
    if loss == "mse":
        if targets.numel() != out * len(samples) or not bool(torch.isfinite(targets).all()):
            raise InvalidInput(f"targets of mse are {out} finite values a sample")
        return targets
    whole = not (targets.is_floating_point() or targets.dtype == torch.bool)
    if targets.ndim != 1 or not whole or not bool(((targets >= 0) & (targets < out)).all()):
        raise InvalidInput(f"targets of cross_entropy are whole numbers (N,) in 0..{out - 1}")
    return targets.long()


def _readme(plan: TrainingPlan, name: str, loss: Loss, vectors: int) -> str:
    target = target_type(loss).strip()
    extra = ", momentum" if plan.optimizer == "momentum" else ""
    return f"""\
# {name}

A network that learns a sample at a time, in single precision, as plain C99: no malloc; tanhf, expf
and logf are all it takes from the mathematics library. One thread at a time.

- `{name}_run(in, out)`: the network
- `{name}_step(in, target, rate{extra})`: one step of descent; gives the loss before it
- `{name}_gradient(in, target)`, `{name}_update(rate{extra})`: its halves

`target`: `{target}`, of the loss `{loss}`.

```
{plan.table()}
```

These bytes are all the arrays there are. Descriptors of layers, code and the caller's sample come
on top.

`make` compiles `self_test.c` and runs it: {vectors} steps must agree with PyTorch to {TOLERANCE:g}.
"""
