"""The recipe of the claim on PTQ4DM at a size that takes seconds: what is shown is what is met."""

from __future__ import annotations

import torch

from driftwell.claims.quantization.ptq4dm import STEPS, VelocityNetwork, reverse, samples
from driftwell.core.noise import Purpose, normal
from driftwell.quantization.formats import Uniform
from driftwell.quantization.modules import StaticActivations
from driftwell.quantization.post_training.activation_ranges import activation_ranges
from driftwell.quantization.post_training.calibration_times import DiffusionTimes
from driftwell.quantization.post_training.verb import quantize

NOISE = normal((256, 64), seed=1, purpose=Purpose.INIT, chains=256, step=0)


def test_times_are_told_in_the_order_of_sampling_and_not_of_diffusion() -> None:
    """Step 0 is t = 1: with a small mean the network is shown noise, with a large one data."""
    net = VelocityNetwork(0)
    for mean, expected in ((0.1, 0.9), (0.8, 0.2)):
        times = DiffusionTimes(reverse, NOISE, STEPS, mean=mean, std=0.02)
        ((_, t),) = times.prepared(net).batches
        assert abs(float(t.mean()) - expected) < 0.02


def test_the_ranges_of_a_reverse_pass_hold_what_single_times_do_not() -> None:
    """Features of t reach their ends only if the times do."""
    net = VelocityNetwork(0)
    whole = activation_ranges(
        net, DiffusionTimes(reverse, NOISE, STEPS), ["layers.1"], rule="minmax"
    )["layers.1"]
    single = activation_ranges(
        net, DiffusionTimes.single_time(reverse, NOISE, STEPS, at=0.5), ["layers.1"], rule="minmax"
    )["layers.1"]
    assert whole[1] - whole[0] > single[1] - single[0]


def test_eight_bits_for_weights_and_inputs_keep_the_samples() -> None:
    net = VelocityNetwork(0)
    small = quantize(
        net, DiffusionTimes(reverse, NOISE, STEPS), format=Uniform(8, symmetric=True),
        activations=StaticActivations(8), exact=True,
    ).model  # fmt: skip
    before, after = samples(net, NOISE), samples(small, NOISE)
    assert (after - before).norm() < 0.03 * before.norm()
    assert torch.isfinite(after).all()
