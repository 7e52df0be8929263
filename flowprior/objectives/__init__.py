"""Objectives: they turn a batch into named losses, each for a named group of parameters."""

from flowprior.objectives.adversarial import AdversarialAutoencoder
from flowprior.objectives.bilevel import Bilevel
from flowprior.objectives.elbo import ELBO, CapacityELBO
from flowprior.objectives.factor import FactorVAE
from flowprior.objectives.latent_flow import LatentFlow
from flowprior.objectives.latent_nll import LatentNLL
from flowprior.objectives.mmd import InfoVAE, mmd
from flowprior.objectives.moment_matching import MomentMatching
from flowprior.objectives.objective import Batch, Objective
from flowprior.objectives.schedules import LinearAnnealing
from flowprior.objectives.total_correlation import BetaTCVAE
from flowprior.objectives.variational import VariationalObjective

__all__ = [
    "ELBO",
    "AdversarialAutoencoder",
    "Batch",
    "BetaTCVAE",
    "Bilevel",
    "CapacityELBO",
    "FactorVAE",
    "InfoVAE",
    "LatentFlow",
    "LatentNLL",
    "LinearAnnealing",
    "MomentMatching",
    "Objective",
    "VariationalObjective",
    "mmd",
]
