"""Paths between test images."""

from flowprior.figures.gathering import rows_between
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, path_sheet
from flowprior.registry import figure

PAIRS = 5  # of test images


@figure("paths", needs=("images", "invertible prior", "unconditional"))
def paths(run: FigureRun) -> Sheet:
    """Paths between test images, through z0 and through z (Morrow & Chiu, ICLR version, Fig. 6)."""
    start, end = run.random_images(2 * PAIRS).chunk(2)
    rows = rows_between(run, run.model.encode(start).mean, run.model.encode(end).mean)
    return path_sheet(rows, start, after=end)
