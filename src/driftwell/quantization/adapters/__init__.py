"""Small trainable additions to a frozen, usually quantized, layer."""

from driftwell.quantization.adapters.adapt import (
    adapt,
    adapters_of,
    matching_layers,
    parameter_count,
)
from driftwell.quantization.adapters.adapter import Adapter, AdapterDescription
from driftwell.quantization.adapters.block_diagonal import BlockDiagonalAdapter, DiaBlo
from driftwell.quantization.adapters.calibrated import cloq_init, svd_init
from driftwell.quantization.adapters.kronecker import CDKA, KroneckerAdapter
from driftwell.quantization.adapters.kronecker_fit import closest_kronecker
from driftwell.quantization.adapters.layer_grams import layer_grams
from driftwell.quantization.adapters.low_rank import LoRA, LowRankAdapter
from driftwell.quantization.adapters.merging import (
    adapter_state,
    load_adapter_state,
    merge,
    merging_error,
)
from driftwell.quantization.adapters.residual_start import ResidualStart

__all__ = [
    "CDKA",
    "Adapter",
    "AdapterDescription",
    "BlockDiagonalAdapter",
    "DiaBlo",
    "KroneckerAdapter",
    "LoRA",
    "LowRankAdapter",
    "ResidualStart",
    "adapt",
    "adapter_state",
    "adapters_of",
    "cloq_init",
    "closest_kronecker",
    "layer_grams",
    "load_adapter_state",
    "matching_layers",
    "merge",
    "merging_error",
    "parameter_count",
    "svd_init",
]
