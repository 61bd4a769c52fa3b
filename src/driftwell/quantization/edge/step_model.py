"""What comes next of an output, as a small network of past outputs and inputs."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.nn.drawn_layers import drawn_linear


@final
class StepModel(nn.Module):
    """The next output of a plant with one input and one output.

        d_{k+1} = y_{k+1} - y_k = net(w_k),
        w_k = (y_k, d_k, ..., d_{k-n+2}, u_k, ..., u_{k-m+1})

    Increments and not outputs, since single precision loses the difference of two outputs that are
    near to each other, and a controller lives on that difference.

    Args:
        network: net, (B, n + m) -> (B, 1), row by row.
        outputs: n >= 1, an output and n - 1 increments in the window.
        inputs: m >= 1, inputs in the window.

    Raises:
        InvalidInput: empty windows, or a network that does not take them.

    Example:
        >>> model = StepModel(nn.Linear(3, 1), outputs=2, inputs=1)
        >>> d, slopes = model.linearized(torch.zeros(5, 3))
        >>> d.shape, slopes.shape, bool((slopes[0] == model.network.weight[0]).all())
        (torch.Size([5]), torch.Size([5, 3]), True)
    """

    def __init__(self, network: nn.Module, *, outputs: int, inputs: int) -> None:
        super().__init__()
        if outputs < 1 or inputs < 1:
            raise InvalidInput(
                f"a window holds at least one output and one input, got {outputs} and {inputs}"
            )
        self.network, self.outputs, self.inputs = network, outputs, inputs
        self._check()

    def _check(self) -> None:
        try:
            found = str(tuple(self.network(self.empty(2, self.outputs + self.inputs)).shape))
        except RuntimeError as error:
            found = str(error).splitlines()[0]
        if found != "(2, 1)":
            raise InvalidInput(
                f"the network must take windows (batch, {self.outputs + self.inputs}) and give "
                f"(batch, 1); for a batch of 2 it gives {found}"
            )

    def empty(self, *shape: int) -> Tensor:
        """Zeros of the network's type and place."""
        like = next(self.network.parameters(), torch.zeros(()))
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def forward(self, window: Tensor) -> Tensor:
        """d_{k+1} (B,) of windows w_k (B, n + m)."""
        increments: Tensor = self.network(window)
        return increments[:, 0]

    def linearized(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """d_{k+1} (B,), and its slopes along w_k (B, n + m)."""
        with torch.enable_grad():
            w = window.detach().requires_grad_()
            d = self(w)
            (slopes,) = torch.autograd.grad(d.sum(), w)
        return d.detach(), slopes


def windows_of(outputs: Tensor, inputs: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    """All windows of a record, and the increment after each.

    Args:
        outputs: y (T,).
        inputs: u (T,), u_k applied after y_k was read.
        n: an output and n - 1 increments in a window.
        m: inputs in a window.

    Returns:
        windows (T - max(n, m), n + m) and the increments after them.

    Raises:
        InvalidInput: records of unlike lengths, too short, or not finite.

    Example:
        >>> y = torch.tensor([0.0, 1.0, 3.0, 6.0])
        >>> w, after = windows_of(y, 10 * y, 2, 1)
        >>> w.tolist(), after.tolist()
        ([[1.0, 1.0, 10.0], [3.0, 2.0, 30.0]], [2.0, 3.0])
    """
    longest = max(n, m)
    if outputs.ndim != 1 or outputs.shape != inputs.shape or len(outputs) <= longest:
        raise InvalidInput(
            f"a record is outputs and inputs of one length above {longest}, got "
            f"{tuple(outputs.shape)} and {tuple(inputs.shape)}"
        )
    if not bool(outputs.isfinite().all() and inputs.isfinite().all()):
        raise InvalidInput("a record must be finite: cut out what is not")
    now = range(longest - 1, len(outputs) - 1)
    moved = outputs.diff(prepend=outputs[:1])
    past = [outputs[now.start : now.stop]]
    past += [moved[now.start - i : now.stop - i] for i in range(n - 1)]
    past += [inputs[now.start - i : now.stop - i] for i in range(m)]
    return torch.stack(past, dim=1), moved[longest:]


def learn_step_model(
    outputs: Tensor,
    inputs: Tensor,
    *,
    past: tuple[int, int] = (2, 2),
    widths: tuple[int, ...] = (16, 16),
    updates: int = 300,
    seed: int = 0,
) -> StepModel:
    """A `StepModel` of tanh layers, fitted to a record by limited-memory BFGS in float64.

    Windows are whitened and increments standardised; both maps are folded into the first and the
    last layer, so the network takes and gives the plant's own units.

    Args:
        outputs: y (T,).
        inputs: u (T,).
        past: n and m, see `StepModel`.
        widths: of the hidden layers.
        updates: at most so many iterations.
        seed: of the first weights.

    Returns:
        in float32, the precision of C; ``.double()`` computes more exactly with the same weights.

    Raises:
        InvalidInput: see `windows_of`; a record that does not move.

    Example:
        >>> from driftwell.quantization.edge.plants import MassSpringDamper, excitation
        >>> u = excitation(300, (-2.0, 2.0), seed=0)
        >>> y = MassSpringDamper().record(u)
        >>> model = learn_step_model(y, u, widths=(4,), updates=20)
        >>> window, after = windows_of(y, u, 2, 2)
        >>> bool((model(window.float()) - after).abs().max() < 0.02)
        True
    """
    n, m = past
    window, increment = windows_of(outputs.double(), inputs.double(), n, m)
    centre, factor = window.mean(dim=0), _factor(window)
    mean, std = increment.mean(), increment.std()
    if not float(std) > 0:
        raise InvalidInput("the record stands still: excite the plant before it is learned")
    white = torch.linalg.solve_triangular(factor, (window - centre).T, upper=False).T
    layers = _layers((n + m, *widths), seed)
    network = nn.Sequential(layers[0])
    for layer in layers[1:]:
        network.extend([nn.Tanh(), layer])
    _fit(network, white, ((increment - mean) / std)[:, None], updates)
    first, last = layers[0], layers[-1]
    with torch.no_grad():
        # W L^-1 (w - centre) + b, and std (..) + mean
        weight = torch.linalg.solve_triangular(factor.T, first.weight.T, upper=True).T
        first.bias.sub_(weight @ centre)
        first.weight.copy_(weight)
        last.weight *= std
        last.bias.mul_(std).add_(mean)
    return StepModel(network.float().eval(), outputs=n, inputs=m)


def _factor(window: Tensor) -> Tensor:
    covariance = torch.cov(window.T)
    floor = 1e-10 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    found: tuple[Tensor, Tensor] = torch.linalg.cholesky_ex(covariance + floor)
    if int(found[1]):
        raise InvalidInput("the record stands still: excite the plant before it is learned")
    return found[0]


def _layers(sizes: tuple[int, ...], seed: int) -> list[nn.Linear]:
    draw = torch.Generator().manual_seed(seed)
    return [drawn_linear(c, r, draw).double() for c, r in pairwise((*sizes, 1))]


def _fit(network: nn.Module, x: Tensor, y: Tensor, updates: int) -> None:
    optimizer = torch.optim.LBFGS(
        network.parameters(), max_iter=updates, history_size=50, tolerance_grad=1e-9,
        tolerance_change=1e-14, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = nn.functional.mse_loss(network(x), y)
        found.backward()
        return found

    with torch.enable_grad():
        optimizer.step(loss)
