"""Implicit graph networks on real graphs: Cora, CiteSeer, MUTAG; and the price of a product.

Accuracy on the public split of the citation graphs, mean and standard deviation over seeds of the
start weights; ten stratified folds of MUTAG. Needs the folder of real data, named by --data or
DRIFTWELL_DATA. `--products` times sparse products instead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from driftwell.core.noise import Purpose, permutation
from driftwell.data.generators import gaussian_mixture_ring
from driftwell.data.graph_generators import stochastic_block_model
from driftwell.data.graphs import side_by_side
from driftwell.data.planetoid import read_planetoid
from driftwell.data.tu import read_tu
from driftwell.models.graph import IGNN, accuracy, fit_graphs, fit_ignn


@dataclass(frozen=True)
class Recipe:
    """Settings of one citation graph, chosen on its validation nodes."""

    kappa: float = 0.9
    width: int = 64
    dropout: float = 0.7
    weight_decay: float = 5e-4
    updates: int = 150


RECIPES = {"cora": Recipe(), "citeseer": Recipe(weight_decay=1e-3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("DRIFTWELL_DATA", ""))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="*", default=["cora", "citeseer", "MUTAG"])
    parser.add_argument("--products", action="store_true")
    chosen = parser.parse_args()
    if chosen.products:
        return _products()
    if not chosen.data:
        parser.error("give --data FOLDER or set DRIFTWELL_DATA")
    for name in chosen.sets:
        run = _citations if name in RECIPES else _molecules
        run(Path(chosen.data), name, chosen.seeds)
    return 0


def _citations(folder: Path, name: str, seeds: int) -> None:
    graph, how, found = read_planetoid(folder / "planetoid", name), RECIPES[name], []
    for seed in range(seeds):
        began = time.perf_counter()
        model = IGNN(graph.x.shape[1], how.width, int(graph.y.max()) + 1, how.kappa, seed=seed)
        fitted = fit_ignn(
            model, graph, updates=how.updates, dropout=how.dropout,
            weight_decay=how.weight_decay, seed=seed,
        )  # fmt: skip
        found.append(100 * accuracy(model, graph, graph.test_mask))
        print(
            f"{name} seed {seed}: test {found[-1]:.1f} %, validation "
            f"{100 * fitted.validation:.1f} % at update {fitted.update}, "
            f"{max(fitted.steps)} evaluations at most, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    print(f"{name}: {_summary(found)} on 1000 test nodes, {how}")


def _molecules(folder: Path, name: str, seeds: int, folds: int = 10) -> None:
    graphs, found = read_tu(folder / "tu", name), []
    fold_of = _stratified([int(g.y) for g in graphs], folds)
    for fold in range(folds):
        kept = [g for g, f in zip(graphs, fold_of, strict=True) if f != fold]
        left = [g for g, f in zip(graphs, fold_of, strict=True) if f == fold]
        model = IGNN(graphs[0].x.shape[1], 32, 2, 0.9, level="graph", seed=fold)
        fit_graphs(model, kept, epochs=60, batch=32, lr=1e-2, dropout=0.2, seed=fold)
        found.append(100 * accuracy(model, side_by_side(left)))
        print(f"{name} fold {fold}: {found[-1]:.1f} %", flush=True)
    print(f"{name}: {_summary(found)} over {folds} folds, last update, no choice on the test fold")


def _stratified(labels: list[int], folds: int) -> list[int]:
    fold_of, order = (
        [0] * len(labels),
        permutation(len(labels), seed=0, purpose=Purpose.DATA, step=0).tolist(),
    )
    for rank, i in enumerate(sorted(order, key=lambda i: labels[i])):
        fold_of[i] = rank % folds
    return fold_of


def _summary(found: list[float]) -> str:
    spread = f" +- {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread} %"


def _products() -> int:
    """Milliseconds of a product with 2708 nodes, four neighbours each, as Cora has."""
    graph = stochastic_block_model(2708, classes=7, degree=3.9, seed=0)
    along = graph.propagation
    compressed = along.matrix
    coordinates = compressed.to_sparse_coo().coalesce()
    (target, source), weights = coordinates.indices(), coordinates.values()
    for width in (16, 64, 128):
        z = gaussian_mixture_ring(2708 * width // 2, seed=0).reshape(2708, width)
        ways: dict[str, Callable[[], object]] = {
            "compressed rows": lambda z=z: along(z),
            "coordinates": lambda z=z: coordinates @ z,
            "index_add": lambda z=z: torch.zeros_like(z).index_add_(
                0, target, weights[:, None] * z[source]
            ),
        }
        times = {name: _median(call) for name, call in ways.items()}
        print(width, {name: f"{1e3 * t:.3f} ms" for name, t in times.items()})
    return 0


def _median(call: Callable[[], object], repeats: int = 51) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    raise SystemExit(main())
