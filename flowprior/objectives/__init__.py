"""Objectives: they turn a batch into named losses, each for a named group of parameters."""

from flowprior.objectives.adversarial import AdversarialAutoencoder as AdversarialAutoencoder
from flowprior.objectives.bilevel import Bilevel as Bilevel
from flowprior.objectives.coverage_quality import CoverageQuality as CoverageQuality
from flowprior.objectives.elbo import ELBO as ELBO
from flowprior.objectives.elbo import CapacityELBO as CapacityELBO
from flowprior.objectives.factor import FactorVAE as FactorVAE
from flowprior.objectives.latent_flow import LatentFlow as LatentFlow
from flowprior.objectives.latent_nll import LatentNLL as LatentNLL
from flowprior.objectives.mmd import InfoVAE as InfoVAE
from flowprior.objectives.mmd import mmd as mmd
from flowprior.objectives.moment_matching import MomentMatching as MomentMatching
from flowprior.objectives.objective import Batch as Batch
from flowprior.objectives.objective import Objective as Objective
from flowprior.objectives.regularized import RegularizedAutoencoder as RegularizedAutoencoder
from flowprior.objectives.schedules import LinearAnnealing as LinearAnnealing
from flowprior.objectives.total_correlation import BetaTCVAE as BetaTCVAE
from flowprior.objectives.variational import VariationalObjective as VariationalObjective
