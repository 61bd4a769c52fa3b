"""What can be typed: commands and options, with the nearest suggestion for a slip. No torch."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from driftwell.core.errors import InvalidInput

COMMANDS = (
    "train", "sample", "measure", "report", "quantize", "export", "claims", "doctor",
)  # fmt: skip
MODELS = {
    "nlm": "a Neural Langevin Machine, which learns images and samples new ones",
    "deq": "a deep equilibrium classifier of labelled images",
    "ignn": "an implicit graph neural network, which classifies the nodes of a graph",
    "lpn": "a learned proximal network, which denoises images",
}
PRECISIONS = ("highest", "high", "medium", "bfloat16")
MASKS = ("top", "bottom", "left", "right")
METHODS = ("gptq+comq", "gptq", "comq", "magr", "rtn", "rtn-clip")
FORMATS = ("uniform", "symmetric", "binary", "ternary", "power-of-two", "power-of-sqrt-two", "nf")
PER = ("tensor", "channel", "group")
TARGETS = ("safetensors", "onnx", "c")


class Parser(argparse.ArgumentParser):
    """argparse that raises one sentence instead of printing usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found, reworded."""
        raise InvalidInput(f"{self._reworded(message)} (see `{self.prog} --help`)")

    def _reworded(self, message: str) -> str:
        choice = re.match(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice:
            names = re.findall(r"[\w.-]+", choice.group(3))
            what = "action" if "|" in choice.group(1) else choice.group(1).lower()
            return f"unknown {what} {choice.group(2)!r}, {nearest(choice.group(2), names)}"
        missing = re.match(r"the following arguments are required: (.*)", message)
        if missing:
            return f"{missing.group(1)} is missing"
        return message.removeprefix("argument ")


def nearest(name: str, known: Sequence[str]) -> str:
    """The hint after an unknown name: the nearest known one, else all of them.

    Example:
        >>> nearest("trian", ["train", "sample"])
        "did you mean 'train'?"
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line as a namespace with a `command`.

    Raises:
        InvalidInput: an unknown command or option (the nearest is named), or a bad value.

    Example:
        >>> parse(["sample", "runs/a", "--out", "a.png", "-n", "5"]).n
        5
    """
    parser, parsers = build()
    words = list(arguments)
    command = next((word for word in words if not word.startswith("-")), None)
    if command in parsers:
        # first of all: a misspelt required option would otherwise be reported as missing
        for word in words:
            _check_option(word.partition("=")[0], parsers[command])
    options, extra = parser.parse_known_args(words)
    if extra:
        used = parsers[options.command]
        raise InvalidInput(f"{extra[0]!r} is not understood here (see `{used.prog} --help`)")
    return options


def _check_option(word: str, parser: Parser) -> None:
    known = _options(parser)
    if word.startswith("--") and word not in known:
        raise InvalidInput(
            f"unknown option {word}, {nearest(word, known)} (see `{parser.prog} --help`)"
        )


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """Long options of a command and of its actions."""
    found: list[str] = []
    for action in parser._actions:
        found += [name for name in action.option_strings if name.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found += _options(below)
    return list(dict.fromkeys(found))


def build() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of its commands by name."""
    from driftwell import __version__

    parser = Parser(
        prog="driftwell",
        description="Neural networks as dynamical systems: train, sample and measure.",
        epilog="Run `driftwell COMMAND --help` for a command's options.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"driftwell {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    made: dict[str, Parser] = {}
    for name, fill, line in (
        ("train", _train, "train a model into a run folder, or go on with one"),
        ("sample", _sample, "make images with a trained model: new, in-painted or denoised"),
        ("measure", _measure, "measure a trained model: physics, quality, memorisation"),
        ("report", _report, "write a run's page, report.html"),
        ("quantize", _quantize, "make a run of few bits a weight from a trained one"),
        ("export", _export, "ship a run: packed safetensors, an ONNX graph, or plain C"),
        ("claims", _claims, "list and run the papers' statements"),
        ("doctor", _doctor, "say what is installed, what is fast here, and what falls back"),
    ):
        made[name] = commands.add_parser(
            name, help=line, description=_sentence(line), allow_abbrev=False
        )
        fill(made[name])
    return parser, made


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


def _train(p: Parser) -> None:
    kinds = "; ".join(f"{name}: {words}" for name, words in MODELS.items())
    p.add_argument("model", choices=MODELS, metavar="MODEL", help=kinds)
    p.add_argument("--out", metavar="RUN", help="the run folder")
    p.add_argument("--config", metavar="FILE", help="a TOML file with these settings; options win")
    data = p.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="NAME|PATH",
        help="digits (default), mnist, fashion, or a path; of ignn: cora (default), citeseer, or "
        "the path of a .npz file",
    )
    data.add_argument("--labels", metavar="FILE", help="labels of a data path that has none")
    data.add_argument("--classes", type=_classes, metavar="C,C,...", help="keep these labels only")
    data.add_argument("--resize", type=_whole, metavar="SIDE", help="make the images SIDE x SIDE")
    data.add_argument("--limit", type=_whole, metavar="N", help="only the first N images")
    data.add_argument("--split", metavar="train|all", help="part to train on (default: train)")
    how = p.add_argument_group("recipe")
    how.add_argument("--preset", metavar="NAME", help="default, yu2025-pcd, ...")
    how.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="changes",
                     help="change one setting of the preset; may be repeated")  # fmt: skip
    how.add_argument("--seed", type=_whole, metavar="S", help="seed of everything random (0)")
    budget = p.add_argument_group("budget").add_mutually_exclusive_group()
    budget.add_argument("--updates", type=_whole, metavar="U", help="stop after U updates")
    budget.add_argument("--minutes", type=_number, metavar="M", help="stop after M minutes")
    run = p.add_argument_group("run")
    existing = run.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in --out")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    run.add_argument("--checkpoint-every", type=_whole, metavar="U",
                     help="updates between checkpoints (default: every half minute)")  # fmt: skip
    _machine(run)


def _sample(p: Parser) -> None:
    p.add_argument("run", metavar="RUN", help="the run folder")
    p.add_argument("-n", type=_whole, default=None, metavar="N", help="how many images (64)")
    p.add_argument("--seed", type=_whole, default=0, metavar="S", help="seed of the noise (0)")
    p.add_argument("--out", metavar="FILE", required=True,
                   help=".png: a grid; .npy: float32 in [0, 1], (N, height, width)")  # fmt: skip
    p.add_argument("--steps", type=_whole, metavar="K", help="steps (default: the recipe's)")
    p.add_argument("--label", type=int, metavar="C", help="images of this class")
    p.add_argument("--clamp", metavar="IMAGE", help="in-paint this image: keep what --mask says")
    p.add_argument("--mask", metavar="|".join((*MASKS, "FILE")),
                   help="part of the image that is kept; in a FILE, what is white")  # fmt: skip
    p.add_argument("--denoise", metavar="IMAGE", help="settle from this noisy image instead")
    _machine(p, precision=False)


def _measure(p: Parser) -> None:
    p.add_argument("run", metavar="RUN", help="the run folder")
    p.add_argument("-n", type=_whole, metavar="N",
                   help="images to generate (1000), or held out to measure on (all)")  # fmt: skip
    p.add_argument("--seed", type=_whole, default=0, metavar="S", help="seed of the noise (0)")
    p.add_argument("--json", action="store_true", help="print JSON instead of tables")
    p.add_argument("--log-likelihood", action="store_true", default=None,
                   help="estimate it for any size (default: up to 256 neurons)")  # fmt: skip
    _machine(p, precision=False)


def _report(p: Parser) -> None:
    p.add_argument("run", metavar="RUN", help="the run folder")
    p.add_argument("-n", type=_whole, metavar="N",
                   help="images to generate (1000), or held out to measure on (all)")  # fmt: skip
    p.add_argument("--seed", type=_whole, default=0, metavar="S", help="seed of the noise (0)")
    _machine(p, device=False, precision=False)


def _quantize(p: Parser) -> None:
    p.add_argument("run", metavar="RUN", help="the run folder; it stays as it is")
    p.add_argument("--out", metavar="RUN2", required=True, help="the quantized run's folder")
    p.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    how = p.add_argument_group("format")
    how.add_argument("--bits", type=_whole, default=8, metavar="B", help="a weight, 1 to 8 (8)")
    how.add_argument("--format", choices=FORMATS, default="uniform", metavar="NAME",
                     help=f"{', '.join(FORMATS)} (uniform)")  # fmt: skip
    how.add_argument("--per", choices=PER, metavar="|".join(PER),
                     help="share a scale (channel; group with --group-size)")  # fmt: skip
    how.add_argument("--group-size", type=_whole, metavar="G", help="columns of a group")
    how.add_argument("--activations", choices=("float", "int8"), default=None,
                     metavar="float|int8", help="what layers multiply with")  # fmt: skip
    calibration = p.add_argument_group("calibration")
    calibration.add_argument("--method", choices=METHODS, default="gptq+comq", metavar="NAME",
                             help=f"{', '.join(METHODS)} (gptq+comq)")  # fmt: skip
    calibration.add_argument("--samples", type=_whole, default=512, metavar="N",
                             help="data or chains that calibrate (512)")  # fmt: skip
    calibration.add_argument("--seed", type=_whole, default=0, metavar="S", help="seed (0)")
    p.add_argument("--no-scores", action="store_true",
                   help="do not measure the quality at 8, 4, 3 and 2 bits")  # fmt: skip
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _machine(p, precision=False)


def _export(p: Parser) -> None:
    p.add_argument("run", metavar="RUN", help="the run folder, of a quantized run as a rule")
    p.add_argument("--to", choices=TARGETS, required=True, metavar="|".join(TARGETS),
                   help="what to write")  # fmt: skip
    p.add_argument("--out", metavar="FOLDER", required=True, help="an absent or empty folder")
    p.add_argument("--overwrite", action="store_true", help="replace what an export left there")
    p.add_argument("--name", default=None, metavar="NAME", help="of files and C functions")
    p.add_argument("--seed", type=_whole, default=0, metavar="S", help="seed of test vectors (0)")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _machine(p, precision=False)


def _claims(p: Parser) -> None:
    actions = p.add_subparsers(dest="action", metavar="list|run|report", required=True)
    listing = actions.add_parser("list", help="all claims", allow_abbrev=False)
    listing.add_argument("--json", action="store_true", help="print JSON")
    for name, line in (("run", "run claims"), ("report", "run claims and write one page of them")):
        action = actions.add_parser(name, help=line, allow_abbrev=False)
        action.add_argument("ids", nargs="*", metavar="ID", help="claims to run")
        action.add_argument("--all", action="store_true", help="run all of them")
        action.add_argument("--fast", action="store_true", help="run the fast subset")
        action.add_argument("--seed", type=_whole, default=0, metavar="S", help="seed (0)")
        action.add_argument("--json", action="store_true", help="print JSON, an object a claim")
        if name == "report":
            action.add_argument("--out", default="claims.html", metavar="FILE", help="the page")
        _machine(action, device=False, precision=False)


def _doctor(p: Parser) -> None:
    p.add_argument("--json", action="store_true", help="print JSON")
    _machine(p, device=False, precision=False)


def _machine(p: Any, *, device: bool = True, precision: bool = True) -> None:
    if device:
        p.add_argument("--device", metavar="NAME", help="where to compute, such as cpu")
    p.add_argument("--threads", type=_whole, metavar="N", help="threads of the processor")
    if precision:
        p.add_argument("--precision", metavar="|".join(PRECISIONS), help="of float32 products")
    p.add_argument("--quiet", action="store_true", help="no progress")


def _typed(convert: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    def parse_value(text: str) -> Any:
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}") from None

    return parse_value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


_whole = _typed(_natural, "a whole number, 0 or more")
_number = _typed(float, "a number")
_classes = _typed(
    lambda text: [int(word) for word in text.split(",")],
    "labels with commas between, such as 1,3,6",
)
