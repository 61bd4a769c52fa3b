"""Proximal models: denoisers that are proximal operators, and iterations built from them."""

from driftwell.models.proximal.learned import LPN, Prior
from driftwell.models.proximal.matching import (
    LPN_PAPER,
    ProximalMatching,
    Stage,
    matching_schedule,
    proximal_matching_loss,
)
from driftwell.models.proximal.plug_and_play import (
    LeastSquares,
    PlugAndPlayADMM,
    PlugAndPlayPGD,
)
from driftwell.models.proximal.training import train_denoiser

__all__ = [
    "LPN",
    "LPN_PAPER",
    "LeastSquares",
    "PlugAndPlayADMM",
    "PlugAndPlayPGD",
    "Prior",
    "ProximalMatching",
    "Stage",
    "matching_schedule",
    "proximal_matching_loss",
    "train_denoiser",
]
