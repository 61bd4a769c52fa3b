"""How gradients pass through a fixed-point solve: one file each."""
