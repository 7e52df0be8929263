"""`flowprior repair`: a damaged run folder, put in order from what its checkpoints carry."""

from pathlib import Path

from flowprior.experiments.repairing import repair


def run(folder: Path) -> None:
    """Repair the run in `folder`, and say what was found; raises as `repair` does."""
    print(*repair(folder), sep="\n")
