"""Formats of low-bit numbers: the levels a weight may take, and how they are stored."""

from driftwell.quantization.formats.format import Format
from driftwell.quantization.formats.grid import Grid
from driftwell.quantization.formats.lookup import Codebook, NormalFloat, PowerOfSqrtTwo, PowerOfTwo
from driftwell.quantization.formats.packing import pack_codes, unpack_codes
from driftwell.quantization.formats.quantized import Packed, Quantized
from driftwell.quantization.formats.storage import PackedFile, load_packed, save_packed
from driftwell.quantization.formats.ternary import Binary, Ternary
from driftwell.quantization.formats.uniform import Uniform

__all__ = [
    "Binary",
    "Codebook",
    "Format",
    "Grid",
    "NormalFloat",
    "Packed",
    "PackedFile",
    "PowerOfSqrtTwo",
    "PowerOfTwo",
    "Quantized",
    "Ternary",
    "Uniform",
    "load_packed",
    "pack_codes",
    "save_packed",
    "unpack_codes",
]
