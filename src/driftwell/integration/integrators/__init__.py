"""Integrators: one file each."""
