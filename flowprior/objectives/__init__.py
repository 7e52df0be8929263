"""Objectives: they turn a batch into named losses, each for a named group of parameters."""

from flowprior.objectives.elbo import ELBO
from flowprior.objectives.latent_flow import LatentFlow
from flowprior.objectives.latent_nll import LatentNLL
from flowprior.objectives.objective import Batch, Objective

__all__ = ["ELBO", "Batch", "LatentFlow", "LatentNLL", "Objective"]
