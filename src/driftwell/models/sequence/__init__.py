"""Models of sequences."""

from driftwell.models.sequence.transformer import (
    CharacterTransformer,
    SelfAttention,
    TransformerBlock,
    next_character_loss,
)

__all__ = ["CharacterTransformer", "SelfAttention", "TransformerBlock", "next_character_loss"]
