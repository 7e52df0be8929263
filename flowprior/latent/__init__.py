"""Latent tools: paths and extremes in z and z0, for any pair of callables between them."""

from flowprior.latent.extremes import crossing_depth, least_supported
from flowprior.latent.interpolation import interpolate, lerp, slerp
from flowprior.latent.neighbors import nearest_neighbors
from flowprior.latent.traversal import normal_steps, traverse

__all__ = [
    "crossing_depth",
    "interpolate",
    "least_supported",
    "lerp",
    "nearest_neighbors",
    "normal_steps",
    "slerp",
    "traverse",
]
