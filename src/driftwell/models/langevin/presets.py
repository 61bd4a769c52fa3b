"""Recipes: every setting of a training run as one frozen value, and the presets by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from driftwell.core.errors import InvalidInput
from driftwell.dynamics.laws import Matmul, check_temperature
from driftwell.sampling import Langevin, UnadjustedLangevin

LEARNINGS = ("contrastive", "denoising")
FREE_PHASES = ("pcd", "rdm", "one-chain", "none")
SCALINGS = ("atanh", "plain", "raw", "components")
OPTIMIZERS = ("adam", "sgd")
SAMPLERS = ("langevin", "unadjusted")
DECAYS = ("constant", "cosine")
MATMULS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """All that decides how a Langevin machine is trained and sampled.

    Two kinds of learning share it. ``"contrastive"`` is the paper's: a `NeuralLangevinMachine`
    learns by the local rule from a clamped and a free phase. ``"denoising"`` is ours: a
    `NoiseConditionalMachine` learns by denoising score matching and samples by annealed Langevin
    dynamics through its noise levels.

    Attributes:
        learning: ``"contrastive"`` or ``"denoising"``.
        free_phase: ``"pcd"`` persistent chains; ``"rdm"`` chains redrawn from noise at every
            update; ``"one-chain"`` time average over one persistent chain; ``"none"`` no free
            phase (associative memory: the stored patterns' energy is minimised).
        langevin_steps: k, Langevin steps per update.
        chains: number of chains M in the free phase.
        batch: data per update.
        bare_steps: first steps of each free phase without the Onsager feedback term.
        burn_in: of the one-chain average, steps left out.
        every: of the one-chain average, steps between kept states.
        optimizer: ``"adam"`` or ``"sgd"``.
        learning_rate: its rate.
        weight_decay: L2 term in J's gradient (not b's).
        shrink: J <- (1 - shrink) J after each update.
        sampler: ``"langevin"`` (Leimkuhler-Matthews) or ``"unadjusted"`` (the paper's Euler).
        step_size: dt of the chains, in integration units; 0 means automatic.
        temperature: T.
        gain: g of the start couplings.
        bias: whether b is learned.
        zero_diagonal: whether J_ii stays zero (it starts at zero in any case).
        scaling: pixels p to states: ``"atanh"`` atanh(clip(2p-1, -c, c)); ``"plain"`` 2p-1, shown
            affinely; ``"raw"`` 2p-1, shown as (tanh(x)+1)/2 (version 1 of the paper);
            ``"components"`` leading principal components of 2p-1.
        clip: c of the atanh scaling.
        updates: length of a whole training.
        data_limit: how many images are used (first in file order), 0 for all.
        sample_steps: Langevin steps from noise when images are generated.
        hidden: hidden neurons beside the visible ones; denoising: those that start at random,
            beside one that starts as a detector of each pixel that varies.
        clamped_steps: contrastive: Langevin steps of the hidden neurons given a datum, per update.
        label_scale: contrastive: amplitude of label neurons (+a for the class, -a for the
            others), 0 for none; denoising: 1 for label neurons, 0 for none.
        decay: ``"constant"`` or ``"cosine"``, the learning rate over `updates`.
        monitor_every: updates between comparisons of persistent with fresh chains, 0 for never.
        components: most principal components kept.
        noise_low: denoising: lowest noise level, relative to the data's root-mean-square distance
            from their mean.
        noise_high: highest noise level, likewise.
        levels: noise levels of annealed sampling, geometric from high to low.
        level_step: dt at noise level sigma, in units of sigma^2.
        averaging: decay of the running average of the parameters that is sampled from.
        matmul: ``"float32"`` or ``"bfloat16"``, products of fused Langevin steps.
        contrast_share: denoising: last part of `updates` in which walkers through the noise
            levels are contrasted with the data instead.
        contrast_rate: learning rate of that part.
    """

    learning: str = "contrastive"
    free_phase: str = "pcd"
    langevin_steps: int = 10
    chains: int = 1000
    batch: int = 1000
    bare_steps: int = 0
    burn_in: int = 0
    every: int = 1
    optimizer: str = "adam"
    learning_rate: float = 5e-5
    weight_decay: float = 5e-7
    shrink: float = 0.0
    sampler: str = "unadjusted"
    step_size: float = 0.01
    temperature: float = 1.0
    gain: float = 2.0
    bias: bool = True
    zero_diagonal: bool = True
    scaling: str = "atanh"
    clip: float = 0.97
    updates: int = 120_000
    data_limit: int = 10_000
    sample_steps: int = 10_000
    hidden: int = 0
    clamped_steps: int = 0
    label_scale: float = 0.0
    decay: str = "constant"
    monitor_every: int = 0
    components: int = 256
    noise_low: float = 0.015
    noise_high: float = 0.3
    levels: int = 100
    level_step: float = 0.3
    averaging: float = 0.998
    matmul: Matmul = "float32"
    contrast_share: float = 0.25
    contrast_rate: float = 1.5e-4

    def __post_init__(self) -> None:
        for name, choices in (
            ("learning", LEARNINGS),
            ("free_phase", FREE_PHASES),
            ("scaling", SCALINGS),
            ("optimizer", OPTIMIZERS),
            ("sampler", SAMPLERS),
            ("decay", DECAYS),
            ("matmul", MATMULS),
        ):
            if getattr(self, name) not in choices:
                raise InvalidInput(
                    f"recipe: {name} must be one of {', '.join(choices)}, "
                    f"got {getattr(self, name)!r}"
                )
        for name in (
            "langevin_steps", "chains", "batch", "every", "updates", "sample_steps", "components",
            "levels",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InvalidInput(f"recipe: {name} must be at least 1, got {getattr(self, name)}")
        for name in (
            "bare_steps", "burn_in", "data_limit", "weight_decay", "shrink", "gain", "hidden",
            "clamped_steps", "label_scale", "monitor_every",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise InvalidInput(
                    f"recipe: {name} must not be negative, got {getattr(self, name)}"
                )
        if not 0.0 <= self.step_size < float("inf"):
            raise InvalidInput(
                f"recipe: step_size must be positive, or 0 for automatic, got {self.step_size}"
            )
        if not 0.0 < self.learning_rate < float("inf"):
            raise InvalidInput(f"recipe: learning_rate must be positive, got {self.learning_rate}")
        if not 0.0 < self.clip < 1.0:
            raise InvalidInput(f"recipe: clip must lie between 0 and 1, got {self.clip}")
        if self.bare_steps > self.langevin_steps or self.burn_in >= self.langevin_steps:
            raise InvalidInput(
                "recipe: bare_steps and burn_in must fit into langevin_steps="
                f"{self.langevin_steps}, got {self.bare_steps} and {self.burn_in}"
            )
        if self.free_phase == "one-chain" and self.chains != 1:
            raise InvalidInput(f"recipe: one-chain means chains=1, got {self.chains}")
        if not 0.0 < self.noise_low < self.noise_high < float("inf"):
            raise InvalidInput(
                "recipe: noise levels need 0 < noise_low < noise_high, got "
                f"{self.noise_low} and {self.noise_high}"
            )
        if not 0.0 <= self.contrast_share < 1.0 or not self.contrast_rate > 0.0:
            raise InvalidInput(
                "recipe: contrast_share must lie in [0, 1) and contrast_rate be positive, got "
                f"{self.contrast_share} and {self.contrast_rate}"
            )
        if not 0.0 < self.level_step <= 1.0 or not 0.0 <= self.averaging < 1.0:
            raise InvalidInput(
                "recipe: level_step must lie in (0, 1] and averaging in [0, 1), got "
                f"{self.level_step} and {self.averaging}"
            )
        if self.learning == "denoising":
            if not self.hidden:
                raise InvalidInput("recipe: denoising learning needs hidden neurons, got hidden=0")
        elif bool(self.hidden) != bool(self.clamped_steps):
            raise InvalidInput(
                "recipe: hidden neurons and clamped_steps come together, got "
                f"{self.hidden} and {self.clamped_steps}"
            )
        check_temperature(self.temperature)

    def make_sampler(self) -> Langevin | UnadjustedLangevin:
        """The sampler of this recipe."""
        dt = self.step_size or None
        kind = Langevin if self.sampler == "langevin" else UnadjustedLangevin
        return kind(dt, matmul=self.matmul)


_PCD = Recipe()

PRESETS: dict[str, Recipe] = {
    "default": Recipe(
        learning="denoising", batch=256, chains=256, langevin_steps=5, learning_rate=4e-3,
        weight_decay=0.0, decay="cosine", sampler="langevin", scaling="components", hidden=128,
        label_scale=1.0, updates=8000, data_limit=0, sample_steps=100,
    ),
    "yu2025-v1": replace(
        _PCD, optimizer="sgd", learning_rate=5e-4, weight_decay=0.0, shrink=2e-6, bias=False,
        zero_diagonal=False, scaling="raw", updates=54_000, data_limit=18_000,
    ),
    "yu2025-pcd": _PCD,
    "yu2025-rdm": replace(_PCD, free_phase="rdm", langevin_steps=500, updates=24_000,
                          sample_steps=500),
    "yu2025-one-sample": replace(
        _PCD, chains=1, batch=1, langevin_steps=600, bare_steps=150, learning_rate=5e-4,
        weight_decay=5e-6, data_limit=1000,
    ),
    "yu2025-one-chain": replace(
        _PCD, free_phase="one-chain", chains=1, batch=100, langevin_steps=2600, burn_in=600,
        every=20, learning_rate=5e-4, weight_decay=5e-6, updates=24_000,
    ),
    "yu2025-memory": replace(
        _PCD, free_phase="none", learning_rate=1e-3, weight_decay=0.0, updates=1000,
        data_limit=0, sample_steps=450,
    ),
}  # fmt: skip


def preset(name: str) -> Recipe:
    """Recipe of a preset by name.

    Raises:
        InvalidInput: no such preset; the sentence names the nearest.

    Example:
        >>> preset("yu2025-pcd").learning_rate
        5e-05
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name, PRESETS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InvalidInput(f"no preset {name!r}: {hint}presets are {', '.join(PRESETS)}")
