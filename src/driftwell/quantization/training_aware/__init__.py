"""Training networks whose weights or activations are quantized."""

from driftwell.quantization.training_aware.activations import BinaryActivation, QuantizedReLU, Sign
from driftwell.quantization.training_aware.adaptive_step import AdaptiveStepQuantizer, StepAdapter
from driftwell.quantization.training_aware.binary_layers import BinaryEmbedding, BinaryLinear
from driftwell.quantization.training_aware.binary_relax import Relaxation, Relaxed
from driftwell.quantization.training_aware.binary_teacher import BinaryTeacher
from driftwell.quantization.training_aware.binary_transformer import BinaryTransformer, LayerTrace
from driftwell.quantization.training_aware.blended import BlendedCoarseGradient
from driftwell.quantization.training_aware.boolean_attention import (
    BooleanAttention,
    SignedSoftmaxAttention,
    SoftmaxAttention,
    attention_entropy,
)
from driftwell.quantization.training_aware.coarse_gradient import (
    DescentTest,
    coarse_gradient_alignment,
    descent_test,
)
from driftwell.quantization.training_aware.direction_matching import (
    DirectionMatching,
    direction_distance,
)
from driftwell.quantization.training_aware.distillation import AffinityDistillation, faqd_loss
from driftwell.quantization.training_aware.feature_affinity import (
    feature_affinity,
    feature_affinity_loss,
)
from driftwell.quantization.training_aware.lbw import LowBitWidth, shift_product
from driftwell.quantization.training_aware.learned_grid import LearnedClipWeight
from driftwell.quantization.training_aware.learned_relu_step import (
    ExactStep,
    LearnedStepReLU,
    SaturatedStep,
    StepDerivative,
    ThreeValuedStep,
    half_normal_step,
)
from driftwell.quantization.training_aware.learned_step import (
    LearnedStep,
    LearnedStepQuantizer,
    LearnedStepWeight,
)
from driftwell.quantization.training_aware.popcount import (
    PackedSigns,
    PopcountLinear,
    boolean_product,
    sign_product,
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
from driftwell.quantization.training_aware.shifted_products import shifted_products
from driftwell.quantization.training_aware.straight_through import (
    ClippedReLUSTE,
    ClippedSTE,
    IdentitySTE,
    LogTailedSTE,
    ReLUSTE,
    StraightThrough,
    through,
)
from driftwell.quantization.training_aware.threshold_ternary import ThresholdTernary

__all__ = [
    "AdaptiveStepQuantizer",
    "AffinityDistillation",
    "Best",
    "BestIterate",
    "BinaryActivation",
    "BinaryEmbedding",
    "BinaryLinear",
    "BinaryTeacher",
    "BinaryTransformer",
    "BlendedCoarseGradient",
    "BooleanAttention",
    "ClippedReLUSTE",
    "ClippedSTE",
    "DescentTest",
    "DirectionMatching",
    "ExactStep",
    "FakeQuantized",
    "IdentitySTE",
    "LayerTrace",
    "LearnedClipWeight",
    "LearnedStep",
    "LearnedStepQuantizer",
    "LearnedStepReLU",
    "LearnedStepWeight",
    "LogTailedSTE",
    "LowBitWidth",
    "PackedSigns",
    "PopcountLinear",
    "QuantizedReLU",
    "ReLUSTE",
    "Relaxation",
    "Relaxed",
    "SaturatedStep",
    "SeenWeight",
    "Sign",
    "SignedSoftmaxAttention",
    "SoftmaxAttention",
    "StepAdapter",
    "StepDerivative",
    "StraightThrough",
    "TailAverage",
    "ThreeValuedStep",
    "ThresholdTernary",
    "VisitCounter",
    "Visits",
    "WeightQuantizer",
    "attention_entropy",
    "boolean_product",
    "coarse_gradient_alignment",
    "descent_test",
    "direction_distance",
    "faqd_loss",
    "feature_affinity",
    "feature_affinity_loss",
    "half_normal_step",
    "hardened",
    "quantization_aware",
    "seen_weights",
    "shift_product",
    "shifted_products",
    "sign_product",
    "through",
]
