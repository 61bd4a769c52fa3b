"""Local rules: gradients from what a neuron can see."""
