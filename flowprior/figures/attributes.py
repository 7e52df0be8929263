"""Attributes added to images."""

import torch

from flowprior.figures.gathering import added_attributes, rows_between
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, path_sheet
from flowprior.registry import figure

ADDED = 2  # test images of each attribute


@figure("attributes", needs=("images", "invertible prior", "unconditional", "attributes"))
def attributes(run: FigureRun) -> Sheet:
    """Attributes added to test images without them, through z0 and through z (Morrow & Chiu, Fig. 6)."""
    names, images, ends = [], [], []
    for name, vector, x in added_attributes(run, ADDED):
        names += [f"+ {name}"] * len(x)
        images.append(x)
        ends.append(run.model.encode(x).mean + vector)
    x = torch.cat(images)
    return path_sheet(rows_between(run, run.model.encode(x).mean, torch.cat(ends)), x, names=names)
