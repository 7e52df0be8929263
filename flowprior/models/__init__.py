"""Models: they encode, decode and own a prior."""

from flowprior.models.autoencoder import Autoencoder as Autoencoder
from flowprior.models.flow_posterior import FlowPosterior as FlowPosterior
from flowprior.models.inference import Inference as Inference
from flowprior.models.ladder import Ladder as Ladder
from flowprior.models.likelihoods import BernoulliLikelihood as BernoulliLikelihood
from flowprior.models.likelihoods import GaussianLikelihood as GaussianLikelihood
from flowprior.models.likelihoods import LaplaceLikelihood as LaplaceLikelihood
from flowprior.models.likelihoods import Likelihood as Likelihood
from flowprior.models.likelihoods import PerceptualLikelihood as PerceptualLikelihood
from flowprior.models.partially_invertible import PartiallyInvertible as PartiallyInvertible
from flowprior.models.posteriors import ConstantGaussianPosterior as ConstantGaussianPosterior
from flowprior.models.posteriors import DeterministicPosterior as DeterministicPosterior
from flowprior.models.posteriors import GaussianPosterior as GaussianPosterior
from flowprior.models.posteriors import Posterior as Posterior
from flowprior.models.posteriors import UnitGaussianPosterior as UnitGaussianPosterior
from flowprior.models.variational_unet import VariationalUnet as VariationalUnet
