"""Learning: local rules that need no backward pass through time, and optimizers."""

from driftwell.learning.rules.holomorphic import HolomorphicEP, Response
from driftwell.learning.rules.homeostasis import jacobian_homeostasis, jacobian_symmetry
from driftwell.learning.rules.sensitivity import nudge_response

__all__ = [
    "HolomorphicEP",
    "Response",
    "jacobian_homeostasis",
    "jacobian_symmetry",
    "nudge_response",
]
