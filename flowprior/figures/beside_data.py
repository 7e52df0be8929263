"""Samples beside data: of a study's rows, and of a conditional run a line for each class."""

import torch

from flowprior.figures.runs import FigureRun, StudyRuns
from flowprior.figures.samples import OF_A_ROW, sample_sheet
from flowprior.figures.sheet import Sheet, draw_sheet, image_grid, lines, sheets_beside
from flowprior.registry import figure

ACROSS = 3  # sheets in a line
OF_A_CLASS = 10  # samples


@figure("samples_beside_data", of="study", needs=("images",))
def samples_beside_data(runs: StudyRuns) -> Sheet:
    """Test images, then samples of every row (Lucas et al. 2019, Fig. 3)."""
    first = runs.restore(runs.rows[0])
    sheets = [image_grid(first.test_images(torch.arange(min(OF_A_ROW, len(first.test)))), title="data")]
    sheets += [sample_sheet(runs.restore(row), row, count=OF_A_ROW) for row in runs.rows]
    return sheets_beside([sheets[k : k + ACROSS] for k in range(0, len(sheets), ACROSS)])


@figure("classes", needs=("images", "labels", "conditional"))
def classes(run: FigureRun) -> Sheet:
    """Samples of a model conditioned on classes, a line for each class."""
    (count,) = run.model.context_shape or (0,)
    context = torch.eye(count, device=run.model.device)
    images = run.model.sample(OF_A_CLASS, context).transpose(0, 1)  # (classes, samples, *image)
    names = run.source.classes
    sides = list(names) if len(names) == count else [str(label) for label in range(count)]
    return draw_sheet([lines(images.flatten(0, 1), OF_A_CLASS)], sides=sides)
