"""Claims about quantization, adapters and edge deployment."""
