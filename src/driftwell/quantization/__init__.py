"""Networks and their dynamics in 1 to 8 bits: formats, methods, kernels, shipping."""

from driftwell.quantization.formats import (
    Binary,
    Codebook,
    Format,
    NormalFloat,
    PowerOfSqrtTwo,
    PowerOfTwo,
    Ternary,
    Uniform,
    load_packed,
    save_packed,
)
from driftwell.quantization.langevin import quantize_langevin
from driftwell.quantization.post_training import (
    COMQ,
    GPTQ,
    FixedPointIterates,
    GPTQThenCOMQ,
    Inputs,
    LangevinStates,
    MagR,
    RoundToNearest,
    quantize,
)

__all__ = [
    "COMQ",
    "GPTQ",
    "Binary",
    "Codebook",
    "FixedPointIterates",
    "Format",
    "GPTQThenCOMQ",
    "Inputs",
    "LangevinStates",
    "MagR",
    "NormalFloat",
    "PowerOfSqrtTwo",
    "PowerOfTwo",
    "RoundToNearest",
    "Ternary",
    "Uniform",
    "load_packed",
    "quantize",
    "quantize_langevin",
    "save_packed",
]
