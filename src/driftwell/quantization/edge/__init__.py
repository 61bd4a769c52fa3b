"""Learning, adapting and controlling on small devices."""

from driftwell.quantization.edge.closed_loop import Run, track
from driftwell.quantization.edge.cloud_adaptation import (
    AdaptationSettings,
    CloudAdapter,
    TestTimeEntropy,
    affine_parameters,
    batch_statistics,
    load_affine,
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

__all__ = [
    "PID",
    "AdaptationSettings",
    "CloudAdapter",
    "CompiledControl",
    "ControlReport",
    "ControlState",
    "FilterState",
    "MassSpringDamper",
    "NewtonPredictiveControl",
    "Run",
    "SampleFilter",
    "StepModel",
    "TestTimeEntropy",
    "affine_parameters",
    "batch_statistics",
    "entropy_of",
    "excitation",
    "export_newton_control",
    "learn_step_model",
    "load_affine",
    "sinusoid",
    "staircase",
    "track",
    "tune_pid",
    "windows_of",
]
