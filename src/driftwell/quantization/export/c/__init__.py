"""Plain C99 without malloc, bit-exact with the integer simulator beside it."""

from driftwell.quantization.export.c.arithmetic import (
    ARITHMETIC_C,
    interpolate,
    interpolated_table,
    lookup_table,
    quantize_multiplier,
    requantize,
    saturate,
    shift_round,
)
from driftwell.quantization.export.c.equilibrium import equilibrium_network
from driftwell.quantization.export.c.exporting import CReport, emit, export_c
from driftwell.quantization.export.c.float_program import FloatLayer, FloatProgram, lower_float
from driftwell.quantization.export.c.langevin import export_langevin_c
from driftwell.quantization.export.c.langevin_build import Picture, langevin_program
from driftwell.quantization.export.c.lowered_model import lower
from driftwell.quantization.export.c.program import IntegerProgram, simulate
from driftwell.quantization.export.c.settling import Settling

__all__ = [
    "ARITHMETIC_C",
    "CReport",
    "FloatLayer",
    "FloatProgram",
    "IntegerProgram",
    "Picture",
    "Settling",
    "emit",
    "equilibrium_network",
    "export_c",
    "export_langevin_c",
    "interpolate",
    "interpolated_table",
    "langevin_program",
    "lookup_table",
    "lower",
    "lower_float",
    "quantize_multiplier",
    "requantize",
    "saturate",
    "shift_round",
    "simulate",
]
