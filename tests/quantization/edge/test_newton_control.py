"""Newton's predictive control: derivatives, the linear plant's optimum, bounds, the loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.edge.closed_loop import track
from driftwell.quantization.edge.newton_control import ControlState, NewtonPredictiveControl
from driftwell.quantization.edge.plants import MassSpringDamper, sinusoid, staircase
from driftwell.quantization.edge.step_model import StepModel, windows_of

PLANT = MassSpringDamper()
WIDE = (-1e4, 1e4)


def curved_model(n: int = 2, m: int = 2, seed: int = 0, size: float = 1.0) -> StepModel:
    """Random tanh layers, bent enough that Gauss-Newton is not the exact Hessian."""
    draw = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(n + m, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=draw).double())
    return StepModel(network.eval(), outputs=n, inputs=m)


def exact_model() -> StepModel:
    """The difference equation of the linear plant itself, from its exact step: by
    Cayley-Hamilton, y'' = tr(A) y' - det(A) y + C B u' + C (A - tr(A)) B u."""
    columns = [PLANT.step(start, 0.0) for start in ((1.0, 0.0), (0.0, 1.0))]
    a = torch.tensor(columns, dtype=torch.float64).T
    b = torch.tensor(PLANT.step((0.0, 0.0), 1.0), dtype=torch.float64)
    trace, det = float(a.trace()), float(torch.linalg.det(a))
    last = (a - trace * torch.eye(2).double()) @ b
    layer = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[trace - 1 - det, det, float(b[0]), float(last[0])]]))
    return StepModel(layer.eval(), outputs=2, inputs=2)


def some_state(control: NewtonPredictiveControl, seed: int = 0) -> tuple[ControlState, Tensor]:
    """Past values and a plan within bounds, and a reference."""
    draw = torch.Generator().manual_seed(seed)
    state = control.start(0.0)
    low, high = control.bounds

    def random(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=draw).double()

    plan = low + (high - low) * (0.1 + 0.8 * random(state.plan))
    reference = random(torch.zeros(control.horizon)) - 0.5
    return replace(
        state, outputs=random(state.outputs), inputs=random(state.inputs), plan=plan
    ), reference


def differences(function: Any, at: Tensor, h: float = 1e-5) -> Tensor:
    """Central differences of a function along each entry, stacked last."""
    steps = h * torch.eye(len(at)).to(at)
    return torch.stack([(function(at + s) - function(at - s)) / (2 * h) for s in steps], dim=-1)


@pytest.mark.parametrize(("n", "m", "free"), [(2, 2, 3), (1, 1, 6), (3, 1, 1), (1, 4, 2)])
def test_sensitivities_and_gradient_are_those_of_finite_differences(
    n: int, m: int, free: int
) -> None:
    control = NewtonPredictiveControl(
        curved_model(n, m), horizon=6, control_horizon=free, move_weight=0.3, barrier=0.05
    )
    state, reference = some_state(control)
    _, windows = control.rollout(state, state.plan)
    slopes = differences(lambda plan: control.rollout(state, plan)[0], state.plan)
    assert torch.allclose(control.sensitivities(windows), slopes, atol=1e-8)
    gradient, _ = control.derivatives(state, reference, state.plan)
    assert torch.allclose(
        gradient, differences(lambda U: control.cost(state, reference, U), state.plan), atol=1e-7
    )


def test_the_exact_hessian_is_that_of_finite_differences_and_gauss_newton_is_not() -> None:
    model = curved_model(seed=1, size=0.5)
    gauss = NewtonPredictiveControl(model, horizon=6, control_horizon=3, barrier=1.0)
    exact = replace(gauss, hessian="exact")
    state, reference = some_state(gauss)
    wanted = differences(lambda U: gauss.derivatives(state, reference, U)[0], state.plan)
    assert torch.allclose(exact.derivatives(state, reference, state.plan)[1], wanted, atol=1e-6)
    found = gauss.derivatives(state, reference, state.plan)[1]
    assert (found - wanted).abs().max() > 1e-2


def test_gauss_newton_is_exact_where_the_model_is_linear() -> None:
    gauss = NewtonPredictiveControl(exact_model(), bounds=(-9.0, 9.0), barrier=0.1)
    state, reference = some_state(gauss)
    exact = replace(gauss, hessian="exact")
    found, wanted = (c.derivatives(state, reference, state.plan)[1] for c in (gauss, exact))
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_one_step_reaches_the_least_squares_optimum_of_a_linear_plant() -> None:
    """min |r - free - G U|^2 + lambda |D U - e_1 u_{k-1}|^2, by an orthogonal factorisation."""
    weight = 1e-3
    control = NewtonPredictiveControl(
        exact_model(), horizon=12, control_horizon=4, move_weight=weight, bounds=WIDE, barrier=0.0
    )
    state, reference = some_state(control)
    free, windows = control.rollout(state, torch.zeros(4).double())
    difference = torch.eye(4).double() - torch.diag(torch.ones(3).double(), -1)
    before = torch.cat([state.inputs[:1], torch.zeros(3).double()])
    rows = torch.cat([control.sensitivities(windows), weight**0.5 * difference])
    right = torch.cat([reference - free.detach(), weight**0.5 * before])
    optimum = torch.linalg.lstsq(rows, right[:, None]).solution[:, 0]
    found = control.improved(state, reference, state.plan)
    assert torch.allclose(found, optimum, rtol=1e-8)
    gradient, _ = control.derivatives(state, reference, found)
    assert gradient.abs().max() < 1e-9


def test_the_exact_model_of_the_linear_plant_predicts_it() -> None:
    forces = torch.linspace(-3, 3, 40).double().sin()
    y = PLANT.record(forces)
    window, moved = windows_of(y, forces, 2, 2)
    assert torch.allclose(exact_model()(window), moved, atol=1e-12)


def test_newton_steps_converge_to_a_minimum() -> None:
    control = NewtonPredictiveControl(
        curved_model(), horizon=5, control_horizon=3, barrier=0.01, move_weight=0.1,
        hessian="exact",
    )  # fmt: skip
    state, reference = some_state(control)
    plan = state.plan
    for _ in range(40):
        plan = control.improved(state, reference, plan)
    gradient, hessian = control.derivatives(state, reference, plan)
    assert gradient.abs().max() < 1e-6
    assert torch.linalg.eigvalsh(hessian).min() > 0


def rises(count: int = 60) -> int:
    """Of so many steps from random plans, those after which the cost is more than 1 % higher."""
    found = 0
    for seed in range(count):
        control = NewtonPredictiveControl(
            curved_model(seed=seed), horizon=8, control_horizon=4, bounds=(-2.0, 2.0)
        )
        state, reference = some_state(control, seed)
        plan = control.improved(state, reference, state.plan)
        assert plan.abs().max() < 2
        before, after = (control.cost(state, reference, u) for u in (state.plan, plan))
        found += bool(after > 1.01 * before)
    return found


def test_the_way_back_to_the_parabola_s_minimum_keeps_most_steps_from_raising_the_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_it = rises()
    monkeypatch.setattr("driftwell.quantization.edge.newton_control.SLACK", 1e9)
    without = rises()
    assert with_it <= 6
    assert without >= 2 * with_it


@pytest.mark.parametrize("barrier", [1e-4, 1e-2])
def test_bounds_hold_where_the_reference_is_out_of_reach(barrier: float) -> None:
    """A force of 1 holds the spring of 4 N/m at a quarter, and no further."""
    control = NewtonPredictiveControl(exact_model(), bounds=(-1.0, 1.0), barrier=barrier, steps=2)
    run = track(control, PLANT, staircase((2.0, -2.0), samples=100), horizon=10)
    assert run.inputs.abs().max() <= 1
    assert run.inputs[60:85].min() > 0.7
    assert run.inputs[160:].max() < -0.7


def test_a_plan_never_starts_at_a_bound() -> None:
    """Even where the last one ended there, or the plant rested under more than is allowed."""
    control = NewtonPredictiveControl(exact_model(), bounds=(-1.0, 1.0), steps=3)
    state = control.start(0.0, u=5.0)
    assert state.plan.max() == pytest.approx(0.98)
    for _ in range(5):
        u, state = control.step(state, 0.0, torch.full((10,), 9.0))
    assert u > 0.98
    assert state.plan.max() <= 0.98


def test_a_reference_within_reach_is_held_without_offset() -> None:
    control = NewtonPredictiveControl(exact_model(), bounds=(-8.0, 8.0), steps=2, barrier=1e-6)
    run = track(control, PLANT, torch.ones(200), horizon=10)
    assert abs(float(run.outputs[-1]) - 1) < 1e-4
    assert abs(float(run.inputs[-1]) - 4) < 1e-3


def test_the_shifted_plan_starts_nearer_to_the_minimum_than_rest() -> None:
    control = NewtonPredictiveControl(exact_model(), bounds=(-8.0, 8.0), horizon=12)
    reference = sinusoid(60, amplitude=1.0, samples=40.0)
    place, state, wins = (0.0, 0.0), control.start(0.0), 0
    for k in range(40):
        ahead = reference[k + 1 : k + 13]
        measured = control.measured(state, place[0])
        costs = [control.cost(measured, ahead, p) for p in (state.plan, 0 * state.plan)]
        wins += bool(costs[0] < costs[1])
        u, state = control.step(state, place[0], ahead)
        place = PLANT.step(place, u)
    assert wins >= 35


def test_a_step_is_a_function_of_its_arguments() -> None:
    control = NewtonPredictiveControl(curved_model())
    state, reference = some_state(control)
    kept = [t.clone() for t in (state.outputs, state.inputs, state.plan)]
    first, second = (control.step(state, 0.3, reference) for _ in range(2))
    assert first[0] == second[0]
    assert torch.equal(first[1].plan, second[1].plan)
    for before, after in zip(kept, (state.outputs, state.inputs, state.plan), strict=True):
        assert torch.equal(before, after)
    assert float(first[1].outputs[0]) == 0.3
    assert float(first[1].inputs[0]) == first[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control_horizon": 11}, "control horizon"),
        ({"control_horizon": 0}, "control horizon"),
        ({"bounds": (1.0, -1.0)}, "bounds"),
        ({"bounds": (-float("inf"), 1.0)}, "finite"),
        ({"move_weight": -1.0}, "move_weight"),
        ({"barrier": float("nan")}, "barrier"),
        ({"steps": 0}, "Newton step"),
        ({"hessian": "newton"}, "hessian"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        NewtonPredictiveControl(exact_model(), **settings)


def test_measurements_that_cannot_be_are_refused() -> None:
    control = NewtonPredictiveControl(exact_model())
    state = control.start(0.0)
    with pytest.raises(InvalidInput, match="measured output must be finite"):
        control.step(state, float("nan"), torch.zeros(10))
    with pytest.raises(InvalidInput, match="reference is 10 finite values"):
        control.step(state, 0.0, torch.zeros(9))
    with pytest.raises(InvalidInput, match="reference is 10 finite values"):
        control.step(state, 0.0, torch.full((10,), float("inf")))
    with pytest.raises(InvalidInput, match="output must be finite"):
        control.start(float("inf"))


def test_a_model_that_does_not_react_is_told() -> None:
    layer = nn.Linear(3, 1).double()
    nn.init.zeros_(layer.weight)
    model = StepModel(layer, outputs=2, inputs=1)
    control = NewtonPredictiveControl(model, move_weight=0.0, barrier=0.0)
    with pytest.raises(InvalidInput, match="does not react"):
        control.step(control.start(0.0), 0.0, torch.ones(10))


def test_predictions_that_are_not_finite_never_become_an_input() -> None:
    model = exact_model()
    with torch.no_grad():
        next(model.parameters()).fill_(1e200)
    control = NewtonPredictiveControl(model)
    with pytest.raises(InvalidInput, match="predictions are not finite"):
        control.step(control.start(0.0), 1.0, torch.ones(10))
