"""Starts: remembered and learned ones change how long a solve takes and not what it finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.fixed_points import Picard
from driftwell.fixed_points.initial_guess import InitialGuess
from driftwell.fixed_points.warm_start import WarmStart

N, D = 32, 8


def gaussian(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


W = torch.linalg.qr(gaussian(D, D, seed=0))[0] * 0.8
X = gaussian(N, D, seed=1)


def solve(z0: Tensor, x: Tensor = X, scale: float = 1.0, **settings):
    return dw.fixed_point(lambda z, x: torch.tanh(scale * z @ W.T + x), z0, x, **settings)


class TestWarmStart:
    """A store of fixed points by sample."""

    def test_a_second_visit_is_short_and_finds_the_same(self):
        cold, store = torch.zeros(N, D), WarmStart(torch.zeros(1, D), N)
        rows = torch.arange(N)
        first = solve(store.start(rows, cold), tol=1e-5)
        assert store.keep(rows, first) == N
        again = solve(store.start(rows, cold), tol=1e-5)
        assert again.steps.tolist() == [1] * N
        assert torch.equal(again.z, first.z)

    def test_small_moves_of_the_map_save_evaluations(self):
        """One percent off in W: the way from the old z* is shorter than from zero."""
        cold, store, rows = torch.zeros(N, D), WarmStart(torch.zeros(1, D), N), torch.arange(N)
        store.keep(rows, solve(cold, tol=1e-5))
        how = {"scale": 0.99, "tol": 1e-5, "solver": Picard()}
        warm, fresh = solve(store.start(rows, cold), **how), solve(cold, **how)
        assert float(warm.steps.float().mean()) < 0.75 * float(fresh.steps.float().mean())
        torch.testing.assert_close(warm.z, fresh.z, rtol=0, atol=1e-4)

    def test_samples_not_seen_or_not_converged_start_cold(self):
        store, cold = WarmStart(torch.zeros(1, D), 10), torch.full((2, D), 7.0)
        found = solve(torch.zeros(2, D), X[:2], max_steps=1, throw=False)
        assert store.keep(torch.tensor([3, 4]), found) == 0
        assert torch.equal(store.start(torch.tensor([3, 9]), cold), cold)

    def test_trees_and_state_dicts(self):
        state = {"a": gaussian(3, 2, seed=2), "b": (gaussian(3, 1, 2, seed=3),)}
        found = dw.fixed_point(lambda z: z, state)
        rows, store = torch.tensor([4, 0, 2]), WarmStart(state, 5)
        store.keep(rows, found)
        other = WarmStart(state, 5)
        other.load_state_dict(store.state_dict())
        cold = {"a": torch.zeros(3, 2), "b": (torch.zeros(3, 1, 2),)}
        got = other.start(rows, cold)
        assert torch.equal(got["a"], state["a"])
        assert torch.equal(got["b"][0], state["b"][0])
        other.forget()
        assert torch.equal(other.start(rows, cold)["a"], cold["a"])

    @pytest.mark.parametrize(
        ("rows", "sentence"),
        [
            (torch.tensor([0, 5]), r"rows must be in 0..4, got 0..5"),
            (torch.tensor([0]), r"int64 of shape \(2,\)"),
            (torch.tensor([0.0, 1.0]), "int64 of shape"),
        ],
    )
    def test_bad_rows_are_refused(self, rows, sentence):
        with pytest.raises(InvalidInput, match=sentence):
            WarmStart(torch.zeros(1, D), 5).start(rows, torch.zeros(2, D))

    def test_other_states_are_refused(self):
        with pytest.raises(InvalidInput, match="8 numbers a sample, got 3"):
            WarmStart(torch.zeros(1, D), 5).start(torch.tensor([0]), torch.zeros(1, 3))
        with pytest.raises(InvalidInput, match=r"size=.*at least 1"):
            WarmStart(torch.zeros(1, D), 0)


def test_a_learned_guess_saves_evaluations_on_inputs_it_has_not_seen():
    network = nn.Linear(D, D)
    nn.init.zeros_(network.weight), nn.init.zeros_(network.bias)
    guess = InitialGuess(network)
    target = solve(torch.zeros(N, D), tol=1e-6).z
    optimizer = torch.optim.LBFGS(guess.parameters(), max_iter=60)

    def closure():
        optimizer.zero_grad()
        loss = guess.loss(X, target)
        loss.backward()
        return loss

    before = float(closure().detach())
    optimizer.step(closure)
    assert float(closure().detach()) < 0.1 * before  # before: the guess is zero, the loss 1
    fresh = gaussian(200, D, seed=5)
    how = {"tol": 1e-3, "solver": Picard()}
    cold, warm = solve(torch.zeros(200, D), fresh, **how), solve(guess(fresh), fresh, **how)
    torch.testing.assert_close(warm.z, cold.z, rtol=0, atol=1e-2)
    assert float(warm.steps.float().mean()) <= float(cold.steps.float().mean()) - 1.0


def test_the_guess_learns_from_the_solve_and_not_the_other_way():
    guess = InitialGuess(nn.Linear(D, D))
    z = gaussian(N, D, seed=6).requires_grad_(True)
    assert not guess(X).requires_grad
    assert torch.autograd.grad(guess.loss(X, z), z, allow_unused=True) == (None,)


def test_a_guess_of_another_form_is_refused():
    with pytest.raises(InvalidInput, match="the network of InitialGuess must keep"):
        InitialGuess(nn.Linear(D, 3)).loss(X, X)
    with pytest.raises(InvalidInput, match="nothing for a guess to learn"):
        InitialGuess(nn.Linear(D, D)).loss(X, torch.zeros(N, D))
