"""ONNX graphs with low-bit weights, checked in onnxruntime."""

from driftwell.quantization.export.onnx.exporting import export_onnx
from driftwell.quantization.export.onnx.report import OnnxReport

__all__ = ["OnnxReport", "export_onnx"]
