"""Which samples a device sends, and what the cloud learns from them and sends back."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.cloud_adaptation import (
    AdaptationSettings,
    CloudAdapter,
    TestTimeEntropy,
    affine_parameters,
    batch_statistics,
    load_affine,
)
from driftwell.quantization.edge.sample_filter import FilterState, SampleFilter, entropy_of

SMALL = AdaptationSettings(batch=8, replay=6, buffer=20)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(width: int, seed: int) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 3))
    made.double().eval()
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed + i))
    return made


def two(p: float) -> list[float]:
    return [p, 1.0 - p]


def entropy(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0.0)


# --- which samples are sent ---------------------------------------------------------------------


def test_entropy_is_that_of_the_definition() -> None:
    p = draw(20, 5).softmax(1)
    naive = torch.tensor([entropy(row) for row in p.tolist()], dtype=torch.float64)
    assert torch.allclose(entropy_of(p), naive, atol=1e-12)
    assert entropy_of(torch.eye(3)).tolist() == [0.0, 0.0, 0.0]


def test_neither_the_settled_nor_the_hopeless_are_sent() -> None:
    rows = [two(p) for p in (0.999, 0.99, 0.95, 0.9, 0.8, 0.5)]
    chosen = SampleFilter(low=0.1, high=0.5, likeness=2.0)
    keep, state = chosen.select(torch.tensor(rows, dtype=torch.float64))
    share = [entropy(row) / math.log(2) for row in rows]
    assert keep.tolist() == [0.1 < s < 0.5 for s in share]
    assert True in keep.tolist()
    assert (state.seen, state.kept) == (6, int(keep.sum()))


def test_the_upper_bound_falls_with_the_running_entropy() -> None:
    chosen = SampleFilter(low=0.0, high=0.8, likeness=2.0, memory=0.5)
    unsure = torch.tensor([two(0.8)] * 4, dtype=torch.float64)  # H = .72 ln 2
    sure = torch.tensor([two(0.99)] * 4, dtype=torch.float64)
    keep, state = chosen.select(unsure)
    assert keep.all()
    assert state.entropy == state.first == pytest.approx(entropy(two(0.8)))
    for _ in range(3):
        _, state = chosen.select(sure, state)
    expected = entropy(two(0.8)) / 8 + 7 / 8 * entropy(two(0.99))
    assert state.entropy == pytest.approx(expected, rel=1e-6)
    assert state.first == pytest.approx(entropy(two(0.8)))
    assert not chosen.select(unsure, state)[0].any(), "what was sent before is hopeless now"


def test_the_upper_bound_never_rises() -> None:
    chosen = SampleFilter(low=0.0, high=0.5, likeness=2.0, memory=0.0)
    _, state = chosen.select(torch.tensor([two(0.99)], dtype=torch.float64))
    keep, _ = chosen.select(torch.tensor([two(0.6), two(0.8)], dtype=torch.float64), state)
    assert not keep.any()


def test_what_is_like_what_was_sent_is_not_sent_again() -> None:
    chosen = SampleFilter(low=0.0, high=1.0, likeness=0.6, memory=0.9)
    first, second = [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]
    keep, state = chosen.select(torch.tensor([first], dtype=torch.float64))
    assert keep.tolist() == [True]
    assert state.mean is not None
    keep, state = chosen.select(torch.tensor([first, second], dtype=torch.float64), state)
    assert keep.tolist() == [False, True]
    wanted = 0.9 * torch.tensor(first) + 0.1 * torch.tensor(second)
    assert torch.allclose(state.mean, wanted.double(), atol=1e-7)


def test_an_empty_batch_changes_nothing() -> None:
    before = FilterState(seen=3, kept=1, entropy=0.2, first=0.3)
    keep, state = SampleFilter().select(torch.zeros(0, 4), before)
    assert keep.shape == (0,)
    assert state == before


@pytest.mark.parametrize(
    "wrong", [{"low": 0.5, "high": 0.4}, {"low": -0.1}, {"high": 1.1}, {"memory": 1.0},
              {"memory": -0.1}, {"likeness": 0.0}, {"low": math.nan}]
)  # fmt: skip
def test_a_filter_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        SampleFilter(**wrong)


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(2, 1), torch.tensor([[1.5, -0.5]]),
                                   torch.tensor([[math.nan, 0.5]])])  # fmt: skip
def test_no_probabilities(wrong: Tensor) -> None:
    with pytest.raises(InvalidInput, match=r"are \(B, C\) in \[0, 1\]"):
        SampleFilter().select(wrong)


# --- what is learned ----------------------------------------------------------------------------


def test_only_affine_parameters_learn_and_travel() -> None:
    teacher, student = net(12, 1), net(6, 50)
    originals = [{k: t.clone() for k, t in m.state_dict().items()} for m in (teacher, student)]
    cloud = CloudAdapter(teacher, student, SMALL)
    back = cloud.receive(draw(8, 4))
    assert set(back) == {"1.weight", "1.bias"}
    for model, learned, before in zip(
        (teacher, student), (cloud.teacher, cloud.student), originals, strict=True
    ):
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), "the user's own networks stay as they are"
        changed = {k for k, t in learned.state_dict().items() if not torch.equal(t, before[k])}
        assert changed == {"1.weight", "1.bias"}, "running statistics stay too"
    load_affine(student, back)
    assert torch.equal(student[1].weight, cloud.student[1].weight)


def losses(
    teacher: nn.Module, student: nn.Module, x: Tensor, s: AdaptationSettings
) -> tuple[Tensor, Tensor]:
    """Both losses from the formulas, entry by entry."""
    highest = s.reference * math.log(3)

    def h(row: Tensor) -> Tensor:
        return -sum(q * torch.log(q) for q in row)  # type: ignore[return-value]

    t, p = teacher(x).softmax(1), student(x).softmax(1)
    first = sum(torch.exp(highest - h(a.detach())) * h(a) for a in t) / len(x)
    parts = []
    for a, b in zip(t.detach(), p, strict=True):
        weight = torch.exp(highest - h(a))
        divergence = sum(a[k] * torch.log(a[k] / b[k]) for k in range(3))
        hard = -torch.log(b[int(a.argmax())])
        own = torch.exp(highest - h(b.detach())) * h(b)
        parts.append(s.entropy * own + s.divergence * weight * divergence + s.hard * weight * hard)
    return first, sum(parts) / len(x)  # type: ignore[return-value]


def test_both_steps_are_those_of_the_formulas() -> None:
    settings = AdaptationSettings(batch=8, teacher_rate=0.1, student_rate=0.2, replay=0)
    x = draw(8, 4)
    teacher, student = net(12, 1), net(6, 50)
    cloud = CloudAdapter(teacher, student, settings)
    cloud.receive(x)
    for model in (teacher, student):
        model[1].train()
    first, _ = losses(teacher, student, x, settings)
    g = torch.autograd.grad(first, list(teacher[1].parameters()))
    with torch.no_grad():
        for parameter, slope in zip(teacher[1].parameters(), g, strict=True):
            parameter -= settings.teacher_rate * slope
    # the student is taught by the teacher after its step
    _, second = losses(teacher, student, x, settings)
    g = torch.autograd.grad(second, list(student[1].parameters()))
    with torch.no_grad():
        for parameter, slope in zip(student[1].parameters(), g, strict=True):
            parameter -= settings.student_rate * slope
    for wanted, learned in ((teacher, cloud.teacher), (student, cloud.student)):
        assert torch.allclose(wanted[1].weight, learned[1].weight, atol=1e-10)
        assert torch.allclose(wanted[1].bias, learned[1].bias, atol=1e-10)


def test_samples_wait_until_a_batch_is_full() -> None:
    cloud = CloudAdapter(net(12, 1), net(6, 50), SMALL)
    assert cloud.receive(draw(5, 4)) == {}
    assert cloud.receive(draw(0, 4)) == {}
    assert cloud.rounds == 0
    assert cloud.receive(draw(3, 4, seed=1))
    assert cloud.rounds == 1
    assert cloud.receive(draw(2, 4, seed=2)) == {}


def test_samples_of_before_are_replayed_and_only_so_many_kept() -> None:
    seen: list[Tensor] = []
    student = net(6, 50)
    cloud = CloudAdapter(net(12, 1), student, SMALL)
    cloud.student.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batches = [draw(8, 4, seed=i) for i in range(4)]
    for batch in batches:
        cloud.receive(batch)
    assert [len(x) for x in seen] == [8, 14, 14, 14]
    for i, x in enumerate(seen):
        assert torch.equal(x[:8], batches[i])
        earlier = torch.cat(batches[:i]) if i else x[:0]
        for row in x[8:]:
            assert (earlier == row).all(1).any(), "replayed samples are earlier ones"
    kept = cloud._buffer
    assert kept is not None
    assert torch.equal(kept, torch.cat(batches)[-20:]), "the newest 20, none twice"


def test_a_seed_replays_the_same() -> None:
    found = []
    for seed in (0, 0, 1):
        cloud = CloudAdapter(net(12, 1), net(6, 50), SMALL, seed=seed)
        for i in range(3):
            back = cloud.receive(draw(8, 4, seed=i))
        found.append(back["1.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_it_helps_where_the_inputs_have_shifted() -> None:
    teacher = net(12, 1)
    cloud = CloudAdapter(teacher, net(6, 50), AdaptationSettings(batch=8, student_rate=0.02))
    x = draw(64, 4) * 2.0 + 1.0
    far = []
    for _ in range(30):
        with batch_statistics(cloud.student), batch_statistics(cloud.teacher), torch.no_grad():
            t, log_p = cloud.teacher(x).softmax(1), cloud.student(x).log_softmax(1)
        far.append(float((t * (t.clamp(min=1e-12).log() - log_p)).sum(1).mean()))
        cloud.receive(x)
    assert far[-1] < 0.7 * far[0]


def test_entropy_alone_lowers_entropy_and_changes_affine_parameters_only() -> None:
    model, x = net(6, 50), draw(32, 4)
    before = {k: t.clone() for k, t in model.state_dict().items()}
    tent = TestTimeEntropy(model, rate=0.05)
    found = [float(entropy_of(tent.predict(x).softmax(1)).mean()) for _ in range(20)]
    assert found[-1] < found[0]
    changed = {k for k, t in model.state_dict().items() if not torch.equal(t, before[k])}
    assert changed == {"1.weight", "1.bias"}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_batch_statistics_are_used_and_everything_is_put_back(training: bool, fails: bool) -> None:
    model, x = net(6, 50), draw(32, 4)
    model.train(training)
    before = {k: t.clone() for k, t in model.state_dict().items()}
    try:
        with batch_statistics(model):
            y = model[1](model[0](x))
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    h = model[0](x)
    scaled = (h - h.mean(0)) / (h.var(0, correction=0) + model[1].eps).sqrt()
    assert torch.allclose(y, scaled * model[1].weight + model[1].bias, atol=1e-10)
    assert model[1].training is training
    assert model[1].track_running_stats
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_every_normalisation_counts() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.Sequential(nn.GroupNorm(2, 4)), nn.Linear(4, 3),
                          nn.BatchNorm1d(3, affine=False))  # fmt: skip
    found = affine_parameters(model)
    assert list(found) == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]
    found["0.weight"] += 1.0
    assert torch.equal(model[0].weight, torch.ones(4)), "copies"
    assert list(affine_parameters(nn.LayerNorm(3))) == ["weight", "bias"]


def test_what_cannot_be() -> None:
    plain = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(InvalidInput, match="without normalisations that scale"):
        CloudAdapter(net(6, 1), plain)
    with pytest.raises(InvalidInput, match="without normalisations that scale"):
        TestTimeEntropy(plain)
    for wrong in ({"batch": 0}, {"buffer": 0}, {"replay": -1}):
        with pytest.raises(InvalidInput, match="at least 1 and replay at least 0"):
            AdaptationSettings(**wrong)
    cloud = CloudAdapter(net(12, 1), net(6, 50), SMALL)
    with pytest.raises(InvalidInput, match="must be finite"):
        cloud.receive(torch.full((2, 4), math.nan, dtype=torch.float64))
    model = net(6, 50)
    before = model[1].weight.clone()
    good = torch.zeros(6, dtype=torch.float64)
    for name, value in (("1.weight", torch.zeros(5)), ("0.weight", torch.zeros(6, 4)), ("x", good)):
        with pytest.raises(InvalidInput, match="has no affine parameter"):
            load_affine(model, {"1.weight": good, name: value})
        assert torch.equal(model[1].weight, before), "nothing is changed then"
