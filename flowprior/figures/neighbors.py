"""The figure "neighbors": samples beside the training images that they are nearest to."""

from torch import Tensor

from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, draw_sheet
from flowprior.latent import nearest_neighbors
from flowprior.registry import figure
from flowprior.tensors import as_input

SAMPLES, NEIGHBORS = 8, 5


@figure("neighbors", needs=("images",))
def neighbors(run: FigureRun) -> Sheet:
    """Samples beside their nearest training images, with the distances (GLF, Appendix G)."""
    samples, examples = run.samples(SAMPLES).cpu(), run.source.train().x
    distances, rows = nearest_neighbors(samples, examples, min(NEIGHBORS, len(examples)))
    return neighbor_sheet(samples, as_input(examples[rows]), distances)


def neighbor_sheet(samples: Tensor, neighbors: Tensor, distances: Tensor) -> Sheet:
    """Each sample (N, C, H, W) beside its k neighbors (N, k, C, H, W), their distances (N, k) below them."""
    below = [["", *(f"{value:.1f}" for value in row)] for row in distances.tolist()]
    return draw_sheet(
        [samples[:, None], neighbors], tops={0: "sample", 1: "nearest in the data"}, below=below
    )
