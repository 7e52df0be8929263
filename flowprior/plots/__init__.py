"""Figures: tensors in, matplotlib figures and Pillow images out."""

from flowprior.plots.conditional import appearance_rows, condition_sheet, transfer_sheet
from flowprior.plots.curves import read_metrics, training_curves
from flowprior.plots.densities import latent_panels
from flowprior.plots.grids import (
    image_grid,
    interpolation_rows,
    neighbor_sheet,
    path_sheet,
    reconstruction_pairs,
    sheets_beside,
)
from flowprior.plots.leakage import LeakageLine, leakage_panels
from flowprior.plots.paths import path_plane, rate_curves
from flowprior.plots.pockets import Pockets, Space, pocket_panels
from flowprior.plots.sweeps import SweepLine, sweep_panels
from flowprior.plots.traversals import Traversal, Way, traversal_panels

__all__ = [
    "LeakageLine",
    "Pockets",
    "Space",
    "SweepLine",
    "Traversal",
    "Way",
    "appearance_rows",
    "condition_sheet",
    "image_grid",
    "interpolation_rows",
    "latent_panels",
    "leakage_panels",
    "neighbor_sheet",
    "path_plane",
    "path_sheet",
    "pocket_panels",
    "rate_curves",
    "read_metrics",
    "reconstruction_pairs",
    "sheets_beside",
    "sweep_panels",
    "training_curves",
    "transfer_sheet",
    "traversal_panels",
]
