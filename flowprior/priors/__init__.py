"""Priors: modules that, called with a context or without one, return a distribution over z."""

from flowprior.priors.decoupled import DecoupledPrior
from flowprior.priors.embedded import EmbeddedPrior
from flowprior.priors.flow import FlowPrior
from flowprior.priors.gaussian import GaussianPrior
from flowprior.priors.guidance import denoise
from flowprior.priors.hierarchical import HierarchicalPrior
from flowprior.priors.implicit import ImplicitPrior
from flowprior.priors.invertible import InvertiblePrior
from flowprior.priors.mixture import MixturePrior
from flowprior.priors.prior import Prior
from flowprior.priors.standard_normal import StandardNormal
from flowprior.priors.vamp import VampPrior
from flowprior.priors.variational import VariationalPrior

__all__ = [
    "DecoupledPrior",
    "EmbeddedPrior",
    "FlowPrior",
    "GaussianPrior",
    "HierarchicalPrior",
    "ImplicitPrior",
    "InvertiblePrior",
    "MixturePrior",
    "Prior",
    "StandardNormal",
    "VampPrior",
    "VariationalPrior",
    "denoise",
]
