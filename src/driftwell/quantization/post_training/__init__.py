"""Quantizing a trained network from a few of the states it visits."""

from driftwell.quantization.post_training.activation_ranges import activation_ranges
from driftwell.quantization.post_training.calibration import (
    Calibration,
    FixedPointIterates,
    Inputs,
    LangevinStates,
)
from driftwell.quantization.post_training.calibration_times import (
    PTQ4DM,
    DiffusionTimes,
    ForwardDiffused,
)
from driftwell.quantization.post_training.cascade import GPTQThenCOMQ
from driftwell.quantization.post_training.comq import COMQ
from driftwell.quantization.post_training.gptq import GPTQ
from driftwell.quantization.post_training.gram import Gram
from driftwell.quantization.post_training.layer_report import LayerReport, QuantizationResult
from driftwell.quantization.post_training.magr import MagR, prox_largest
from driftwell.quantization.post_training.method import Method
from driftwell.quantization.post_training.output_error import output_error, row_errors
from driftwell.quantization.post_training.permutation import (
    Permuted,
    PermutedCOMQ,
    column_order,
    fold_permutation,
)
from driftwell.quantization.post_training.restoring import packed_settings, restored
from driftwell.quantization.post_training.round_to_nearest import RoundToNearest
from driftwell.quantization.post_training.verb import quantize

__all__ = [
    "COMQ",
    "GPTQ",
    "PTQ4DM",
    "Calibration",
    "DiffusionTimes",
    "FixedPointIterates",
    "ForwardDiffused",
    "GPTQThenCOMQ",
    "Gram",
    "Inputs",
    "LangevinStates",
    "LayerReport",
    "MagR",
    "Method",
    "Permuted",
    "PermutedCOMQ",
    "QuantizationResult",
    "RoundToNearest",
    "activation_ranges",
    "column_order",
    "fold_permutation",
    "output_error",
    "packed_settings",
    "prox_largest",
    "quantize",
    "restored",
    "row_errors",
]
