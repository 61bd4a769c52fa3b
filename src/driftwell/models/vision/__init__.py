"""Vision models: reversible columns, tokens that are routed, boxes that are refined."""

from driftwell.models.vision.column_levels import ConvLevel, DenseLevel
from driftwell.models.vision.detector import StageDetector, average_precision, refinement_loss
from driftwell.models.vision.reversible_columns import ReversibleColumn, ReversibleColumns
from driftwell.models.vision.routed_classifier import RoutedClassifier
from driftwell.models.vision.stage_interactor import IterativeRefiner, RefinerCell, Stage
from driftwell.models.vision.stage_labels import cross_stage_assign
from driftwell.models.vision.token_routing import (
    AttentionBlock,
    Routed,
    TokenRouter,
    budget_loss,
)
from driftwell.models.vision.token_settling import SettledTokens, settle_tokens

__all__ = [
    "AttentionBlock",
    "ConvLevel",
    "DenseLevel",
    "IterativeRefiner",
    "RefinerCell",
    "ReversibleColumn",
    "ReversibleColumns",
    "Routed",
    "RoutedClassifier",
    "SettledTokens",
    "Stage",
    "StageDetector",
    "TokenRouter",
    "average_precision",
    "budget_loss",
    "cross_stage_assign",
    "refinement_loss",
    "settle_tokens",
]
