"""Models: they encode, decode and own a prior."""

from flowprior.models.autoencoder import Autoencoder
from flowprior.models.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    PerceptualLikelihood,
)
from flowprior.models.posteriors import DeterministicPosterior, GaussianPosterior, Posterior

__all__ = [
    "Autoencoder",
    "BernoulliLikelihood",
    "DeterministicPosterior",
    "GaussianLikelihood",
    "GaussianPosterior",
    "Likelihood",
    "PerceptualLikelihood",
    "Posterior",
]
