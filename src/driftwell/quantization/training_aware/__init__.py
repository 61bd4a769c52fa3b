"""Training networks whose weights or activations are quantized."""
