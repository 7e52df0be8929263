"""Models: they encode, decode and own a prior."""

from flowprior.models.autoencoder import Autoencoder
from flowprior.models.likelihoods import (
    BernoulliLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    PerceptualLikelihood,
)
from flowprior.models.posteriors import (
    DeterministicPosterior,
    GaussianPosterior,
    Posterior,
    UnitGaussianPosterior,
)
from flowprior.models.variational_unet import VariationalUnet

__all__ = [
    "Autoencoder",
    "BernoulliLikelihood",
    "DeterministicPosterior",
    "GaussianLikelihood",
    "GaussianPosterior",
    "LaplaceLikelihood",
    "Likelihood",
    "PerceptualLikelihood",
    "Posterior",
    "UnitGaussianPosterior",
    "VariationalUnet",
]
