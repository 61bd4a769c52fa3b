"""Claims: the papers' statements, executable; each can fail, and its control must."""

from driftwell.claims.registry import (
    Claim,
    Outcome,
    all_claims,
    claim,
    find_claims,
    run_claim,
    run_claims,
)

__all__ = ["Claim", "Outcome", "all_claims", "claim", "find_claims", "run_claim", "run_claims"]
