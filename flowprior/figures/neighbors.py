"""The figure "neighbors": samples beside the training images that they are nearest to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import draw_sheet
from flowprior.latent import nearest_neighbors
from flowprior.registry import figure
from flowprior.tensors import as_input

if TYPE_CHECKING:
    from PIL import Image

SAMPLES, NEIGHBORS = 8, 5


@figure("neighbors", needs=("images",))
def neighbors(run: FigureRun) -> Image.Image:
    """Samples beside their nearest training images, with the distances (GLF, Appendix G)."""
    samples, examples = run.samples(SAMPLES).cpu(), run.source.train().x
    distances, rows = nearest_neighbors(samples, examples, min(NEIGHBORS, len(examples)))
    return neighbor_sheet(samples, as_input(examples[rows]), distances)


def neighbor_sheet(samples: Tensor, neighbors: Tensor, distances: Tensor) -> Image.Image:
    """Each sample (N, C, H, W) beside its k neighbors (N, k, C, H, W), their distances (N, k) below them."""
    return draw_sheet(
        [samples[:, None], neighbors],
        tops={0: "sample", 1: "nearest in the data"},
        below=[["", *(f"{value:.1f}" for value in row)] for row in distances.tolist()],
    )
