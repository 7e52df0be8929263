"""The figure "transfer": the appearance of some images on the shapes of others."""

import torch
from torch import Tensor

from flowprior.figures.gathering import appearance_of, at_conditions, halves
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, colored, draw_sheet, first_rows, lines
from flowprior.registry import figure

APPEARANCES = 8


@figure("transfer", needs=("images", "pictures as conditions", "invertible prior"))
def transfer(run: FigureRun) -> Sheet:
    """The appearance of the images at the side on the shapes at the top (Esser et al., Fig. 6).

    Appearance is what the prior leaves open, z0, which does not depend on the condition: z = from_base(z0|y).
    """
    (appearances, _), (own, others) = halves(run, APPEARANCES)
    z0 = appearance_of(run, appearances, own)
    moved = [at_conditions(run, row.expand(len(others), -1), others) for row in z0]
    return transfer_sheet(appearances, others, torch.stack(moved))


def transfer_sheet(appearances: Tensor, contexts: Tensor, results: Tensor) -> Sheet:
    """Results (A, K, C, H, W) right of the A images of appearance, below the K conditions, the shapes."""
    left = first_rows(appearances, 1)
    corner = torch.full_like(left[:1], 255)
    above = lines(contexts, len(contexts))
    return draw_sheet(
        [torch.cat([corner, left]), torch.cat([above, colored(results, 5)])],
        row_breaks=(1,),
        sides=["shape", "appearance", *[""] * (len(appearances) - 1)],
    )
