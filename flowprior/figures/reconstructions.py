"""The figure "reconstructions": test images above what the model makes of them."""

import torch
from einops import rearrange
from torch import Tensor

from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, draw_sheet, lines
from flowprior.registry import figure

COLUMNS, BANDS = 8, 4


@figure("reconstructions", needs=("images",))
def reconstructions(run: FigureRun) -> Sheet:
    """The first test images above their reconstructions."""
    rows = torch.arange(len(run.test))[: COLUMNS * BANDS]
    x = run.test_images(rows)
    return reconstruction_pairs(x, run.model.reconstruct(x, run.context(rows)), COLUMNS)


def reconstruction_pairs(x: Tensor, reconstruction: Tensor, columns: int) -> Sheet:
    """Each image above its reconstruction, in bands: two (N, C, H, W) as in `image_grid`."""
    both = torch.stack([lines(x, columns), lines(reconstruction, columns)], 1)  # (bands, 2, columns, ...)
    sides = ["data", "model"] * len(both)
    return draw_sheet([rearrange(both, "band kind ... -> (band kind) ...")], row_group=2, sides=sides)
