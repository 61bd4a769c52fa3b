"""Shipping a quantized network: safetensors, ONNX, plain C."""
