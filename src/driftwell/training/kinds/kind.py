"""`Kind`: one kind of run, and `Task`: what a training of it needs."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, final

from torch import Tensor

from driftwell.core.errors import InvalidInput
from driftwell.core.world import World
from driftwell.training.fit import Trainer

if TYPE_CHECKING:
    from driftwell.training.config import RunConfig
    from driftwell.training.exporting import ExportWish, Shipped
    from driftwell.training.generate import Wish
    from driftwell.training.quantization_plan import QuantizationPlan
    from driftwell.training.quantized_run import QuantizedWeights


class WarningTrainer(Trainer, Protocol):
    """A trainer that may have something to tell the user."""

    def warnings(self) -> list[str]:
        """Sentences about how the training goes, the latest first."""
        ...


@final
@dataclass(frozen=True)
class Task:
    """A training that is ready to begin; everything that can be refused has been.

    Attributes:
        trainer: what `fit` trains.
        data: what checkpoints note of the data: ``name`` and ``fingerprint`` at least.
        noun: what the data are, such as ``"images"``.
        notes: further plain values that checkpoints note.
        constants: tensors that checkpoints hold beside the trainer's.
        advice: what to change if the training diverges, given the last checkpoint's tensors.
    """

    trainer: WarningTrainer
    data: dict[str, Any]
    noun: str
    notes: dict[str, Any]
    constants: dict[str, Tensor]
    advice: Callable[[dict[str, Tensor] | None], str]


class Kind(ABC):
    """One kind of run: its settings, its data, and how it is trained and read back.

    Attributes:
        name: as it is typed, such as ``"nlm"``.
        title: in words.
        recipe: frozen dataclass of all training settings, `updates` among them.
        presets: recipes by name, ``"default"`` among them.
        sources: names of data sets, the first being the default.
        activations: what quantized layers multiply with unless the user says.
        of_images: whether data are images, so that labels, classes, resize and split say something.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    recipe: ClassVar[type[Any]]
    presets: ClassVar[Mapping[str, Any]]
    sources: ClassVar[tuple[str, ...]] = ("digits", "mnist", "fashion")
    of_images: ClassVar[bool] = True
    activations: ClassVar[Literal["float", "int8"]] = "float"

    @abstractmethod
    def task(self, config: RunConfig, world: World) -> Task:
        """The training that `config` asks for.

        Raises:
            InvalidInput: data or settings that cannot be used.
        """

    @abstractmethod
    def load(self, path: Path, device: str | None = None) -> Any:
        """The run in a folder, with its newest checkpoint.

        Raises:
            RunFolderError: no run folder, or no checkpoint that can be read.
        """

    def pictures(
        self,
        run: Any,
        wish: Wish,
        *,
        partial: Path | None = None,
        world: World | None = None,
        progress: Callable[[int, int], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> Tensor:
        """Images (n, height, width) in [0, 1] that a run makes, as `generate_images` does.

        Raises:
            InvalidInput: a kind that makes no images, or a wish it cannot fulfil.
        """
        raise InvalidInput(
            f"{run.path} holds a run of {self.name}, which makes no images: give one of nlm, or of "
            "lpn with --denoise IMAGE"
        )

    def quantized(self, run: Any, plan: QuantizationPlan) -> QuantizedWeights:
        """A run's model in few bits, calibrated on the states that its own data bring it to.

        Raises:
            InvalidInput: a kind, or a plan, that cannot be quantized; data that are gone.
        """
        raise InvalidInput(f"{run.path} holds a run of {self.name}, which cannot be quantized")

    def scores(self, run: Any, weights: QuantizedWeights | None) -> dict[str, float]:
        """How good a run's model is, in few numbers: the float one, or that of `weights`.

        Errors of a number NAME are called NAME_error.

        Raises:
            InvalidInput: data that are gone.
        """
        raise InvalidInput(f"a run of {self.name} has no score")

    def previews(self, run: Any, weights: QuantizedWeights | None, count: int) -> Tensor | None:
        """Pictures (count, height, width) in [0, 1] by the float model or by that of `weights`,
        from the same noise; None where a kind makes none.
        """
        del run, weights, count
        return None

    def exported(self, run: Any, wish: ExportWish) -> Shipped:
        """Write a run's model into `wish.folder`, which is empty.

        Raises:
            InvalidInput: a target that this kind does not have.
        """
        raise InvalidInput(
            f"{run.path} holds a run of {self.name}, which cannot be exported to {wish.target}: "
            "give one of nlm or deq"
        )

    def preset(self, name: str) -> Any:
        """Recipe of a preset by name.

        Raises:
            InvalidInput: no such preset; the sentence names the nearest.
        """
        if name in self.presets:
            return self.presets[name]
        near = difflib.get_close_matches(name, self.presets, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidInput(f"no preset {name!r}: {hint}presets are {', '.join(self.presets)}")

    def changes_for(self, precision: str) -> dict[str, Any]:
        """Changes of the recipe that a precision brings.

        Raises:
            InvalidInput: a precision that this kind does not have.
        """
        if precision == "bfloat16":
            raise InvalidInput(
                f"precision bfloat16 is the Langevin sampler's own, and {self.name} has none: "
                "take highest, high or medium"
            )
        return {}

    def check(self, config: RunConfig) -> None:
        """Refuse settings of the data that say nothing to this kind.

        Raises:
            InvalidInput: such a setting was given.
        """
        if self.of_images:
            return
        for name, plain in (("labels", None), ("classes", ()), ("resize", None), ("limit", None),
                            ("split", "train")):  # fmt: skip
            if getattr(config.data, name) != plain:
                raise InvalidInput(
                    f"{name} chooses among images, and {self.name} does not learn from images: "
                    "leave it out"
                )
