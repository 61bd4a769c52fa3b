"""Kernels that this machine can run, each as a parameter."""

from __future__ import annotations

import pytest

from driftwell.quantization.execution.aten import AtenIntegers
from driftwell.quantization.execution.kernel import Kernel
from driftwell.quantization.execution.selection import KERNELS
from driftwell.quantization.execution.self_test import verdict


def usable(kernel: Kernel) -> Kernel:
    reason = kernel.missing()
    # wrong on processors without VNNI, which is known; all others must be right where they run
    if isinstance(kernel, AtenIntegers) and not verdict(kernel).available:
        reason = verdict(kernel).why
    if reason:
        pytest.skip(f"{kernel.name}: {reason}")
    return kernel


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.name.replace(" ", "-"))
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each kernel in turn."""
    return usable(request.param)


@pytest.fixture(
    params=[k for k in KERNELS if k.activations == "int8"],
    ids=lambda kernel: kernel.name.replace(" ", "-"),
)
def int_kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each kernel for int8 activations in turn."""
    return usable(request.param)
