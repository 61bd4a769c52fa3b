"""`write_report`: one self-contained HTML page about a run, and its figures as files."""

from __future__ import annotations

from pathlib import Path

from driftwell.core.atomic import cannot_write, write_atomically
from driftwell.core.errors import require
from driftwell.report.quantization import draw_quantization
from driftwell.report.reporter import Progress, Request, find_reporter
from driftwell.training.run_folder import RunFolder

PAGE, FIGURES = "report.html", "figures"


def write_report(
    run_folder: Path,
    *,
    samples: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Measure a run and write RUN/report.html and RUN/figures/*.svg.

    The page asks for nothing outside itself. The same run, seed and number of samples give the
    same bytes on the same machine.

    Args:
        run_folder: of `driftwell train`.
        samples: number of generated images, or of held-out ones to measure on; None: what is
            usual for the kind of run.
        seed: of all noise.
        progress: called as progress(done, 100).

    Returns:
        Path of the page.

    Raises:
        MissingExtra: matplotlib is not installed.
        RunFolderError: no run, no checkpoint, or a folder that cannot be written.
        InvalidInput: data of the run that are not there any more.
    """
    require("matplotlib", "plot", "to draw the report's figures")
    config = RunFolder.open(Path(run_folder)).config
    run, reporter = config.kind.load(Path(run_folder)), find_reporter(config.model)
    found = reporter.measure(run, Request(samples, seed, progress=progress))
    plates = reporter.draw(run, found) | draw_quantization(run)
    page = reporter.render(run, found, plates)
    folder = run.path / FIGURES
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    for plate in plates.values():
        write_atomically(folder / f"{plate.name}.svg", plate.svg.encode())
    write_atomically(run.path / PAGE, page.encode())
    written: Path = run.path / PAGE
    return written
