"""Packed layers as ONNX graphs: what reads each weight, its values, its bytes."""

import pytest
import torch
from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.quantization.export.onnx import export_onnx
from driftwell.quantization.export.onnx.integers import integers_of
from driftwell.quantization.formats import (
    Binary,
    Codebook,
    NormalFloat,
    PowerOfTwo,
    Ternary,
    Uniform,
)
from driftwell.quantization.modules import (
    PackedWeight,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedParameter,
)

for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'onnx'")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the exporter's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ROUNDED = 2e-2
"""Inputs in 8 bits, block by block, relative to the output's size."""
FLOAT = 1e-5


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoded(weight, form, uneven=False):
    """Codes of a weight; with zeros between codes, as a search of the grid leaves them."""
    made = form.encode(weight)
    if not uneven:
        return made
    grid = made.grid.replaced(zero=made.grid.zero + 0.3)
    return form.encode(weight, grid)


def linear(columns, rows, form, uneven=False):
    layer = nn.Linear(columns, rows)
    with torch.no_grad():
        layer.weight.copy_(numbers(rows, columns) / columns**0.5)
        layer.bias.copy_(numbers(rows, seed=1))
    return QuantizedLinear.from_float(layer, encoded(layer.weight.detach(), form, uneven))


def apart(report):
    return report.max_difference / report.scale


def exact(model):
    """The model's outputs in float32, without its fast kernels."""
    return lambda x: nn.functional.linear(x, model.weight, model.bias)


UNIFORM = [
    (Uniform(1, symmetric=True), "2 bits block 128"),
    (Uniform(2), "2 bits block 128"),
    (Ternary(), "2 bits block 128"),
    (Uniform(3), "4 bits block 128"),
    (Uniform(4), "4 bits block 128"),
    (Uniform(4, symmetric=True), "4 bits block 128"),
    (Uniform(4, per="tensor"), "4 bits block 128"),
    (PowerOfTwo(4), "8 bits block 128"),
    (Uniform(8), "8 bits block 128"),
    (Uniform(2, per="group", group_size=32), "2 bits block 32"),
    (Uniform(4, per="group", group_size=64), "4 bits block 64"),
]


@pytest.mark.parametrize(("form", "words"), UNIFORM, ids=str)
def test_a_layer_is_multiplied_by_its_codes(form, words, tmp_path):
    layer = linear(192, 24, form, uneven=form.bits > 1)
    x = numbers(40, 192, seed=3)
    report = export_onnx(layer, [x[:4]], tmp_path, test_inputs=[x], reference=exact(layer))
    assert report.operators == {"weight": f"MatMulNBits {words}"}
    assert apart(report) < ROUNDED
    assert report.argmax_agreement >= 0.97


@pytest.mark.parametrize(
    "form",
    [Uniform(4), Uniform(8), Uniform(4, per="group", group_size=48), Codebook((-1.0, 0.1, 1.0)),
     NormalFloat(group_size=64), Binary()],
    ids=str,
)  # fmt: skip
def test_the_portable_form_is_the_float_product(form, tmp_path):
    layer = linear(192, 24, form, uneven=isinstance(form, Uniform))
    x = numbers(40, 192, seed=3)
    report = export_onnx(layer, [x], tmp_path, weights="qdq", reference=exact(layer))
    assert "MatMulNBits" not in report.nodes
    assert apart(report) < FLOAT
    assert report.argmax_agreement == 1.0


@pytest.mark.parametrize(("bits", "block"), [(2, 32), (4, 128), (8, 32)])
def test_columns_need_not_fill_a_block(bits, block, tmp_path):
    layer, x = linear(200, 7, Uniform(bits)), numbers(5, 200)
    report = export_onnx(layer, [x], tmp_path, block=block, reference=exact(layer))
    assert apart(report) < ROUNDED


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_a_large_layer_takes_its_bits_and_scales(bits, tmp_path):
    rows, columns = 512, 1024
    layer, x = linear(columns, rows, Uniform(bits, symmetric=True)), numbers(2, columns)
    report = export_onnx(layer, [x], tmp_path)
    stored = {2: 2, 3: 4, 4: 4, 8: 8}[bits]
    scales = 4 * rows * columns // 128
    wanted = rows * columns * stored / 8 + scales + 4 * rows
    assert wanted <= report.bytes <= 1.03 * wanted + 10_000


@pytest.mark.parametrize(
    ("form", "turned", "transposed"),
    [(Uniform(4), False, False), (Uniform(4), True, False), (Uniform(4), False, True),
     (Uniform(2, symmetric=True), True, True)],
    ids=str,
)  # fmt: skip
def test_a_parameter_is_multiplied_from_either_side(form, turned, transposed, tmp_path):
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.W = nn.Parameter(numbers(96, 64))

        def forward(self, x):
            return x @ (self.W.T if turned else self.W)

    model = Product()
    matrix = model.W.detach().T if transposed else model.W.detach()
    packed = encoded(matrix.contiguous(), form, uneven=not form.symmetric).pack()
    QuantizedParameter.replace(model, "W", PackedWeight(packed), transposed)
    x = numbers(30, 64 if turned else 96, seed=2)
    report = export_onnx(model, [x], tmp_path)
    assert list(report.nodes).count("MatMulNBits") == 1
    assert apart(report) < 2 * ROUNDED


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Uniform(2), "GatherBlockQuantized 4 bits block 64"),
        (Uniform(4), "GatherBlockQuantized 4 bits block 64"),
        (Uniform(8), "GatherBlockQuantized 8 bits block 64"),
        (Uniform(4, symmetric=True, per="group", group_size=16), "GatherBlockQuantized 4 bits"),
        (NormalFloat(group_size=64), "Gather from the table"),
    ],
    ids=str,
)
def test_rows_of_an_embedding_are_exact(form, words, tmp_path):
    table = nn.Embedding(50, 64)
    small = QuantizedEmbedding.from_float(table, encoded(table.weight.detach(), form))
    index = torch.arange(48).reshape(6, 8)
    report = export_onnx(small, [index], tmp_path)
    assert report.operators["weight"].startswith(words)
    assert report.max_difference < 1e-6


@pytest.mark.parametrize(
    "form", [Uniform(8), Uniform(4), Uniform(3, per="group", group_size=9)], ids=str
)
def test_a_convolution_is_decoded_channel_by_channel(form, tmp_path):
    layer = nn.Conv2d(4, 6, 3, padding=1)
    small = QuantizedConv2d.from_float(layer, encoded(layer.weight.detach(), form, uneven=True))
    report = export_onnx(small, [numbers(3, 4, 5, 5)], tmp_path)
    assert {"Conv", "DequantizeLinear"} <= set(report.nodes)
    assert apart(report) < FLOAT


def test_the_batch_axis_is_free(tmp_path):
    layer, x = linear(64, 8, Uniform(4)), numbers(33, 64)
    report = export_onnx(layer, [x[:2]], tmp_path, test_inputs=[x])
    assert report.rows == 33
    assert report.path.stat().st_size == report.bytes
    assert (tmp_path / "report.json").is_file()


@pytest.mark.parametrize("form", [pair[0] for pair in UNIFORM], ids=str)
def test_whole_numbers_stand_for_the_same_weights(form):
    made = encoded(numbers(12, 192), form, uneven=form.bits > 1)
    whole = integers_of(made.pack())
    torch.testing.assert_close(whole.values, made.matrix, rtol=0, atol=1e-6)
    assert int(max(whole.codes.max(), whole.zero.max())) < 1 << whole.bits


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(weights="int4"), 'weights must be "nbits" or "qdq"'),
        (dict(block=48), "block must be one of 16, 32"),
        (dict(opset=13), "opset must be one of 21"),
        (dict(name="a/b"), "cannot name a file"),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_written(settings, sentence, tmp_path):
    with pytest.raises(InvalidInput, match=sentence):
        export_onnx(linear(16, 4, Uniform(4)), [numbers(2, 16)], tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_inputs_and_models_that_cannot_be_exported_are_refused(tmp_path):
    class Branching(nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    class Words(nn.Module):
        def forward(self, x):
            return x, "seven"

    for model, x, sentence in (
        (linear(16, 4, Uniform(4)), numbers(1, 16), "2 or more"),
        (Branching(), numbers(2, 3), "Branching has no ONNX graph"),
        (Words(), numbers(2, 3), "answers with tensors, not Tensor, str"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            export_onnx(model, [x], tmp_path / "out")
    assert not (tmp_path / "out").exists()
