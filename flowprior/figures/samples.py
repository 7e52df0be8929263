"""The figure "samples": of a run a grid, of a study the grids of all rows."""

from functools import partial

import torch

from flowprior.figures.runs import FigureRun, StudyRuns, check_needs, variant
from flowprior.figures.sheet import Sheet, image_grid, sheets_beside
from flowprior.registry import figure

COUNT = 64
OF_A_ROW = 25  # samples of each row of a study
BESIDE = 3  # sheets in a line of rows that are no twins


@figure("samples", needs=("images",))
def samples(run: FigureRun) -> Sheet:
    """Samples; conditional ones at the conditions of the first test examples."""
    return image_grid(run.samples(COUNT))


def sample_sheet(run: FigureRun, title: str | None = None, seed: int = 0, count: int = COUNT) -> Sheet:
    """`count` samples, the same draws each time; `NotApplicable` on vectors."""
    check_needs(("images",), run)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return image_grid(run.samples(count), title=title)


@figure("samples", of="study", needs=("images",))
def samples_of_rows(runs: StudyRuns) -> Sheet:
    """Samples of all rows: of each variant the N(0, I) twins, below them the decoupled ones, then others.

    Rows that stand in several pairs, as in a sweep, are no twins: they follow one another.
    """
    lines: list[list[str]] = []
    for each in runs.variants:
        twins = [pair for pair in runs.twins if variant(pair[0]) == each]
        paired = [row for pair in twins for row in pair]
        if len(paired) > len(set(paired)):
            twins, paired = [], []
        rest = [row for row in runs.rows if variant(row) == each and row not in paired]
        lines += [[pair[0] for pair in twins], [pair[1] for pair in twins]]
        lines += [rest[k : k + BESIDE] for k in range(0, len(rest), BESIDE)]
    sheet = partial(sample_sheet, count=OF_A_ROW)
    return sheets_beside([[sheet(runs.restore(row), row) for row in line] for line in lines if line])
