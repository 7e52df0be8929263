"""Latent tools: paths, directions and extremes in z and z0, for any pair of callables between them."""

from flowprior.latent.attributes import attribute_vector, rate_of_change
from flowprior.latent.components import Components, principal_components
from flowprior.latent.extremes import crossing_depth, least_supported
from flowprior.latent.interpolation import Paths, both_paths, interpolate, lerp, slerp
from flowprior.latent.neighbors import nearest_neighbors
from flowprior.latent.traversal import normal_steps, traverse

__all__ = [
    "Components", "Paths", "attribute_vector", "both_paths", "crossing_depth", "interpolate",
    "least_supported", "lerp", "nearest_neighbors", "normal_steps", "principal_components", "rate_of_change",
    "slerp", "traverse",
]  # fmt: skip
