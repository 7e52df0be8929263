"""Figures: tensors in, matplotlib figures and Pillow images out."""

from flowprior.plots.curves import read_metrics, training_curves
from flowprior.plots.densities import latent_panels
from flowprior.plots.grids import image_grid, interpolation_rows, neighbor_sheet, reconstruction_pairs

__all__ = [
    "image_grid",
    "interpolation_rows",
    "latent_panels",
    "neighbor_sheet",
    "read_metrics",
    "reconstruction_pairs",
    "training_curves",
]
