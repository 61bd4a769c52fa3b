"""One packed integer matrix for both products."""

import copy

import pytest
import torch

from driftwell.core.errors import InvalidInput
from driftwell.quantization.formats import NormalFloat, Uniform
from driftwell.quantization.langevin import Centred, SharedCouplings


def weights(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


def formats(bits: int) -> list:
    made = [Uniform(bits, symmetric=True), Uniform(bits, symmetric=True, per="tensor")]
    return made if bits == 8 else [*made, Uniform(bits), Centred(bits), Centred(bits, "tensor")]


@pytest.mark.parametrize("bits", range(1, 9))
def test_both_products_are_those_of_the_decoded_matrix(bits: int) -> None:
    J, phi, e = weights(13, 13).double(), weights(5, 13).double(), weights(6, 13).double()
    for format in formats(bits):
        coded = format.encode(J)
        Q, r = (part := SharedCouplings(coded.pack()).integers).Q.double(), part.scale
        decoded = coded.decode()
        torch.testing.assert_close(r * (phi @ Q.T), phi @ decoded.T)
        torch.testing.assert_close((e * r) @ Q, e @ decoded)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_take_really_that_many_bits(bits: int) -> None:
    format = Uniform(bits, symmetric=True)
    held = SharedCouplings(format.encode(weights(64, 64)).pack())
    assert held.codes.numel() == 64 * 64 * bits // 8
    assert held.nbytes <= held.codes.numel() + 64 * 8


def test_the_packed_codes_come_back() -> None:
    packed = Uniform(3).encode(weights(7, 9)).pack()
    again = SharedCouplings(packed).packed
    assert torch.equal(again.data, packed.data)
    assert torch.equal(again.decode(), packed.decode())


def test_a_zero_diagonal_stays_zero_on_levels_without_a_zero() -> None:
    packed = Centred(2).encode(weights(5, 5).fill_diagonal_(0.0)).pack()
    assert not SharedCouplings(packed).decode().diagonal().eq(0).any()
    assert SharedCouplings(packed, zero_diagonal=True).decode().diagonal().eq(0).all()


def test_loading_other_codes_is_noticed() -> None:
    one, other = (SharedCouplings(Uniform(4).encode(weights(6, 6) * s).pack()) for s in (1, -2))
    expected = other.decode().clone()
    assert not torch.equal(one.decode(), expected)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one.decode(), expected)
    assert torch.equal(copy.deepcopy(one).decode(), expected)


def test_centred_levels_are_symmetric() -> None:
    w = weights(4, 40)
    assert torch.equal(Centred(3).fake(-w), -Centred(3).fake(w))
    levels = torch.unique(Centred(2, "tensor").fake(w))
    torch.testing.assert_close(levels, w.abs().max() * torch.tensor([-1, -1 / 3, 1 / 3, 1]))


@pytest.mark.parametrize(
    "format",
    [
        Uniform(8),
        NormalFloat(4, per="channel", group_size=None),
        Uniform(4, per="group", group_size=4),
    ],
)
def test_levels_that_two_products_cannot_share_are_refused(format: object) -> None:
    with pytest.raises(InvalidInput, match="couplings"):
        SharedCouplings(format.encode(weights(8, 8) + 0.3).pack())


@pytest.mark.parametrize("bits", [0, 8])
def test_centred_levels_of_eight_bits_are_refused(bits: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 7 bits"):
        Centred(bits)
