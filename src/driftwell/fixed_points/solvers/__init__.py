"""Solvers of fixed points: one file each."""
