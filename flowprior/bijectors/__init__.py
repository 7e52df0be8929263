"""Invertible maps between z and z0, supplied by nflows, Pyro or the user."""

from flowprior.bijectors.adapters import as_bijector
from flowprior.bijectors.autoregressive import InverseAutoregressive
from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.build import build_bijector
from flowprior.bijectors.image import MultiScale, Pixels, Squeeze
from flowprior.bijectors.image_coupling import ImageCoupling, RunningNorm
from flowprior.bijectors.permutation import Permutation
from flowprior.bijectors.recipes import RECIPES, Recipe, as_recipe
from flowprior.bijectors.whitening import Whitening

__all__ = [
    "RECIPES",
    "Bijector",
    "ImageCoupling",
    "InverseAutoregressive",
    "MultiScale",
    "Permutation",
    "Pixels",
]
__all__ += ["Recipe", "RunningNorm", "Squeeze", "Whitening"]
__all__ += ["as_bijector", "as_recipe", "build_bijector"]
