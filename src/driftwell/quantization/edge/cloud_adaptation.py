"""Adapting a small network on a device with the help of a large one elsewhere."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, uniform
from driftwell.quantization.edge.sample_filter import CEMA, entropy_of

_NORMALISATIONS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@final
@dataclass(frozen=True)
class AdaptationSettings:
    """How `CloudAdapter` learns; the defaults are the paper's.

    Attributes:
        entropy: weight alpha of the student's own entropy.
        divergence: weight beta of KL(teacher || student).
        hard: weight gamma of the cross entropy with the teacher's class.
        reference: entropy E_max that weights exp(E_max - H) refer to, as a share of ln C.
        teacher_rate: learning rate of the teacher's affine parameters.
        student_rate: of the student's.
        momentum: of both.
        batch: samples that wait before the teacher looks at them.
        replay: earlier samples added to each batch of the student.
        buffer: samples kept for that.
    """

    entropy: float = 3.0
    divergence: float = 3.0
    hard: float = 1.0
    reference: float = 0.4
    teacher_rate: float = 2.5e-4
    student_rate: float = 2.5e-3
    momentum: float = 0.9
    batch: int = 32
    replay: int = 96
    buffer: int = 10_000

    def __post_init__(self) -> None:
        """Raise on settings that cannot be."""
        if min(self.batch, self.buffer) < 1 or self.replay < 0:
            raise InvalidInput("batch and buffer are at least 1 and replay at least 0")


@final
class CloudAdapter:
    """The large network and a copy of the small one, which learn from what a device sends, from
    Chen et al., *Towards Robust and Efficient Cloud-Edge Elastic Model Adaptation*, 2024,
    arXiv:2402.17316.

    Only the affine parameters of normalisations learn, and only they travel back. With H_t, H_s
    the entropies of teacher and student and weights w(H) = exp(E_max - H):

        teacher:  mean w(H_t) H_t
        student:  mean [alpha w(H_s) H_s + beta w(H_t) KL(p_t || p_s)
                        + gamma w(H_t) CE(p_s, argmax p_t)]

    Args:
        teacher: the large network, inputs to logits.
        student: the network of the device; a copy learns here.
        settings: of the learning.
        seed: of the choice of replayed samples.

    Raises:
        InvalidInput: a network without normalisations that have affine parameters.

    Example:
        >>> def net(n):
        ...     return nn.Sequential(nn.Linear(4, n), nn.BatchNorm1d(n), nn.Linear(n, 3))
        >>> cloud = CloudAdapter(net(16), net(8), AdaptationSettings(batch=4))
        >>> back = cloud.receive(torch.randn(4, 4))
        >>> sorted(back), sum(t.numel() for t in back.values())
        (['1.bias', '1.weight'], 16)
    """

    papers = (CEMA,)

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        settings: AdaptationSettings = AdaptationSettings(),
        seed: int = 0,
    ) -> None:
        self.teacher, self.student = copy.deepcopy(teacher), copy.deepcopy(student)
        self.settings, self.seed, self.rounds = settings, seed, 0
        self._waiting: list[Tensor] = []
        self._buffer: Tensor | None = None
        self._optimizers = [
            torch.optim.SGD(_only_affine_learn(model), rate, momentum=settings.momentum)
            for model, rate in (
                (self.teacher, settings.teacher_rate), (self.student, settings.student_rate)
            )
        ]  # fmt: skip

    def receive(self, x: Tensor) -> dict[str, Tensor]:
        """Take samples that a device sent; what to send back, empty while samples still wait.

        Args:
            x: samples (B, ...), perhaps none.

        Returns:
            Affine parameters of the student by name, as `load_affine` takes them.

        Raises:
            InvalidInput: samples that are not finite.
        """
        if not bool(x.isfinite().all()):
            raise InvalidInput("samples to adapt to must be finite: leave out those that are not")
        if len(x):
            self._waiting.append(x.detach())
        waiting = sum(len(part) for part in self._waiting)
        if waiting < self.settings.batch:
            return {}
        samples = torch.cat(self._waiting)
        self._waiting = []
        self._learn(samples)
        return affine_parameters(self.student)

    def _learn(self, x: Tensor) -> None:
        teach, learn = self._optimizers
        # the running statistics stay; what a batch is normalised with is the batch itself
        with batch_statistics(self.teacher), batch_statistics(self.student):
            logits = self.teacher(x)
            _step(teach, _weighted_entropy(logits, self.settings.reference))
            x = torch.cat([x, self._replayed(x)])
            with torch.no_grad():
                target = self.teacher(x).softmax(dim=1)
            _step(learn, self._distilled(self.student(x), target))
        self._keep(x)
        self.rounds += 1

    def _distilled(self, logits: Tensor, target: Tensor) -> Tensor:
        s = self.settings
        log_p = logits.log_softmax(dim=1)
        reference = s.reference * math.log(logits.shape[1])
        weight = (reference - entropy_of(target)).exp()
        divergence = (target * (target.clamp(min=1e-12).log() - log_p)).sum(dim=1)
        hard = nn.functional.cross_entropy(logits, target.argmax(dim=1), reduction="none")
        own = _weighted_entropy(logits, s.reference)
        return s.entropy * own + (weight * (s.divergence * divergence + s.hard * hard)).mean()

    def _replayed(self, x: Tensor) -> Tensor:
        if self._buffer is None or not self.settings.replay:
            return x[:0]
        draw = uniform(
            (1, self.settings.replay), seed=self.seed, purpose=Purpose.DATA, chains=1,
            step=self.rounds, dtype=torch.float64,
        )  # fmt: skip
        return self._buffer[(draw[0] * len(self._buffer)).long().to(x.device)]

    def _keep(self, x: Tensor) -> None:
        fresh = x[: len(x) - (self.settings.replay if self._buffer is not None else 0)]
        whole = fresh if self._buffer is None else torch.cat([self._buffer, fresh])
        self._buffer = whole[-self.settings.buffer :]


@final
class TestTimeEntropy:
    """Entropy minimisation on the device itself, from Wang et al., *Tent: Fully Test-Time
    Adaptation by Entropy Minimization*, 2021, arXiv:2006.10726: the baseline without a cloud.

    Args:
        model: learns in place, its affine parameters only.
        rate: learning rate.
        momentum: of the gradient.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        >>> TestTimeEntropy(net).predict(torch.randn(6, 4)).shape
        torch.Size([6, 3])
    """

    __test__ = False  # the name begins as pytest's own do
    papers = (CEMA,)

    def __init__(self, model: nn.Module, rate: float = 2.5e-3, momentum: float = 0.9) -> None:
        self.model = model
        self._optimizer = torch.optim.SGD(_only_affine_learn(model), rate, momentum=momentum)

    def predict(self, x: Tensor) -> Tensor:
        """Logits (B, C) before the step that the batch teaches."""
        with batch_statistics(self.model):
            logits: Tensor = self.model(x)
            _step(self._optimizer, entropy_of(logits.softmax(dim=1)).mean())
        return logits.detach()


def affine_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the scales and offsets of all normalisations, by name.

    Example:
        >>> list(affine_parameters(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))))
        ['1.weight', '1.bias']
    """
    return {name: p.detach().clone() for name, p in _affine(model)}


def load_affine(model: nn.Module, affine: dict[str, Tensor]) -> None:
    """Put scales and offsets in place.

    Raises:
        InvalidInput: a name or shape that the model does not have; nothing is changed then.

    Example:
        >>> net = nn.Sequential(nn.LayerNorm(2))
        >>> load_affine(net, {"0.bias": torch.ones(2)})
        >>> net[0].bias.tolist()
        [1.0, 1.0]
    """
    there = dict(_affine(model))
    for name, value in affine.items():
        if name not in there or there[name].shape != value.shape:
            raise InvalidInput(f"the model has no affine parameter {name} of {tuple(value.shape)}")
    with torch.no_grad():
        for name, value in affine.items():
            there[name].copy_(value)


@final
class batch_statistics:
    """Batch normalisations use, for the time of a `with`, the statistics of the batch at hand, and
    leave their running ones as they are.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(2)).eval()
        >>> with batch_statistics(net):
        ...     y = net(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        >>> y.mean(dim=0).abs().max().item() < 1e-6, net[0].running_mean.tolist()
        (True, [0.0, 0.0])
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [layer for layer in model.modules() if isinstance(layer, _NORMALISATIONS[0])]
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before = [(layer.training, layer.track_running_stats) for layer in self._layers]
        for layer in self._layers:
            layer.training, layer.track_running_stats = True, False

    def __exit__(self, *_: object) -> None:
        for layer, (training, tracking) in zip(self._layers, self._before, strict=True):
            layer.training, layer.track_running_stats = training, tracking


def _affine(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, layer in model.named_modules():
        if isinstance(layer, _NORMALISATIONS):
            for own, parameter in layer.named_parameters(recurse=False):
                yield f"{name}.{own}" if name else own, parameter


def _only_affine_learn(model: nn.Module) -> list[nn.Parameter]:
    model.eval().requires_grad_(False)
    found = [parameter for _, parameter in _affine(model)]
    if not found:
        raise InvalidInput(
            f"a {type(model).__name__} without normalisations that scale has nothing to adapt: "
            "give one with BatchNorm, LayerNorm or GroupNorm"
        )
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def _weighted_entropy(logits: Tensor, reference: float) -> Tensor:
    entropy = entropy_of(logits.softmax(dim=1))
    weight = (reference * math.log(logits.shape[1]) - entropy.detach()).exp()
    return (weight * entropy).mean()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
