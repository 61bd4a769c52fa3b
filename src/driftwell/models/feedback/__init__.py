"""Networks with feedback: layers that settle together, trained by local rules."""

from driftwell.models.feedback.layered import FeedbackNetwork, rate

__all__ = ["FeedbackNetwork", "rate"]
