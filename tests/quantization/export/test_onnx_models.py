"""Quantized models as ONNX graphs: solves as loops, denoisers, Langevin steps, classifiers."""

import pytest
import torch
from torch import nn

from driftwell.core.errors import InvalidInput
from driftwell.core.noise import Purpose, normal
from driftwell.fixed_points import Picard
from driftwell.models.equilibrium.classifier import DEQClassifier
from driftwell.models.langevin import NeuralLangevinMachine
from driftwell.models.langevin.noise_conditional import NoiseConditionalMachine
from driftwell.models.proximal import LPN
from driftwell.models.sequence import CharacterTransformer
from driftwell.quantization.export.onnx import export_onnx
from driftwell.quantization.export.onnx.equilibrium import SettledClassifier
from driftwell.quantization.export.onnx.langevin import AnnealedStep, LangevinStep
from driftwell.quantization.export.onnx.runtime import run_session, session_of
from driftwell.quantization.formats import Uniform
from driftwell.quantization.langevin import (
    QuantizedLangevinMachine,
    QuantizedNoiseConditionalMachine,
)
from driftwell.quantization.langevin.noise_conditional import COUPLINGS
from driftwell.quantization.post_training import Inputs, RoundToNearest, quantize

for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra 'onnx'")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the exporter's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(model, x, bits=4, run=None):
    calibration = Inputs([x]) if run is None else Inputs([x], run)
    return quantize(model, calibration, format=Uniform(bits), method=RoundToNearest()).model


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="needs the extra 'demo'")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 8 - 1, torch.tensor(labels)


def trained(model, x, y, updates=60):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(updates):
        rows = torch.arange(128) * 7 + step * 128
        answer = model(x[rows % len(x)])
        logits = answer[0] if isinstance(answer, tuple) else answer
        nn.functional.cross_entropy(logits, y[rows % len(x)]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("bits", [3, 8])
def test_a_classifier_of_digits_gives_the_same_classes(bits, digits, tmp_path):
    x, y = digits
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    report = export_onnx(
        small(trained(net, x, y), x[:500], bits), [x[:4]], tmp_path, test_inputs=[x]
    )
    assert report.argmax_agreement >= 0.995
    assert report.nodes["MatMulNBits"] == 2


def test_an_equilibrium_keeps_its_solve_as_a_loop(digits, tmp_path):
    x, y = digits
    model = DEQClassifier(64, 32, 10, activation="relu", solver=Picard(), seed=0)
    model = small(trained(model, x, y, updates=25), x[:200])
    assert float(torch.linalg.matrix_norm(model.W_0, 2)) > model.bound  # W is not W_0
    with torch.no_grad():
        logits, found = model(x)
    graph = SettledClassifier(model)
    report = export_onnx(
        graph, [x[:4]], tmp_path, test_inputs=[x], reference=lambda _: (logits, found.steps),
        output_names=["logits", "steps"],
    )  # fmt: skip
    assert report.argmax_agreement >= 0.995
    assert report.nodes["Loop"] == 1
    assert report.nodes["MatMulNBits"] == 2
    assert report.operators["W"] == "DequantizeLinear 4 bits"
    inside, outside = (
        report.facts[f"mean of steps in {where}"] for where in ("the graph", "torch")
    )
    assert abs(inside - outside) < 0.5


def test_products_inside_a_loop_may_be_low_bit_too(tmp_path):
    model = small(DEQClassifier(16, 32, 4, seed=0), numbers(60, 16))
    graph = SettledClassifier(model, solver=Picard(), tol=1e-2)
    report = export_onnx(graph, [numbers(30, 16)], tmp_path, in_loops=True)
    assert report.nodes["MatMulNBits"] == 3
    assert report.max_difference < 0.1 * report.scale


@pytest.mark.parametrize("shape", [(20,), (6, 6)])
def test_a_denoiser_is_exported_with_its_transposed_products(shape, tmp_path):
    y = numbers(40, *shape)
    model = small(LPN(shape, hidden=16, depth=2, seed=1), y, run=lambda model, y: model.prox(y))
    report = export_onnx(model, [y], tmp_path)
    # products in a row, each with inputs rounded to one part in 254 of the largest of a block
    assert report.max_difference < 0.05 * report.scale
    if len(shape) == 1:
        assert "transposed" in report.operators["psi.A.0"]
        assert report.nodes["MatMulNBits"] == 4


def test_a_transformer_is_exported(tmp_path):
    tokens = torch.randint(0, 20, (4, 16), generator=torch.Generator().manual_seed(0))
    model = CharacterTransformer(20, width=32, depth=1, heads=2, context=16)
    report = export_onnx(small(model, tokens), [tokens], tmp_path)
    assert report.max_difference < 0.05 * report.scale
    assert report.nodes["MatMulNBits"] >= 6


@pytest.mark.parametrize(
    "form", [Uniform(4, symmetric=True), Uniform(3), Uniform(1, symmetric=True)], ids=str
)
def test_a_chain_in_the_graph_is_the_chain_in_torch(form, tmp_path):
    machine = NeuralLangevinMachine(48, seed=0)
    packed = form.encode(machine.J.detach()).pack()
    quantized = QuantizedLangevinMachine(packed, machine.b, temperature=0.5)
    step = LangevinStep(quantized)
    torch.testing.assert_close(step.J, quantized.J, rtol=0, atol=1e-6)
    x, dt = quantized.initial_state(16, seed=1), torch.full((16,), 0.02)
    report = export_onnx(step, [x, numbers(16, 48), dt], tmp_path)
    assert report.nodes["MatMulNBits"] == 2
    session, there, here = session_of(report.path), x, x
    for n in range(100):
        xi = normal((16, 48), seed=1, purpose=Purpose.DYNAMICS, chains=16, step=n)
        there = run_session(session, [there, xi, dt])[0]
        force = quantized.energy_and_force(here)[1]
        here = here + 0.02 * force + (2 * 0.5 * 0.02) ** 0.5 * xi
    assert float((there - here).norm() / here.norm()) < 0.02


def test_a_step_of_a_noise_conditional_machine(tmp_path):
    machine = NoiseConditionalMachine(torch.ones(24), hidden=40, labels=3, seed=1)
    codes = {n: Uniform(6).encode(getattr(machine, n).detach()).pack() for n in COUPLINGS}
    quantized = QuantizedNoiseConditionalMachine(machine, codes)
    u, xi, labels = numbers(10, 24), numbers(10, 24, seed=1), torch.eye(3)[torch.arange(10) % 3]
    dt, sigma = torch.full((10,), 0.1), torch.full((10,), 0.7)

    def wanted(u, xi, dt, sigma, labels):
        force = quantized.energy_and_force(u, (sigma, labels))[1]
        return u + 0.1 * force + 0.2**0.5 * xi, quantized.posterior_mean(u, (sigma, labels))

    report = export_onnx(
        AnnealedStep(quantized), [u, xi, dt, sigma, labels], tmp_path, reference=wanted
    )
    assert report.nodes["MatMulNBits"] >= 4
    assert report.max_difference < 2e-2 * report.scale


def test_a_graph_that_does_not_run_here_is_one_sentence(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(InvalidInput, match="onnxruntime does not take the graph"):
        session_of(tmp_path / "broken.onnx")
    x = numbers(4, 8)
    report = export_onnx(small(nn.Sequential(nn.Linear(8, 4)), x), [x], tmp_path)
    with pytest.raises(InvalidInput, match="takes 1 inputs, got 2"):
        run_session(session_of(report.path), [x, x])
    with pytest.raises(InvalidInput, match="onnxruntime cannot run the graph"):
        run_session(session_of(report.path), [numbers(4, 9)])
