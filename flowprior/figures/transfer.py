"""Appearances transferred to other shapes."""

import torch
from torch import Tensor

from flowprior.figures.gathering import appearance_of, at_conditions, halves
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, colored, draw_sheet, first_rows, lines
from flowprior.registry import figure

LINES = 8  # appearances and shapes


@figure("transfer", needs=("images", "pictures as conditions", "invertible prior"))
def transfer(run: FigureRun) -> Sheet:
    """The appearance of the images at the side on the shapes at the top (Esser et al., Fig. 6)."""
    (appearances, _), (own, others) = halves(run, LINES)
    codes = appearance_of(run, appearances, own)
    moved = [at_conditions(run, z0.expand(len(others), -1), others) for z0 in codes]
    return transfer_sheet(appearances, others, torch.stack(moved))


def transfer_sheet(appearances: Tensor, contexts: Tensor, results: Tensor) -> Sheet:
    """Results (A, K, C, H, W) right of the A images of appearance, below the K conditions, the shapes."""
    left = first_rows(appearances, 1)
    blocks = [torch.full_like(left[:1], 255), left], [lines(contexts, len(contexts)), colored(results, 5)]
    sides = ["shape", "appearance", *[""] * (len(appearances) - 1)]
    return draw_sheet([torch.cat(block) for block in blocks], row_breaks=(1,), sides=sides)
