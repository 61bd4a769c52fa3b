"""Langevin machines in 1 to 8 bits: one integer matrix for both products of the force."""

from driftwell.quantization.langevin.centred import Centred
from driftwell.quantization.langevin.machine import QuantizedLangevinMachine
from driftwell.quantization.langevin.noise_conditional import QuantizedNoiseConditionalMachine
from driftwell.quantization.langevin.quantize import (
    CouplingsReport,
    QuantizedMachine,
    quantize_langevin,
)
from driftwell.quantization.langevin.shared_couplings import SharedCouplings

__all__ = [
    "Centred",
    "CouplingsReport",
    "QuantizedLangevinMachine",
    "QuantizedMachine",
    "QuantizedNoiseConditionalMachine",
    "SharedCouplings",
    "quantize_langevin",
]
