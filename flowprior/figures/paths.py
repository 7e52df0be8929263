"""The figure "paths": from one test image to another, through z0 and through z."""

from flowprior.figures.gathering import rows_between
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, path_sheet
from flowprior.registry import figure

PAIRS, STEPS = 5, 11


@figure("paths", needs=("images", "invertible prior", "unconditional"))
def paths(run: FigureRun) -> Sheet:
    """Paths between test images, through z0 and through z (Morrow & Chiu, ICLR version, Fig. 6)."""
    start, end = run.random_images(2 * PAIRS).chunk(2)
    rows = rows_between(run, run.model.encode(start).mean, run.model.encode(end).mean, STEPS)
    return path_sheet(rows, start, after=end)
