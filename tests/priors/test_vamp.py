"""VampPrior: the mixture of posteriors written out, who learns, and what holds it together."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from flowprior.errors import InputError
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP
from flowprior.objectives import ELBO
from flowprior.priors import VampPrior


def model(encoder: nn.Module | None = None) -> Autoencoder:
    torch.manual_seed(0)
    encoder = MLP(6, 4, (8,)) if encoder is None else encoder
    likelihood = GaussianLikelihood(activation="identity")
    prior = VampPrior(2, 6, components=7)
    return Autoencoder(encoder, MLP(2, 6, (8,)), prior, posterior=GaussianPosterior(), likelihood=likelihood)


def test_density_and_draws_are_those_of_the_mixture_of_posteriors():
    built = model()
    q = built.encode(built.prior.pseudo_inputs.sigmoid())
    mixture = MixtureSameFamily(Categorical(torch.ones(7)), Independent(Normal(q.mean, q.stddev), 1))
    z = torch.randn(5, 2)
    torch.testing.assert_close(built.prior.log_prob(z), mixture.log_prob(z))
    draws = built.prior.sample(40_000)
    torch.testing.assert_close(draws.mean(0), mixture.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.var(0), mixture.variance, atol=0.03, rtol=0.03)


def test_pseudo_inputs_are_the_priors_and_the_encoder_learns_through_both_of_its_places():
    built = model()
    objective = ELBO(built)
    groups = objective.parameter_groups("model")
    assert [id(p) for p in groups["prior"]] == [id(built.prior.pseudo_inputs)]
    objective.losses("model", {"x": torch.rand(16, 6)}, 0)["loss"].backward()
    assert built.prior.pseudo_inputs.grad.abs().sum() > 0
    assert not any(name.startswith("prior.") and "pseudo" not in name for name in built.state_dict())


def test_copies_use_their_own_encoder():
    built, z = model(), torch.randn(5, 2)
    for other in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        torch.testing.assert_close(other.prior.log_prob(z), built.prior.log_prob(z))
        with torch.no_grad():
            next(other.encoder.parameters()).add_(1.0)
        assert not torch.allclose(other.prior.log_prob(z), built.prior.log_prob(z))


def test_batch_norms_count_data_only():
    norm = nn.BatchNorm1d(8)
    built = model(nn.Sequential(nn.Linear(6, 8), norm, nn.ReLU(), nn.Linear(8, 4))).train()
    built.prior.log_prob(torch.randn(3, 2))
    assert norm.num_batches_tracked == 0
    assert norm.training


def test_it_wants_an_autoencoder_with_gaussian_posteriors():
    with pytest.raises(InputError, match="needs an encoder"):
        VampPrior(2, 6).log_prob(torch.zeros(1, 2))
    plain = Autoencoder(MLP(6, 2), MLP(2, 6), VampPrior(2, 6))
    with pytest.raises(InputError, match="GaussianPosterior"):
        plain.prior.sample(1)
