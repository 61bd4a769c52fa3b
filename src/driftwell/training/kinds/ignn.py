"""Runs of implicit graph neural networks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.world import World
from driftwell.data.graphs import Graph
from driftwell.data.planetoid import read_planetoid
from driftwell.models.graph import IGNN, node_states
from driftwell.models.graph.training import accuracy, dropped
from driftwell.training.checkpoint import Checkpoint
from driftwell.training.gradient_trainer import GradientTrainer, decayed
from driftwell.training.kinds.kind import Kind, Task
from driftwell.training.kinds.settings import (
    DECAYS,
    check_above,
    check_choice,
    check_not_negative,
    check_whole,
    gradient_of,
    solver_of,
)
from driftwell.training.model_run import ModelRun, load_model_run
from driftwell.training.session import device_of

if TYPE_CHECKING:
    from driftwell.training.config import RunConfig
    from driftwell.training.exporting import ExportWish, Shipped
    from driftwell.training.quantization_plan import QuantizationPlan
    from driftwell.training.quantized_run import QuantizedWeights

_FOLDER = "planetoid"


@final
@dataclass(frozen=True)
class IGNNRecipe:
    """All that decides how an implicit graph network is trained.

    Attributes:
        width: of a node's state.
        kappa: bound on the largest absolute row sum of W, in (0, 1).
        solver: ``"anderson"``, ``"broyden"``, ``"newton-krylov"`` or ``"picard"``.
        tol: relative tolerance of the solve.
        max_steps: evaluations of the layer that are allowed, in the solve and in its adjoint.
        gradient: ``"implicit"``, ``"one-step"``, ``"phantom"``, or ``"unrolled"`` through the
            steps of the solver.
        adjoint_tol: tolerance of the implicit gradient's own solve.
        dropout: rate on features and on states, in [0, 1).
        learning_rate: of Adam.
        weight_decay: L2 penalty.
        decay: ``"constant"`` or ``"cosine"``, the learning rate over `updates`.
        updates: length of a whole training; each takes the whole graph.
    """

    width: int = 32
    kappa: float = 0.95
    solver: str = "anderson"
    tol: float = 1e-5
    max_steps: int = 400
    gradient: str = "implicit"
    adjoint_tol: float = 1e-6
    dropout: float = 0.5
    learning_rate: float = 1e-2
    weight_decay: float = 5e-4
    decay: str = "constant"
    updates: int = 120

    def __post_init__(self) -> None:
        check_choice("decay", self.decay, DECAYS)
        for name in ("width", "max_steps", "updates"):
            check_whole(name, getattr(self, name))
        for name in ("tol", "adjoint_tol", "weight_decay"):
            check_not_negative(name, getattr(self, name))
        check_above("learning_rate", self.learning_rate)
        if not 0.0 < self.kappa < 1.0:
            raise InvalidInput(f"recipe: kappa must lie between 0 and 1, got {self.kappa}")
        if not 0.0 <= self.dropout < 1.0:
            raise InvalidInput(f"recipe: dropout must lie in [0, 1), got {self.dropout}")
        solver_of(self.solver)
        gradient_of(self.gradient, self.adjoint_tol)

    def build(self, features: int, classes: int, seed: int) -> IGNN:
        """The untrained network."""
        return IGNN(
            features, self.width, classes, self.kappa, solver=solver_of(self.solver),
            gradient=gradient_of(self.gradient, self.adjoint_tol, self.max_steps), tol=self.tol,
            max_steps=self.max_steps, seed=seed,
        )  # fmt: skip


@final
class NodeObjective:
    """Cross entropy on a graph's training nodes, with keyed dropout.

    Args:
        model: the network.
        graph: with labels and `train_mask`.
        recipe: the settings.
        seed: of the dropout.
    """

    def __init__(self, model: IGNN, graph: Graph, recipe: IGNNRecipe, seed: int) -> None:
        self.model, self.graph, self.recipe, self.seed = model, graph, recipe, seed
        self.labels, self.chosen = _training_nodes(graph)

    def loss(self, index: int) -> tuple[Tensor, dict[str, float], int]:
        """Mean cross entropy, with accuracies and the solve's length."""
        rate, graph = self.recipe.dropout, self.graph
        found = self.model.equilibrium(graph, dropped(graph.x, rate, self.seed, 2 * index))
        z = dropped(node_states(graph, found), rate, self.seed, 2 * index + 1)
        logits = self.model.decode(graph, z)[self.chosen]
        right = self.labels[self.chosen]
        loss = torch.nn.functional.cross_entropy(logits, right)
        metrics = {
            "accuracy": float((logits.argmax(1) == right).double().mean()),
            "steps": float(found.steps.max()),
        }
        if graph.val_mask is not None:
            metrics["validation"] = accuracy(self.model, graph, graph.val_mask)
        return loss, metrics, int(self.chosen.sum())

    def constrain(self) -> None:
        """Project the rows of W on their ball, as the paper does."""
        self.model.project_()

    def warnings(self) -> list[str]:
        """Nothing: a solve that fails ends the training."""
        return []


@final
class GraphKind(Kind):
    """An implicit graph network that classifies the nodes of one graph."""

    name = "ignn"
    title = "Implicit graph neural network"
    recipe = IGNNRecipe
    presets: ClassVar[Mapping[str, IGNNRecipe]] = {
        "default": IGNNRecipe(),
        "wide": IGNNRecipe(width=128),
        "near-critical": IGNNRecipe(kappa=0.99, max_steps=1000),
    }
    sources = ("cora", "citeseer")
    of_images = False

    def task(self, config: RunConfig, world: World) -> Task:
        """The graph, and a trainer that takes all of it at every update."""
        if world.size > 1:
            raise InvalidInput(
                f"ignn takes the whole graph at every update, which {world.size} processes cannot "
                "share: start one"
            )
        recipe: IGNNRecipe = config.recipe
        graph = graph_of(config)
        classes = tuple(int(c) for c in _training_nodes(graph)[0].unique().tolist() if c >= 0)
        model = recipe.build(graph.x.shape[1], max(classes) + 1, config.seed)
        objective = NodeObjective(model, graph, recipe, config.seed)
        trainer = GradientTrainer(
            model.to(device_of(config.device)), objective, weight_decay=recipe.weight_decay,
            decoupled=False, rate=decayed(recipe.learning_rate, recipe.decay, recipe.updates),
        )  # fmt: skip
        return Task(
            trainer, _describe(config, graph, classes), "graph", {}, {},
            lambda kept: f"lower learning_rate ({recipe.learning_rate:g})",
        )  # fmt: skip

    def load(self, path: Path, device: str | None = None) -> ModelRun:
        """The network of a run folder; its graph is not needed."""
        return load_model_run(path, self.name, _build, device)

    def quantized(self, run: ModelRun, plan: QuantizationPlan) -> QuantizedWeights:
        """All matrices, calibrated on the iterates of the solve for the whole graph."""
        from driftwell.quantization.post_training import Inputs
        from driftwell.training.quantized_model import quantized_model

        return quantized_model(run, Inputs([graph_of(run.config)]), plan)

    def exported(self, run: ModelRun, wish: ExportWish) -> Shipped:
        """Packed weights; its sparse products have no ONNX form."""
        from driftwell.training.shipping_onnx import ship_model

        return ship_model(run, wish, graph_of(run.config).x)

    def scores(self, run: ModelRun, weights: QuantizedWeights | None) -> dict[str, float]:
        """Accuracy on the test nodes, and the evaluations the solve takes."""
        graph = graph_of(run.config)
        model = run.model if weights is None else weights.model
        with torch.no_grad():
            logits, found = model(graph)
        labels = _training_nodes(graph)[0]
        part = labels >= 0 if graph.test_mask is None else graph.test_mask
        right = (logits.argmax(1) == labels)[part].double()
        return {
            "accuracy": float(right.mean()),
            "accuracy_error": float(right.std() / len(right) ** 0.5),
            "steps": float(found.steps.double().mean()),
        }

    def check(self, config: RunConfig) -> None:
        """Refuse what says nothing to a graph, and what its sparse products cannot do."""
        super().check(config)
        if config.device.split(":")[0] != "cpu":
            raise InvalidInput(f"ignn runs on the cpu, got device {config.device!r}: leave it out")


def graph_of(config: RunConfig) -> Graph:
    """The graph that `config` names.

    Raises:
        InvalidInput: no such name or file, or one that holds no citation graph.
    """
    source = config.data.source
    if source in GraphKind.sources:
        root = os.environ.get("DRIFTWELL_DATA", "")
        if not root:
            raise InvalidInput(
                f"{source} is not bundled and nothing is downloaded: set DRIFTWELL_DATA to the "
                f"folder that has {_FOLDER}/{source}.npz, or give a path instead of a name"
            )
        return read_planetoid(Path(root).expanduser() / _FOLDER, source)
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix != ".npz":
        raise InvalidInput(
            f"no graph at {source!r}: it is neither {' nor '.join(GraphKind.sources)}, nor the "
            "path of a .npz file of a citation graph"
        )
    return read_planetoid(path.parent, path.stem)


def _training_nodes(graph: Graph) -> tuple[Tensor, Tensor]:
    if graph.y is None or graph.train_mask is None or not bool(graph.train_mask.any()):
        raise InvalidInput("the graph has no labelled nodes to learn from")
    return graph.y, graph.train_mask


def _describe(config: RunConfig, graph: Graph, classes: tuple[int, ...]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for tensor in (graph.edges, graph.x, graph.y, graph.train_mask):
        if tensor is not None:
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    name = config.data.source
    return {
        "name": name if name in GraphKind.sources else Path(name).stem,
        "source": f"citation graph {name}", "nodes": graph.nodes,
        "edges": graph.edges.shape[1] // 2, "features": graph.x.shape[1],
        "classes": list(classes), "fingerprint": digest.hexdigest(),
    }  # fmt: skip


def _build(config: RunConfig, found: Checkpoint) -> IGNN:
    recipe: IGNNRecipe = config.recipe
    features = int(found.meta["data"]["features"])  # a quantized run holds no float B to count
    return recipe.build(features, len(found.tensors["model.c"]), config.seed)


KIND = GraphKind()
