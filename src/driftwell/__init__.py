"""driftwell: neural networks as dynamical systems, in PyTorch.

A state is brought to a fixed point (`fixed_point`), sampled (`sample`) or integrated
(`integrate`). Names below are imported on first use, so that `import driftwell` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOM_OF_NAME = {
    # the three verbs and their results
    "fixed_point": "driftwell.fixed_points",
    "sample": "driftwell.sampling",
    "integrate": "driftwell.integration",
    "FixedPoint": "driftwell.core.results",
    "Chains": "driftwell.core.results",
    "Trajectory": "driftwell.core.results",
    "Status": "driftwell.core.status",
    # laws
    "Map": "driftwell.dynamics",
    "Energy": "driftwell.dynamics",
    "VectorField": "driftwell.dynamics",
    "SpeedEnergy": "driftwell.dynamics",
    # solvers and gradients
    "Picard": "driftwell.fixed_points",
    "Anderson": "driftwell.fixed_points",
    "Implicit": "driftwell.fixed_points",
    "Unrolled": "driftwell.fixed_points",
    "Broyden": "driftwell.fixed_points",
    "NewtonKrylov": "driftwell.fixed_points",
    "ForwardBackward": "driftwell.fixed_points",
    "PeacemanRachford": "driftwell.fixed_points",
    "OneStep": "driftwell.fixed_points",
    "Phantom": "driftwell.fixed_points",
    "Reversible": "driftwell.fixed_points",
    "SHINE": "driftwell.fixed_points",
    "EarlyExit": "driftwell.fixed_points",
    "FixedBudget": "driftwell.fixed_points",
    "WhileLoop": "driftwell.fixed_points",
    "explain": "driftwell.fixed_points",
    # learning
    "HolomorphicEP": "driftwell.learning",
    "BackwardEuler": "driftwell.learning.optimizers",
    "HeavyBall": "driftwell.learning.optimizers",
    "LaplacianSmoothing": "driftwell.learning.optimizers",
    # samplers
    "Langevin": "driftwell.sampling",
    "UnadjustedLangevin": "driftwell.sampling",
    "MALA": "driftwell.sampling",
    "BAOAB": "driftwell.sampling",
    "HMC": "driftwell.sampling",
    "ReplicaExchange": "driftwell.sampling",
    "AnnealedLangevin": "driftwell.sampling",
    "Descent": "driftwell.sampling",
    "log_partition": "driftwell.sampling",
    # few bits
    "COMQ": "driftwell.quantization",
    "GPTQ": "driftwell.quantization",
    "GPTQThenCOMQ": "driftwell.quantization",
    "Inputs": "driftwell.quantization",
    "Ternary": "driftwell.quantization",
    "Uniform": "driftwell.quantization",
    "quantize": "driftwell.quantization",
    "quantize_langevin": "driftwell.quantization",
    # integrators
    "Euler": "driftwell.integration",
    "Heun": "driftwell.integration",
    "RK4": "driftwell.integration",
    "DormandPrince": "driftwell.integration",
    "EulerMaruyama": "driftwell.integration",
    "StochasticHeun": "driftwell.integration",
    "ConstantStep": "driftwell.integration",
    "AdaptiveStep": "driftwell.integration",
    "Brownian": "driftwell.integration",
    # models
    "NeuralLangevinMachine": "driftwell.models.langevin",
    # papers
    "Paper": "driftwell.core.papers",
    "cite": "driftwell.core.papers",
}

__all__ = ["__version__", *_ROOM_OF_NAME]


def __getattr__(name: str) -> Any:
    room = _ROOM_OF_NAME.get(name)
    if room is None:
        raise AttributeError(f"module 'driftwell' has no attribute {name!r}")
    value = getattr(import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from driftwell.core.papers import Paper as Paper
    from driftwell.core.papers import cite as cite
    from driftwell.core.results import Chains as Chains
    from driftwell.core.results import FixedPoint as FixedPoint
    from driftwell.core.results import Trajectory as Trajectory
    from driftwell.core.status import Status as Status
    from driftwell.dynamics import Energy as Energy
    from driftwell.dynamics import Map as Map
    from driftwell.dynamics import SpeedEnergy as SpeedEnergy
    from driftwell.dynamics import VectorField as VectorField
    from driftwell.fixed_points import SHINE as SHINE
    from driftwell.fixed_points import Anderson as Anderson
    from driftwell.fixed_points import Broyden as Broyden
    from driftwell.fixed_points import EarlyExit as EarlyExit
    from driftwell.fixed_points import FixedBudget as FixedBudget
    from driftwell.fixed_points import ForwardBackward as ForwardBackward
    from driftwell.fixed_points import Implicit as Implicit
    from driftwell.fixed_points import NewtonKrylov as NewtonKrylov
    from driftwell.fixed_points import OneStep as OneStep
    from driftwell.fixed_points import PeacemanRachford as PeacemanRachford
    from driftwell.fixed_points import Phantom as Phantom
    from driftwell.fixed_points import Picard as Picard
    from driftwell.fixed_points import Reversible as Reversible
    from driftwell.fixed_points import Unrolled as Unrolled
    from driftwell.fixed_points import WhileLoop as WhileLoop
    from driftwell.fixed_points import explain as explain
    from driftwell.fixed_points import fixed_point as fixed_point
    from driftwell.integration import RK4 as RK4
    from driftwell.integration import AdaptiveStep as AdaptiveStep
    from driftwell.integration import Brownian as Brownian
    from driftwell.integration import ConstantStep as ConstantStep
    from driftwell.integration import DormandPrince as DormandPrince
    from driftwell.integration import Euler as Euler
    from driftwell.integration import EulerMaruyama as EulerMaruyama
    from driftwell.integration import Heun as Heun
    from driftwell.integration import StochasticHeun as StochasticHeun
    from driftwell.integration import integrate as integrate
    from driftwell.learning import HolomorphicEP as HolomorphicEP
    from driftwell.learning.optimizers import BackwardEuler as BackwardEuler
    from driftwell.learning.optimizers import HeavyBall as HeavyBall
    from driftwell.learning.optimizers import LaplacianSmoothing as LaplacianSmoothing
    from driftwell.models.langevin import NeuralLangevinMachine as NeuralLangevinMachine
    from driftwell.quantization import COMQ as COMQ
    from driftwell.quantization import GPTQ as GPTQ
    from driftwell.quantization import GPTQThenCOMQ as GPTQThenCOMQ
    from driftwell.quantization import Inputs as Inputs
    from driftwell.quantization import Ternary as Ternary
    from driftwell.quantization import Uniform as Uniform
    from driftwell.quantization import quantize as quantize
    from driftwell.quantization import quantize_langevin as quantize_langevin
    from driftwell.sampling import BAOAB as BAOAB
    from driftwell.sampling import HMC as HMC
    from driftwell.sampling import MALA as MALA
    from driftwell.sampling import AnnealedLangevin as AnnealedLangevin
    from driftwell.sampling import Descent as Descent
    from driftwell.sampling import Langevin as Langevin
    from driftwell.sampling import ReplicaExchange as ReplicaExchange
    from driftwell.sampling import UnadjustedLangevin as UnadjustedLangevin
    from driftwell.sampling import log_partition as log_partition
    from driftwell.sampling import sample as sample
