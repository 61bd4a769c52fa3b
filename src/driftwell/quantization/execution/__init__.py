"""Low-bit products that are faster than float, chosen by shape and tested at start-up."""

from driftwell.quantization.execution.executor import Executor
from driftwell.quantization.execution.kernel import Activations, Kernel
from driftwell.quantization.execution.selection import KernelReport, choose, kernels

__all__ = ["Activations", "Executor", "Kernel", "KernelReport", "choose", "kernels"]
