"""Training networks whose weights or activations are quantized."""

from driftwell.quantization.training_aware.activations import BinaryActivation, QuantizedReLU, Sign
from driftwell.quantization.training_aware.binary_relax import Relaxation, Relaxed
from driftwell.quantization.training_aware.binary_teacher import BinaryTeacher
from driftwell.quantization.training_aware.blended import BlendedCoarseGradient
from driftwell.quantization.training_aware.coarse_gradient import (
    DescentTest,
    coarse_gradient_alignment,
    descent_test,
)
from driftwell.quantization.training_aware.lbw import LowBitWidth, shift_product
from driftwell.quantization.training_aware.learned_relu_step import (
    ExactStep,
    LearnedStepReLU,
    SaturatedStep,
    StepDerivative,
    ThreeValuedStep,
    half_normal_step,
)
from driftwell.quantization.training_aware.quantized_weights import (
    FakeQuantized,
    SeenWeight,
    WeightQuantizer,
    hardened,
    quantization_aware,
    seen_weights,
)
from driftwell.quantization.training_aware.recurrence import (
    Best,
    BestIterate,
    TailAverage,
    VisitCounter,
    Visits,
)
from driftwell.quantization.training_aware.straight_through import (
    ClippedReLUSTE,
    ClippedSTE,
    IdentitySTE,
    LogTailedSTE,
    ReLUSTE,
    StraightThrough,
    through,
)

__all__ = [
    "Best",
    "BestIterate",
    "BinaryActivation",
    "BinaryTeacher",
    "BlendedCoarseGradient",
    "ClippedReLUSTE",
    "ClippedSTE",
    "DescentTest",
    "ExactStep",
    "FakeQuantized",
    "IdentitySTE",
    "LearnedStepReLU",
    "LogTailedSTE",
    "LowBitWidth",
    "QuantizedReLU",
    "ReLUSTE",
    "Relaxation",
    "Relaxed",
    "SaturatedStep",
    "SeenWeight",
    "Sign",
    "StepDerivative",
    "StraightThrough",
    "TailAverage",
    "ThreeValuedStep",
    "VisitCounter",
    "Visits",
    "WeightQuantizer",
    "coarse_gradient_alignment",
    "descent_test",
    "half_normal_step",
    "hardened",
    "quantization_aware",
    "seen_weights",
    "shift_product",
    "through",
]
