"""Langevin machines: energy-based models sampled by Langevin dynamics, with local learning."""

from driftwell.models.langevin.machine import NLM, NeuralLangevinMachine

__all__ = ["NLM", "NeuralLangevinMachine"]
