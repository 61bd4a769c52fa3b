"""Networks and their dynamics in 1 to 8 bits: formats, methods, kernels, shipping."""
