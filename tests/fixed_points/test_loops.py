"""Loops: the same answers compiled, batched and exported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Anderson, EarlyExit, FixedBudget, Picard, Unrolled, WhileLoop

SOLVERS = [Picard(), Anderson(memory=3), Anderson(memory=4, damping=0.8)]
D = 8


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Layer(nn.Module):
    """z = tanh(W z + x), solved."""

    def __init__(self, solver, loop, max_steps=40, gradient=Unrolled()) -> None:
        super().__init__()
        self.W = nn.Parameter(0.8 * gaussian(D, D, seed=0) / D**0.5)
        self.solver, self.loop, self.max_steps, self.gradient = solver, loop, max_steps, gradient

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = dw.fixed_point(
            lambda z, x: torch.tanh(z @ self.W.T + x),
            torch.zeros_like(x),
            x,
            solver=self.solver,
            gradient=self.gradient,
            loop=self.loop,
            max_steps=self.max_steps,
            tol=1e-8,
            throw=False,
        )
        return found.z, found.steps, found.status


INPUT = gaussian(5, D, seed=1)


def same(got, wanted, atol=1e-12) -> None:
    torch.testing.assert_close(got[0], wanted[0], rtol=0, atol=atol)
    assert torch.equal(got[1], wanted[1])
    assert torch.equal(got[2], wanted[2])


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_fixed_budget_gives_what_an_early_exit_gives(solver):
    with torch.no_grad():
        same(Layer(solver, FixedBudget())(INPUT), Layer(solver, EarlyExit())(INPUT))


@pytest.mark.parametrize("budget", [1, 2, 7])
def test_every_loop_keeps_the_budget(budget):
    with torch.no_grad():
        wanted = Layer(Picard(), EarlyExit(), budget)(INPUT)
        assert wanted[1].tolist() == [budget] * 5
        for loop in (FixedBudget(), WhileLoop()):
            same(Layer(Picard(), loop, budget)(INPUT), wanted)


@pytest.mark.parametrize("solver", SOLVERS[:2], ids=str)
def test_a_fixed_budget_compiles_whole(solver):
    layer = Layer(solver, FixedBudget(), 8)
    wanted = layer(INPUT)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    same(compiled(INPUT), wanted, 1e-9)


@pytest.mark.parametrize("solver", SOLVERS[:2], ids=str)
def test_a_fixed_budget_runs_under_vmap(solver):
    layer = Layer(solver, FixedBudget())
    z, steps, status = torch.func.vmap(layer)(INPUT[:, None])
    same((z[:, 0], steps[:, 0], status[:, 0]), layer(INPUT), 1e-9)


def test_derivatives_forward_reverse_and_per_sample_agree_through_a_fixed_budget():
    layer = Layer(Anderson(memory=3), FixedBudget(), 12)

    def settled(x: Tensor) -> Tensor:
        return layer(x[None])[0][0]

    x, w = INPUT[0], gaussian(D, seed=2)
    reverse, forward = torch.func.jacrev(settled)(x), torch.func.jacfwd(settled)(x)
    torch.testing.assert_close(reverse, forward, rtol=0, atol=1e-10)
    slope = (settled(x + 1e-6 * w) - settled(x - 1e-6 * w)) / 2e-6
    torch.testing.assert_close(torch.func.jvp(settled, (x,), (w,))[1], slope, rtol=0, atol=1e-7)
    torch.testing.assert_close(reverse @ w, slope, rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", SOLVERS[:2], ids=str)
def test_the_while_loop_stops_by_itself(solver):
    budget = 10**9  # would not end before the sun does
    with torch.no_grad():
        wanted = Layer(solver, EarlyExit(), budget)(INPUT)
        same(Layer(solver, WhileLoop(), budget)(INPUT), wanted, 1e-9)


def test_an_exported_while_loop_holds_its_stopping_rule():
    sizes = []
    for budget in (20, 40):
        layer = Layer(Anderson(memory=3), WhileLoop(), budget).eval()
        with torch.no_grad():
            program = torch.export.export(layer, (INPUT,))
            wanted = Layer(Anderson(memory=3), EarlyExit(), budget)(INPUT)
            same(program.module()(INPUT), wanted, 1e-9)
        sizes.append(len(program.graph.nodes))
    assert sizes[0] == sizes[1]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the exporter's own
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("loop", [FixedBudget(), WhileLoop()], ids=str)
def test_an_onnx_file_gives_the_same_fixed_points(loop, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    layer, x = Layer(Anderson(memory=3), loop, 8).float().eval(), INPUT.float()
    layer.W.requires_grad_(False)
    with torch.no_grad():
        torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", dynamo=True, verbose=False)
        wanted = Layer(Anderson(memory=3), EarlyExit(), 8).float()(x)[0]
    session = runtime.InferenceSession(str(tmp_path / "layer.onnx"))
    z = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(z), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(loop=FixedBudget()), "cannot raise for a sample that fails.*throw=False"),
        (dict(loop=FixedBudget(), throw=False, compact=True), "cannot drop samples"),
        (dict(loop=WhileLoop(), throw=False), "no derivatives: call it under"),
        (dict(loop="while"), "loop must be a Loop"),
        (dict(atol=-1.0), "atol must be finite"),
    ],
)
def test_bad_loops_are_refused(settings, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        dw.fixed_point(torch.cos, torch.zeros(2, 1), **settings)


def test_an_absolute_tolerance_ends_at_a_fixed_point_of_zero():
    start = torch.tensor([[1.0], [8.0]])
    found = dw.fixed_point(lambda z: 0.5 * z, start, solver=Picard(), atol=0.3)
    assert found.z.flatten().tolist() == [0.5, 0.5]
    assert found.steps.tolist() == [2, 5]
    relative = dw.fixed_point(lambda z: 0.5 * z, start, solver=Picard(), max_steps=40, throw=False)
    assert relative.status.tolist() == [dw.Status.BUDGET_REACHED] * 2


def test_a_state_that_shrinks_out_of_the_dtype_is_a_fixed_point_at_zero():
    found = dw.fixed_point(lambda z: 0.1 * z, torch.ones(1, 2), solver=Picard())
    assert found.status.tolist() == [dw.Status.CONVERGED]
    assert float(found.z.abs().max()) < 1e-18
