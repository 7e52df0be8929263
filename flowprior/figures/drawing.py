"""The machine that draws figures by their records: which apply, with which seed, and where they go."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from flowprior.checks import check_known
from flowprior.errors import InputError
from flowprior.figures.runs import FigureRun, NotApplicable, StudyRuns, check_needs
from flowprior.figures.sheet import Sheet
from flowprior.figures.style import Figure
from flowprior.files import write_atomically
from flowprior.registry import FIGURES
from flowprior.registry import Figure as Record

OF_TRAINING = ("samples", "reconstructions", "curves")  # what training leaves in a run folder, if it applies
AT_TOP = ("samples", "reconstructions")  # beside the config; the others lie in RUN/figures


def draw(run: FigureRun, names: Sequence[str] = (), seed: int = 0) -> list[Path]:
    """Draw the figures `names`, as `describe_figures` lists them, into the run folder; returns their paths.

    Without names, and of `OF_TRAINING` itself, those that apply are drawn; `seed` is of the draws of each.

    Raises:
        InputError: on an unknown name, or a named figure that does not apply; the sentence says why.
    """
    check_figures(names)
    written = []
    for name in names or figure_names("run"):
        record = FIGURES["run", name]
        try:
            check_needs(record.needs, run)
            written.append(_draw(record, run, run.folder if name in AT_TOP else run.folder / "figures", seed))
        except NotApplicable as reason:
            if names and names is not OF_TRAINING:
                raise InputError(f"'{name}' cannot be drawn: {reason}") from None
    return written


def draw_study(runs: StudyRuns, names: Sequence[str], folder: Path) -> list[Path]:
    """Write the figures `names` of a study to `folder`/NAME.png; returns where they are.

    A figure that no row suits, such as where only some rows were run, is left out, and that is printed.

    Raises:
        InputError: on an unknown name, before anything is drawn.
    """
    check_figures(names, of="study")
    written = []
    for name in names:
        try:
            written.append(_draw(FIGURES["study", name], runs, folder))
        except NotApplicable as reason:
            print(f"'{name}' is not drawn: {reason}")
    return written


def _draw(record: Record, subject: FigureRun | StudyRuns, folder: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        picture = record.function(subject)
    save(picture, folder / f"{record.name}.png")
    return folder / f"{record.name}.png"


def figure_names(of: Literal["run", "study"]) -> tuple[str, ...]:
    """The figures of a run, or of a study, in the order of their registration."""
    return tuple(name for kind, name in FIGURES if kind == of)


def check_figures(names: Sequence[str], of: Literal["run", "study"] = "run") -> None:
    """Raise an `InputError`, with the nearest names, on one that is no figure of a run, or of a study."""
    for name in names:
        check_known("figure", name, figure_names(of))


def describe_figures() -> str:
    """A Markdown table of all figures: what each shows, of a run or of a study, and what it needs."""
    lines = ["| figure | of a | needs | shows |", "|---|---|---|---|"]
    for (of, name), record in sorted(FIGURES.items()):
        lines.append(f"| {name} | {of} | {', '.join(record.needs) or '-'} | {record.summary} |")
    return "\n".join(lines)


def save(picture: "Figure | Sheet", path: Path) -> None:
    """Write a matplotlib figure or a Pillow image as PNG, whole or not at all."""
    from PIL.Image import Image

    stream = io.BytesIO()
    if isinstance(picture, Image):
        picture.save(stream, format="PNG")
    else:
        picture.savefig(stream, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, stream.getvalue())
