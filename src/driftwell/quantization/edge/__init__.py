"""Learning, adapting and controlling on small devices."""

from driftwell.quantization.edge.closed_loop import ControlRun, track
from driftwell.quantization.edge.cloud_adaptation import (
    AdaptationSettings,
    CloudAdapter,
    TestTimeEntropy,
    affine_parameters,
    batch_statistics,
    load_affine,
)
from driftwell.quantization.edge.half_precision import (
    HalfDescent,
    HalfState,
    LossScale,
    lost_share,
    stored_in_half,
)
from driftwell.quantization.edge.newton_control import ControlState, NewtonPredictiveControl
from driftwell.quantization.edge.newton_control_c import (
    CompiledControl,
    ControlReport,
    export_newton_control,
)
from driftwell.quantization.edge.pid import PID, tune_pid
from driftwell.quantization.edge.plants import MassSpringDamper, excitation, sinusoid, staircase
from driftwell.quantization.edge.sample_filter import FilterState, SampleFilter, entropy_of
from driftwell.quantization.edge.step_model import StepModel, learn_step_model, windows_of
from driftwell.quantization.edge.training_c import export_training_c
from driftwell.quantization.edge.training_half_updates import (
    MasterWeights,
    NearestRounding,
    StochasticRounding,
    round_to_half,
)
from driftwell.quantization.edge.training_plan import LayerPlan, TrainingPlan, plan_training
from driftwell.quantization.edge.training_tiles import Product, Tile, choose_tile

__all__ = [
    "PID",
    "AdaptationSettings",
    "CloudAdapter",
    "CompiledControl",
    "ControlReport",
    "ControlRun",
    "ControlState",
    "FilterState",
    "HalfDescent",
    "HalfState",
    "LayerPlan",
    "LossScale",
    "MassSpringDamper",
    "MasterWeights",
    "NearestRounding",
    "NewtonPredictiveControl",
    "Product",
    "SampleFilter",
    "StepModel",
    "StochasticRounding",
    "TestTimeEntropy",
    "Tile",
    "TrainingPlan",
    "affine_parameters",
    "batch_statistics",
    "choose_tile",
    "entropy_of",
    "excitation",
    "export_newton_control",
    "export_training_c",
    "learn_step_model",
    "load_affine",
    "lost_share",
    "plan_training",
    "round_to_half",
    "sinusoid",
    "staircase",
    "stored_in_half",
    "track",
    "tune_pid",
    "windows_of",
]
