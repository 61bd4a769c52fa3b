"""`driftwell sample`: images from a run, into one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from driftwell.cli.progress import Bar
from driftwell.cli.settings import info, note, use_machine
from driftwell.core.world import World
from driftwell.data import read
from driftwell.training.generate import Wish
from driftwell.training.pictures import check_output, write_pictures
from driftwell.training.run_folder import RunFolder


def run(options: argparse.Namespace) -> int:
    """Generate images and write them; the exit status."""
    out, path = Path(options.out).expanduser(), Path(options.run).expanduser()
    check_output(out)
    n = options.n
    if n is None:
        n = 64 if options.denoise is None else len(read(options.denoise))
    wish = Wish(
        n, options.seed, options.steps, options.label, options.clamp, options.mask, options.denoise
    )
    config = RunFolder.open(path).config
    use_machine(options.threads or config.threads, config.precision)
    trained = config.kind.load(path, options.device)
    if trained.warning:
        note(trained.warning)
    partial = out.with_name(f".{out.name}.partial")
    world = World.from_environment()
    try:
        with Bar("sampling", wish.n, "images", quiet=options.quiet or not world.leader) as bar:
            images = config.kind.pictures(
                trained, wish, partial=partial, world=world,
                progress=lambda done, _: bar.show(done * world.size), note=note,
            )  # fmt: skip
        if world.leader:
            write_pictures(out, images)
            n, height, width = images.shape
            info(options, f"{n} images of {height}x{width} in {out}")
    except KeyboardInterrupt:
        if any(out.parent.glob(f"{partial.name}.*")):
            note("what is finished is kept: the same command goes on from there")
        raise
    finally:
        world.leave()
    return 0
