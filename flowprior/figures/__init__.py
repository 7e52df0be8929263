"""Figures of a trained run or of a study: one figure a file, which gathers and draws."""

from importlib import import_module
from pkgutil import iter_modules

from flowprior.figures.conditions import condition_sheet
from flowprior.figures.drawing import OF_TRAINING, check_figures, describe_figures, draw, draw_study, save
from flowprior.figures.runs import FigureRun, NotApplicable, StudyRuns
from flowprior.figures.samples import sample_sheet
from flowprior.figures.sheet import image_grid

__all__ = [
    "OF_TRAINING", "FigureRun", "NotApplicable", "StudyRuns", "check_figures", "condition_sheet",
    "describe_figures", "draw", "draw_study", "image_grid", "sample_sheet", "save",
]  # fmt: skip

for _module in iter_modules(__path__):  # each registers its figures
    import_module(f"{__name__}.{_module.name}")
