"""Transformers of signs: layers, boolean attention, distillation by directions, bits that count."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.quantization.training_aware.binary_layers import (
    BinaryEmbedding,
    BinaryLinear,
    binary_rows,
)
from driftwell.quantization.training_aware.binary_transformer import BinaryTransformer
from driftwell.quantization.training_aware.boolean_attention import (
    Attending,
    BooleanAttention,
    SignedSoftmaxAttention,
    SoftmaxAttention,
    attention_entropy,
)
from driftwell.quantization.training_aware.direction_matching import (
    DirectionMatching,
    direction_distance,
)
from driftwell.quantization.training_aware.popcount import (
    PackedSigns,
    PopcountLinear,
    boolean_product,
    popcount,
    sign_product,
)

RULES: tuple[Attending, ...] = (SoftmaxAttention(), SignedSoftmaxAttention(), BooleanAttention())
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=draw(seed))


def signs(x: Tensor) -> Tensor:
    return 2 * (x >= 0).to(x.dtype) - 1


def network(rule: Attending, binary: bool = True) -> BinaryTransformer:
    return BinaryTransformer(
        9, 3, width=16, depth=2, heads=2, context=10, attending=rule, binary=binary, seed=1
    )


def tokens(batch: int = 4, length: int = 10) -> Tensor:
    return torch.randint(9, (batch, length), generator=draw(2))


# Layers


def test_a_layer_is_the_product_of_signs_with_the_mean_size_of_each_row() -> None:
    layer = BinaryLinear(37, 5, draw=draw())
    with torch.no_grad():
        layer.weight += 0.3
        layer.bias.copy_(torch.arange(5.0))
    x, w = normal(6, 37), layer.weight.detach()
    scale = w.abs().mean(dim=1)
    expected = scale * (signs(x) @ signs(w - w.mean(dim=1, keepdim=True)).T) + torch.arange(5.0)
    torch.testing.assert_close(layer(x).detach(), expected)


def test_centring_balances_the_bits_of_a_shifted_row() -> None:
    w = normal(20, 400) + 5.0
    share = (binary_rows(w) > 0).double().mean()
    # of 8000 bits the share has a standard error of .0056
    assert abs(float(share) - 0.5) < 0.03


def test_zero_counts_as_plus_one() -> None:
    layer = BinaryLinear(3, 1, draw=draw(), bias=False)
    assert layer(torch.zeros(1, 3)).equal(layer(torch.ones(1, 3)))
    assert binary_rows(torch.ones(1, 4)).equal(torch.ones(1, 4))


def test_gradients_pass_within_one_and_not_through_the_scale() -> None:
    w = torch.tensor([[-3.0, 0.5, 0.1, 2.4]], requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    (found,) = torch.autograd.grad((binary_rows(w) * upstream).sum(), w)
    passed = torch.tensor([[0.0, 2.0, 4.0, 0.0]])  # the mean is 0: |w0| < 1 for two of them
    torch.testing.assert_close(found, passed - passed.mean())
    x = torch.tensor([[0.2, -0.9, 1.5, -1.0]], requires_grad=True)
    layer = BinaryLinear(4, 1, draw=draw())
    (found,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(
        found, binary_rows(layer.weight).detach() * torch.tensor([1, 1, 0, 0])
    )


def test_what_ships_is_one_bit_a_weight_and_decodes_to_what_was_trained() -> None:
    for layer in (BinaryLinear(40, 6, draw=draw()), BinaryEmbedding(6, 40, draw=draw())):
        quantized = layer.quantized()
        assert quantized.decode().equal(binary_rows(layer.weight).detach())
        packed = quantized.pack()
        assert packed.data.numel() == 6 * 40 // 8
        assert packed.decode().equal(quantized.decode())


# Attention


def test_a_boolean_weight_is_one_for_a_positive_score_of_a_kept_key() -> None:
    scores = torch.tensor([[[[0.3, -0.2, 0.0, 5.0]]]])
    keep = torch.tensor([[[[True, True, True, False]]]])
    assert BooleanAttention().weights(scores, keep).tolist() == [[[[1.0, 0.0, 0.0, 0.0]]]]


def test_the_threshold_at_zero_says_a_bit_where_a_sign_of_a_softmax_says_none() -> None:
    q, k = (signs(normal(16, 2, 24, 15, seed=s)) for s in (0, 1))
    scores = q @ k.mT / math.sqrt(15)
    keep = torch.ones(16, 1, 1, 24, dtype=torch.bool)
    boolean = attention_entropy(BooleanAttention().weights(scores, keep))
    naive = attention_entropy(SignedSoftmaxAttention().weights(scores, keep))
    assert (boolean > 0.99).all()
    assert (naive < 0.1).all()


def test_entropy_is_that_of_a_coin_of_the_share_that_is_positive() -> None:
    weights = torch.zeros(1, 1, 4, 4)
    weights[..., 0] = 1.0
    torch.testing.assert_close(attention_entropy(weights), torch.tensor([0.8112781]))
    keep = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(attention_entropy(weights, keep), torch.tensor([1.0]))


def test_scores_pass_gradients_within_one_only() -> None:
    scores = torch.tensor([[[[-1.5, -0.5, 0.5, 1.5]]]], requires_grad=True)
    keep = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    BooleanAttention().weights(scores, keep).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[[[0.0, 1.0, 1.0, 0.0]]]]


# The network


@each_rule
@pytest.mark.parametrize("binary", [True, False])
def test_what_is_padded_does_not_matter(rule: Attending, binary: bool) -> None:
    model, x = network(rule, binary), tokens()
    keep = torch.arange(10).expand(4, 10) < torch.tensor([[10], [7], [4], [1]])
    other = torch.where(keep, x, (x + 3) % 9)
    torch.testing.assert_close(model(x, keep), model(other, keep))
    torch.testing.assert_close(model(x[1:2, :7]), model(x, keep)[1:2])
    assert not torch.allclose(model(x), model(other))


@each_rule
def test_every_parameter_learns(rule: Attending) -> None:
    model = network(rule)
    F.cross_entropy(model(tokens()), torch.tensor([0, 1, 2, 0])).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_inside_a_binary_network_all_that_is_multiplied_is_signs() -> None:
    seen = network(BooleanAttention()).trace(tokens())
    for part in (*seen.queries, *seen.keys, *seen.values):
        assert part.abs().unique().tolist() == [1.0]
    for weights in seen.weights:
        assert set(weights.unique().tolist()) <= {0.0, 1.0}


def test_the_float_network_is_an_ordinary_transformer() -> None:
    """Against attention of torch on the same parameters."""
    model = network(SoftmaxAttention(), binary=False)
    x = model.embedding(tokens()) + model.place
    for block in model.blocks:
        n = block.norm_attention(x)
        q, k, v = (block.split(layer(n)) for layer in (block.query, block.key, block.value))
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + block.output(mixed.transpose(1, 2).flatten(2))
        x = x + block.down(F.gelu(block.up(block.norm_network(x))))
    torch.testing.assert_close(model(tokens()), model.head(model.norm(x[:, 0])))


def test_a_student_starts_as_its_teacher() -> None:
    teacher, student = network(SoftmaxAttention(), binary=False), network(BooleanAttention())
    student.load_state_dict(teacher.state_dict())
    wanted, found = teacher.trace(tokens()), student.trace(tokens())
    # the first queries are the signs of nearly the teacher's: they agree more often than not
    agree = (signs(wanted.queries[0]) == found.queries[0]).double().mean()
    assert float(agree) > 0.7


def test_the_same_seed_draws_the_same_network_and_another_does_not() -> None:
    first, again = network(BooleanAttention()), network(BooleanAttention())
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    other = BinaryTransformer(9, 3, width=16, heads=2, context=10, seed=2)
    assert not torch.equal(first.head.weight, other.head.weight)


# Distillation


def test_the_distance_of_directions_is_the_chord_of_their_angle() -> None:
    p = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    t = torch.tensor([[5.0, 0.0], [7.0, 0.0], [-1.0, 0.0]])
    expected = torch.tensor([0.0, math.sqrt(2.0), 2.0])
    torch.testing.assert_close(direction_distance(p, t), expected)


def test_directions_ignore_scale_and_stay_finite_at_zero() -> None:
    p, t = normal(3, 4, 4), normal(3, 4, 4, seed=1)
    torch.testing.assert_close(direction_distance(7 * p, 0.1 * t), direction_distance(p, t))
    zero = torch.zeros(1, 4, requires_grad=True)
    direction_distance(zero, torch.zeros(1, 4)).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_the_gradient_of_the_distance_is_that_of_finite_differences() -> None:
    p = normal(2, 3, 3).double().requires_grad_()
    t = normal(2, 3, 3, seed=1).double()
    assert torch.autograd.gradcheck(lambda x: direction_distance(x, t), (p,))


def test_the_loss_is_a_mean_over_samples_whatever_the_batch() -> None:
    """The authors' norm over the whole batch would fail this."""
    teacher, student = network(SoftmaxAttention(), binary=False), network(BooleanAttention())
    x, labels = tokens(4), torch.tensor([0, 1, 2, 0])
    loss = DirectionMatching()
    whole = loss(student.trace(x), teacher.trace(x), labels)
    each = [
        loss(student.trace(x[i : i + 1]), teacher.trace(x[i : i + 1]), labels[i : i + 1])
        for i in range(4)
    ]
    torch.testing.assert_close(whole, torch.stack(each).mean())


def test_padding_is_left_out_of_the_loss() -> None:
    teacher, student = network(SoftmaxAttention(), binary=False), network(BooleanAttention())
    x, labels, loss = tokens(1), torch.tensor([1]), DirectionMatching()
    keep = torch.arange(10)[None] < 6
    padded = loss(student.trace(x, keep), teacher.trace(x, keep), labels)
    short = loss(student.trace(x[:, :6]), teacher.trace(x[:, :6]), labels)
    torch.testing.assert_close(padded, short)


def test_nothing_flows_into_the_teacher_and_a_teacher_matches_itself() -> None:
    teacher, student = network(SoftmaxAttention(), binary=False), network(BooleanAttention())
    labels = torch.tensor([0, 1, 2, 0])
    DirectionMatching()(student.trace(tokens()), teacher.trace(tokens()), labels).backward()
    assert all(p.grad is None for p in teacher.parameters())
    seen = teacher.trace(tokens())
    assert DirectionMatching(1.0, 0.0, 0.0)(seen, seen, labels).item() == 0.0


# Bits


@pytest.mark.parametrize("columns", [1, 7, 8, 63, 64, 65, 200])
def test_a_product_on_bits_is_the_float_product_exactly(columns: int) -> None:
    a, b = normal(9, columns), normal(5, columns, seed=1)
    a[0], b[0] = 0.0, -0.0
    found = sign_product(PackedSigns.of(a), PackedSigns.of(b))
    assert found.equal((signs(a) @ signs(b).T).long())


@pytest.mark.parametrize("columns", [1, 13, 64, 130])
def test_a_boolean_product_on_bits_is_the_float_product_exactly(columns: int) -> None:
    w, v = (normal(6, columns) > 0).float(), normal(4, columns, seed=1)
    found = boolean_product(PackedSigns.of(w - 0.5), PackedSigns.of(v))
    assert found.equal((w @ signs(v).T).long())


def test_bits_are_counted_in_blocks_as_in_one_piece() -> None:
    a, b = normal(700, 70), normal(1600, 70, seed=1)
    found = sign_product(PackedSigns.of(a), PackedSigns.of(b))
    assert found.equal((signs(a) @ signs(b).T).long())


def test_popcount_counts_bits_of_all_words() -> None:
    words = torch.randint(-(2**62), 2**62, (500,), generator=draw())
    words = torch.cat([words, torch.tensor([0, -1, 1, -(2**63), 2**63 - 1])])
    expected = [bin(w & (2**64 - 1)).count("1") for w in words.tolist()]
    assert popcount(words).tolist() == expected


def test_a_layer_on_bits_computes_what_was_trained() -> None:
    layer = BinaryLinear(100, 12, draw=draw())
    with torch.no_grad():
        layer.bias.copy_(normal(12))
    x = normal(3, 5, 100)
    torch.testing.assert_close(PopcountLinear(layer)(x), layer(x).detach(), rtol=0, atol=2e-5)


def test_the_attention_of_a_network_is_what_bits_compute() -> None:
    """Scores by exclusive or, context by and: integers equal to the floats of the forward pass."""
    model = network(BooleanAttention())
    seen = model.trace(tokens(1))
    q, k, v, w = (
        part[0][0, 0].detach() for part in (seen.queries, seen.keys, seen.values, seen.weights)
    )
    scores = sign_product(PackedSigns.of(q), PackedSigns.of(k))
    assert scores.gt(0).float().equal(w)
    context = boolean_product(PackedSigns.of(w - 0.5), PackedSigns.of(v.T))
    assert context.equal((w @ v).long())


def test_mistakes_are_named() -> None:
    model = network(BooleanAttention())
    with pytest.raises(InvalidInput, match="T <= 10"):
        model(tokens(1, 11))
    with pytest.raises(InvalidInput, match="0 to 8"):
        model(torch.full((1, 4), 9))
    with pytest.raises(InvalidInput, match="int64"):
        model(torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(InvalidInput, match="keep is a bool"):
        model(tokens(1, 4), torch.ones(1, 4))
    with pytest.raises(InvalidInput, match="keeps no token"):
        model(tokens(1, 4), torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(InvalidInput, match="divide the width"):
        BinaryTransformer(9, 2, width=10, heads=3)
    with pytest.raises(InvalidInput, match="at least one row"):
        BinaryEmbedding(0, 4, draw=draw())
    with pytest.raises(InvalidInput, match="0 or more"):
        DirectionMatching(soft=math.nan)
    with pytest.raises(InvalidInput, match="one shape"):
        direction_distance(torch.ones(2, 3), torch.ones(2, 4))
    shallow = BinaryTransformer(9, 3, width=16, depth=1, heads=2, context=10)
    seen, other = model.trace(tokens()), shallow.trace(tokens())
    with pytest.raises(InvalidInput, match="as many blocks"):
        DirectionMatching()(seen, other, torch.tensor([0, 1, 2, 0]))
    with pytest.raises(InvalidInput, match="NaN"):
        PackedSigns.of(torch.tensor([[math.nan]]))
    with pytest.raises(InvalidInput, match="one length"):
        sign_product(PackedSigns.of(torch.ones(1, 3)), PackedSigns.of(torch.ones(1, 4)))
    with pytest.raises(InvalidInput, match="takes 100 entries"):
        PopcountLinear(BinaryLinear(100, 2, draw=draw()))(torch.ones(1, 99))
    with pytest.raises(InvalidInput, match="shape"):
        attention_entropy(torch.ones(2, 2))
