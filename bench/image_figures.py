"""Pictures of the image benchmark: quality against wall-clock, and the samples themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLOURS = {"default": "#1d6cb3", "yu2025-pcd": "#b3333f"}
GAUSSIAN, REAL, MUTED, GRID = "#c2620b", "#12805f", "#5b6473", "#e2e6eb"
PANELS = (
    ("aai", "AAI (0: indistinguishable)", "log"),
    ("accuracy_real", "Acc_real (1/2: indistinguishable)", "linear"),
    ("accuracy_generated", "Acc_gen (1/2: indistinguishable)", "linear"),
    ("e2", "E2, squared covariance error", "log"),
    ("nearest_ratio", "distance to nearest training image /\nthat of held-out images", "linear"),
    ("recognised", "recognised share, label clamped", "linear"),
)


def draw_quality(path: Path, rows: list[dict[str, Any]], floors: dict[str, dict[str, Any]]) -> None:
    """Six measures against seconds of training, with the Gaussian and real images as levels.

    Args:
        path: of the .png.
        rows: of `image_quality`.
        floors: rows `gaussian` and `real`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 7.2), layout="constrained")
    axes = figure.subplots(2, 3)
    for ax, (key, label, scale) in zip(axes.flat, PANELS, strict=True):
        for mode, colour in COLOURS.items():
            _draw_curve(ax, [row for row in rows if row["mode"] == mode], key, mode, colour)
        for name, colour, words in (
            ("gaussian", GAUSSIAN, "Gaussian of the data"),
            ("real", REAL, "real against real"),
        ):
            if key in floors[name]:
                ax.axhline(floors[name][key], color=colour, lw=1.2, ls="--", label=words)
        if key == "recognised":
            ax.axhline(floors["real"]["recognised_real"], color=REAL, lw=1.2, ls="--",
                       label="held-out images")  # fmt: skip
            ax.set_ylim(0.0, 1.05)
        ax.set(xscale="log", yscale=scale, xlabel="wall-clock of training in s", ylabel=label)
        ax.set_xticks(*_ticks(rows))
        ax.set_xticks([], minor=True)
        ax.grid(color=GRID, lw=0.7)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    axes[1, 2].legend(frameon=False, fontsize=8)
    figure.suptitle("MNIST {1, 3, 6}, 28x28: samples from noise against held-out images", x=0.02,
                    ha="left", fontweight="bold")  # fmt: skip
    figure.savefig(path, dpi=130)


def _ticks(rows: list[dict[str, Any]]) -> tuple[list[int], list[str]]:
    """Round numbers of seconds and their names."""
    latest = max(row["seconds"] for row in rows)
    shown = [t for t in (2, 5, 10, 30, 100, 300, 900, 3600, 7200) if t <= 1.1 * latest]
    return shown, [str(t) for t in shown]


def _draw_curve(ax: Any, rows: list[dict[str, Any]], key: str, mode: str, colour: str) -> None:
    # rows marked extra take another number of steps, so they stand beside the curve
    known = [row for row in rows if row.get(key) is not None and not row["extra"]]
    if not known:
        return
    errors = [row.get(f"{key}_error") or 0.0 for row in known]
    ax.errorbar([row["seconds"] for row in known], [row[key] for row in known], yerr=errors,
                color=colour, marker="o", ms=4, lw=1.5, capsize=2, label=mode)  # fmt: skip
    for row in rows:
        if row["extra"] and row.get(key) is not None:
            ax.plot(row["seconds"], row[key], color=colour, marker="D", mfc="none", ls="none",
                    label=f"{mode}, {row['steps']} steps")  # fmt: skip


def draw_samples(path: Path, blocks: dict[str, Tensor], columns: int = 10) -> None:
    """Blocks of images in [0, 1], (n, height, width), each under its title.

    Args:
        path: of the .png.
        blocks: images by title, drawn side by side, the first 70 of each.
        columns: images in a line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * len(blocks), 2.55), layout="constrained")
    for ax, (title, images) in zip(
        figure.subplots(1, len(blocks), squeeze=False)[0], blocks.items(), strict=True
    ):
        ax.imshow(_tiled(images[: 7 * columns], columns), cmap="gray", vmin=0.0, vmax=1.0,
                  interpolation="nearest")  # fmt: skip
        ax.set_title(title, fontsize=7.5, loc="left")
        ax.set_anchor("N")
        ax.set_axis_off()
    figure.savefig(path, dpi=180)


def _tiled(images: Tensor, columns: int) -> Any:
    spare = -len(images) % columns
    padded = torch.cat([images, images.new_zeros(spare, *images.shape[1:])])
    framed = torch.nn.functional.pad(padded, (1, 1, 1, 1), value=0.35)
    rows = framed.reshape(-1, columns, *framed.shape[1:])
    return rows.permute(0, 2, 1, 3).flatten(0, 1).flatten(1, 2).numpy()
