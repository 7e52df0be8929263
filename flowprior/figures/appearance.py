"""A path between two appearances."""

import torch
from einops import rearrange
from torch import Tensor

from flowprior.figures.gathering import appearance_of, at_conditions, halves
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, draw_sheet
from flowprior.registry import figure

LINES, STEPS = 8, 9  # images on either side, images of a path


@figure("appearance", needs=("images", "pictures as conditions", "invertible prior"))
def appearance(run: FigureRun) -> Sheet:
    """A path in z0 between the appearances of two images, at the shape of the first."""
    (first, last), (shapes, others) = halves(run, LINES)
    start, end = appearance_of(run, first, shapes), appearance_of(run, last, others)
    points = run.line(start, end, torch.linspace(0, 1, STEPS))  # (steps, N, D)
    return appearance_rows(
        shapes, first, last, torch.stack([at_conditions(run, z0, shapes) for z0 in points])
    )


def appearance_rows(contexts: Tensor, first: Tensor, last: Tensor, steps: Tensor) -> Sheet:
    """A row for each of N conditions: it, an image, the way (S, N, C, H, W) at it, the other image."""
    tops = {0: "condition", 1: "from", 2: "at that condition", 2 + len(steps): "to"}
    way = rearrange(steps, "step n ... -> n step ...")
    return draw_sheet([contexts[:, None], first[:, None], way, last[:, None]], tops=tops)
