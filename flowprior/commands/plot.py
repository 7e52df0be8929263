"""`flowprior plot`: draw figures of a run."""

from collections.abc import Sequence
from pathlib import Path

from flowprior.experiments.experiment import Experiment
from flowprior.experiments.unchanged import restore
from flowprior.figures import FigureRun, draw


def run(
    experiment: Experiment, folder: Path, *, figures: Sequence[str] = (), seed: int = 0, device: str = "auto",
    weights: Path | None = None,
) -> list[Path]:  # fmt: skip
    """Draw `figures` of the run in `folder`, or all that apply, and say where they are.

    `weights` is the folder of the feature networks that some of them look through.

    Raises:
        InputError: on an unknown figure, one that does not apply, missing data, or no valid checkpoint.
    """
    restore(experiment.model, folder, device)
    drawn = FigureRun(experiment.model, experiment.source, folder, experiment.name, weights)
    written = draw(drawn, figures, seed)
    for path in written:
        print(path)
    return written
