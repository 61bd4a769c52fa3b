"""Claims about equilibrium models."""
