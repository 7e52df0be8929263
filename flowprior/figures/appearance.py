"""Appearance moved to other conditions: along a path between two images, and from each image to each shape.

Appearance is what the prior leaves open, z0, which does not depend on the condition: z = from_base(z0|y).
"""

import torch
from einops import rearrange
from torch import Tensor

from flowprior.figures.gathering import examples
from flowprior.figures.runs import FigureRun, NotApplicable
from flowprior.figures.sheet import Sheet, colored, draw_sheet, first_rows, lines
from flowprior.registry import figure

NEEDS = ("images", "pictures as conditions", "invertible prior")
LINES, STEPS = 8, 9  # images on either side, images of a path


@figure("appearance", needs=NEEDS)
def appearance(run: FigureRun) -> Sheet:
    """A path in z0 between the appearances of two images, at the shape of the first."""
    (first, last), (shapes, others) = _halves(run)
    start, end = _appearance_of(run, first, shapes), _appearance_of(run, last, others)
    points = run.line(start, end, torch.linspace(0, 1, STEPS))  # (steps, N, D)
    return appearance_rows(shapes, first, last, torch.stack([_at(run, z0, shapes) for z0 in points]))


@figure("transfer", needs=NEEDS)
def transfer(run: FigureRun) -> Sheet:
    """The appearance of the images at the side on the shapes at the top (Esser et al., Fig. 6)."""
    (appearances, _), (own, others) = _halves(run)
    moved = [_at(run, z0.expand(len(others), -1), others) for z0 in _appearance_of(run, appearances, own)]
    return transfer_sheet(appearances, others, torch.stack(moved))


def appearance_rows(contexts: Tensor, first: Tensor, last: Tensor, steps: Tensor) -> Sheet:
    """A row for each of N conditions: it, an image, the way (S, N, C, H, W) at it, the other image."""
    tops = {0: "condition", 1: "from", 2: "at that condition", 2 + len(steps): "to"}
    way = rearrange(steps, "step n ... -> n step ...")
    return draw_sheet([contexts[:, None], first[:, None], way, last[:, None]], tops=tops)


def transfer_sheet(appearances: Tensor, contexts: Tensor, results: Tensor) -> Sheet:
    """Results (A, K, C, H, W) right of the A images of appearance, below the K conditions, the shapes."""
    left = first_rows(appearances, 1)
    blocks = [torch.full_like(left[:1], 255), left], [lines(contexts, len(contexts)), colored(results, 5)]
    sides = ["shape", "appearance", *[""] * (len(appearances) - 1)]
    return draw_sheet([torch.cat(block) for block in blocks], row_breaks=(1,), sides=sides)


def _halves(run: FigureRun) -> list[tuple[Tensor, Tensor]]:
    """Test images and as many others, and both contexts; `NotApplicable` if there is only one image."""
    both = examples(run, 2 * LINES)
    half = len(both[0]) // 2
    if half == 0:
        raise NotApplicable("it needs two test images.")
    return [(each[:half], each[half : 2 * half]) for each in both]


def _appearance_of(run: FigureRun, x: Tensor, context: Tensor) -> Tensor:
    """z0 of the codes of images at their own conditions: (N, D)."""
    seen = run.model.prior_context(run.model.condition(context))
    return run.invertible.to_base(run.model.encode(x, context).mean, seen)[0]


def _at(run: FigureRun, z0: Tensor, context: Tensor) -> Tensor:
    """Images of z0 (N, D) at the conditions (N, Cy, H, W)."""
    condition = run.model.condition(context)
    z, _ = run.invertible.from_base(z0, run.model.prior_context(condition))
    return run.model.likelihood.mean(run.model.conditioned_output(z, condition))
