"""Equilibrium models: layers brought to rest, energies they descend, and what learns from them."""

from driftwell.models.equilibrium.classifier import DEQClassifier, TiedLayer
from driftwell.models.equilibrium.consistency import ConsistencyDEQ, ConsistencyJumps
from driftwell.models.equilibrium.deep_opteq import DeepOptEq
from driftwell.models.equilibrium.distillation import Distillation
from driftwell.models.equilibrium.hopfield import (
    HopfieldEnergy,
    HopfieldRetrieval,
    HopfieldUpdate,
)
from driftwell.models.equilibrium.monotone import MonotoneDEQ
from driftwell.models.equilibrium.multiscale import MultiscaleDEQ, MultiscaleLayer
from driftwell.models.equilibrium.opteq import OptEqEnergy, OptEqLayer
from driftwell.models.equilibrium.primitives import Identity, ReLU, Softplus, Tanh
from driftwell.models.equilibrium.recorded_solves import RecordedSolve, record_trajectory
from driftwell.models.equilibrium.regressor import DEQRegressor, WellPosedness
from driftwell.models.equilibrium.selection import sam_solve
from driftwell.models.equilibrium.steady_state import SteadyState
from driftwell.models.equilibrium.transformer import DEQTransformerBlock, TransformerLayer

__all__ = [
    "ConsistencyDEQ",
    "ConsistencyJumps",
    "DEQClassifier",
    "DEQRegressor",
    "DEQTransformerBlock",
    "DeepOptEq",
    "Distillation",
    "HopfieldEnergy",
    "HopfieldRetrieval",
    "HopfieldUpdate",
    "Identity",
    "MonotoneDEQ",
    "MultiscaleDEQ",
    "MultiscaleLayer",
    "OptEqEnergy",
    "OptEqLayer",
    "ReLU",
    "RecordedSolve",
    "Softplus",
    "SteadyState",
    "Tanh",
    "TiedLayer",
    "TransformerLayer",
    "WellPosedness",
    "record_trajectory",
    "sam_solve",
]
