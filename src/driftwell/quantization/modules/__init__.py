"""Layers whose weights are packed bytes."""

from driftwell.quantization.modules.activations import RoundedInput, StaticActivations
from driftwell.quantization.modules.convolution import (
    QuantizedConv1d,
    QuantizedConv2d,
)
from driftwell.quantization.modules.embedding import QuantizedEmbedding
from driftwell.quantization.modules.linear import QuantizedLinear
from driftwell.quantization.modules.packed_weight import PackedWeight
from driftwell.quantization.modules.parameter import QuantizedParameter
from driftwell.quantization.modules.recurrent import Recurrent, RecurrentCell

__all__ = [
    "PackedWeight",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedParameter",
    "Recurrent",
    "RecurrentCell",
    "RoundedInput",
    "StaticActivations",
]
