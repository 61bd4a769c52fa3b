"""Graph models: equilibria of message passing, trained by implicit gradients."""

from driftwell.models.graph.convergent import CGS, ConvergentGraphSolver
from driftwell.models.graph.ignn import GU, IGNN, node_states
from driftwell.models.graph.message_passing import MessagePassing
from driftwell.models.graph.regression import fit_on_drawn_graphs
from driftwell.models.graph.training import Fitted, accuracy, fit_graphs, fit_ignn

__all__ = [
    "CGS",
    "GU",
    "IGNN",
    "ConvergentGraphSolver",
    "Fitted",
    "MessagePassing",
    "accuracy",
    "fit_graphs",
    "fit_ignn",
    "fit_on_drawn_graphs",
    "node_states",
]
