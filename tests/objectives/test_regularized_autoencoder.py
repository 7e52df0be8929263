"""RAE: the weights' norm and the Jacobian's, written out."""

import pytest
import torch

from flowprior.errors import InputError
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP
from flowprior.networks.infogan import InfoGANDecoder
from flowprior.objectives import RegularizedAutoencoder
from flowprior.priors import MixturePrior


def model(**parts) -> Autoencoder:
    torch.manual_seed(0)
    likelihood = GaussianLikelihood(activation="sigmoid")
    prior = MixturePrior(3, components=2)
    built = Autoencoder(MLP(6, 3, (8,)), MLP(3, 6, (8,)), prior, likelihood=likelihood, **parts)
    return built.double()


X = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_loss_is_the_sum_of_its_terms():
    built = model()
    objective = RegularizedAutoencoder(
        built, latent_weight=0.3, decoder_weight=0.2, reconstruction_weight=2.0
    )
    terms = objective.losses("model", {"x": X}, 0)
    z = built.encode(X).mean
    weights = sum(p.square().sum() for p in built.decoder.parameters())
    expected = 2 * built.reconstruction_nll(X, z).mean() + 0.15 * z.square().sum(1).mean() + 0.2 * weights
    torch.testing.assert_close(terms["loss"], expected)
    assert set(terms) == {"loss", "reconstruction", "latent", "decoder"}


def test_the_gradient_penalty_is_the_jacobians_squared_norm_in_the_mean():
    built = model()
    objective = RegularizedAutoencoder(built, decoder_weight=1.0, decoder="gradient")
    z = built.encode(X).mean.detach()
    jacobians = [torch.autograd.functional.jacobian(lambda v: built.decode(v[None])[0], row) for row in z]
    exact = torch.stack([jacobian.square().sum() for jacobian in jacobians]).mean()
    estimates = torch.stack([objective.losses("model", {"x": X}, 0)["decoder"] for _ in range(3000)])
    error = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean() - exact) < 4 * error


def test_the_penalty_trains_the_decoder_and_validation_needs_no_graph():
    built = model()
    objective = RegularizedAutoencoder(built, 0.0, 1.0, "gradient", reconstruction_weight=0.0)
    loss = objective.losses("model", {"x": X}, 0)["loss"]
    gradients = torch.autograd.grad(loss, list(built.decoder.parameters()), allow_unused=True)
    assert all(g is not None and g.abs().sum() > 0 for g in gradients[:-1])
    with torch.no_grad():
        assert objective.losses("model", {"x": X}, 0)["decoder"] > 0


def test_the_prior_is_left_for_later():
    assert list(RegularizedAutoencoder(model()).parameter_groups("model")) == ["autoencoder"]


def test_it_wants_point_codes():
    built = Autoencoder(MLP(6, 6), MLP(3, 6), MixturePrior(3, components=2), posterior=GaussianPosterior())
    with pytest.raises(InputError, match="point codes"):
        RegularizedAutoencoder(built)


def test_a_spectrally_normalized_decoder_has_weights_of_norm_one():
    torch.manual_seed(0)
    decoder = InfoGANDecoder(4, 1, 28, width=0.1, spectral_norm=True)
    for _ in range(30):  # each call is one power iteration
        decoder(torch.randn(4, 4))
    for layer in decoder.layers:
        if isinstance(layer, torch.nn.Linear):
            assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=0.02)
