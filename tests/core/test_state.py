"""State trees: structure, per-sample algebra, refusals."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driftwell.core import state as S
from driftwell.core.errors import InvalidInput

TREE = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": (torch.ones(2, 2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.bfloat16)),
    "c": torch.tensor([[1 + 2j], [3 - 1j]]),
}

shapes = st.lists(st.integers(1, 3), max_size=2).map(tuple)
trees = st.recursive(
    st.tuples(shapes, st.sampled_from([torch.float32, torch.float64, torch.complex64])),
    lambda inside: (
        st.lists(inside, min_size=1, max_size=3)
        | st.dictionaries(st.text("abc", min_size=1), inside, min_size=1, max_size=3)
    ),
    max_leaves=5,
)


def grow(plan, batch: int):
    """A state of the drawn structure."""
    if isinstance(plan, dict):
        return {key: grow(value, batch) for key, value in plan.items()}
    if isinstance(plan, list):
        return tuple(grow(value, batch) for value in plan)
    shape, dtype = plan
    size = batch * int(torch.Size(shape).numel())
    return torch.arange(1, size + 1).reshape(batch, *shape).to(dtype) * (
        1 + 0.5j if dtype.is_complex else 1
    )


@given(trees, st.integers(1, 3))
def test_flatten_and_unflatten_are_inverse(plan, batch):
    z = grow(plan, batch)
    flat = S.flatten(z)
    assert flat.shape[0] == batch == S.batch_size(z)
    assert not flat.is_complex()
    back = S.unflatten(flat, z)
    assert type(back) is type(z)
    for a, b in zip(S.leaves(back), S.leaves(z), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    torch.testing.assert_close(S.inner(z, z), flat.square().sum(1), check_dtype=False)


@given(trees)
def test_rebuild_keeps_the_structure(plan):
    z = grow(plan, 2)
    same = S.rebuild(z, S.leaves(z))
    assert str(same) == str(z)
    assert [id(a) for a in S.leaves(same)] == [id(a) for a in S.leaves(z)]


def test_unflatten_takes_another_batch_size():
    part = S.unflatten(S.flatten(TREE)[:1], TREE)
    assert S.batch_size(part) == 1
    assert torch.equal(part["c"], TREE["c"][:1])


def test_nothing_keeps_leaves_alive():
    gc.disable()
    try:
        leaf = torch.ones(2, 3)
        ghost = weakref.ref(leaf)
        tree = S.rebuild(TREE, [leaf] * 4)
        del leaf, tree
        assert ghost() is None
    finally:
        gc.enable()


def test_select_and_where_are_per_sample():
    other = S.tree_map(torch.zeros_like, TREE)
    mixed = S.where(torch.tensor([True, False]), TREE, other)
    for got, a in zip(S.leaves(mixed), S.leaves(TREE), strict=True):
        assert torch.equal(got[0], a[0])
        assert not got[1].any()
    assert S.batch_size(S.select(TREE, torch.tensor([1]))) == 1
    assert torch.equal(S.select(TREE, torch.tensor([False, True]))["a"], TREE["a"][1:])


def test_norm_counts_all_leaves_and_both_parts_of_complex_numbers():
    expected = [0 + 1 + 4 + 4 + 1 + (1 + 4), 9 + 16 + 25 + 4 + 1 + (9 + 1)]
    assert S.norm(TREE).square().tolist() == pytest.approx(expected)
    half = torch.full((1, 70_000), 1.0, dtype=torch.float16)
    assert float(S.norm(half)) == pytest.approx(70_000**0.5, rel=1e-3)  # not infinite


def test_is_finite_is_per_sample():
    z = {"a": torch.tensor([[1.0], [torch.nan], [2.0]]), "b": torch.tensor([1.0, 2.0, torch.inf])}
    assert S.is_finite(z).tolist() == [True, False, False]


def test_detach_cuts_every_leaf():
    z = (torch.ones(1, requires_grad=True) * 2,)
    assert not S.detach(z)[0].requires_grad


@pytest.mark.parametrize(
    ("z", "sentence"),
    [
        ({}, "holds no tensor"),
        (torch.tensor(1.0), "no batch dimension"),
        (torch.ones(2, dtype=torch.int64), "floating-point dtype, got torch.int64"),
        (torch.ones(2, dtype=torch.bool), "floating-point dtype"),
        (torch.ones(0, 3), r"empty batch of shape \(0, 3\)"),
        ((torch.ones(2), torch.ones(3)), "share the batch size"),
        (torch.tensor([[1.0], [torch.nan]]), "1 NaN or infinite entries, first in sample 1"),
        ("state", "a state is a tensor or a nested tuple or dict of tensors, got str"),
        ((torch.ones(2), None), "got NoneType"),
    ],
)
def test_what_cannot_be_a_state_is_refused_in_a_sentence(z, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        S.check_state(z)


def test_check_state_returns_the_state():
    assert S.check_state(TREE) is TREE


@pytest.mark.parametrize(
    ("z", "sentence"),
    [
        (torch.ones(2, 2), r"shape and dtype \(2, 3\) torch.float32, got \(2, 2\)"),
        (torch.ones(2, 3, dtype=torch.float64), "got .* torch.float64"),
        ((torch.ones(2, 3), torch.ones(2, 3)), "tree like its state with 1 tensors, got 2"),
    ],
)
def test_another_form_is_refused_in_a_sentence(z, sentence):
    with pytest.raises(InvalidInput, match="f must .*" + sentence):
        S.check_same_form(z, torch.ones(2, 3), "f")


def test_trees_of_different_structure_do_not_mix():
    with pytest.raises(InvalidInput, match="same structure"):
        S.tree_map(torch.add, torch.ones(1), (torch.ones(1), torch.ones(1)))
