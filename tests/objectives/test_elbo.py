"""The ELBO against closed forms: a linear-Gaussian VAE, and the weights and groups of its terms."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from flowprior.errors import InputError
from flowprior.models import (
    Autoencoder,
    BernoulliLikelihood,
    DeterministicPosterior,
    GaussianLikelihood,
    GaussianPosterior,
    PerceptualLikelihood,
)
from flowprior.networks import MLP
from flowprior.objectives import ELBO
from flowprior.priors import FlowPrior, MixturePrior, StandardNormal


class ExactEncoder(nn.Module):
    """The exact posterior of z ~ N(0, I), x ~ N(Az, vI) where AᵀA is diagonal, as (mean, softplus⁻¹(std))."""

    def __init__(self, matrix: torch.Tensor, variance: float) -> None:
        super().__init__()
        self.matrix, self.variance = matrix, variance

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        posterior_variance = 1 / (1 + self.matrix.square().sum(0) / self.variance)  # (D,)
        mean = x @ self.matrix * posterior_variance / self.variance
        std = posterior_variance.sqrt() - 1e-6
        return torch.cat([mean, torch.log(torch.expm1(std)).expand_as(mean)], 1)


def linear_gaussian(variance: float) -> tuple[Autoencoder, torch.Tensor]:
    torch.manual_seed(0)
    matrix = torch.linalg.qr(torch.randn(5, 2, dtype=torch.float64))[0] * torch.tensor([2.0, 0.5])
    decoder = MLP(2, 5, hidden=()).double()
    with torch.no_grad():
        decoder.layers[0].weight.copy_(matrix)
        decoder.layers[0].bias.zero_()
    likelihood = GaussianLikelihood(variance, "identity").double()
    prior = StandardNormal(2).double()
    encoder = ExactEncoder(matrix, variance)
    return Autoencoder(encoder, decoder, prior, posterior=GaussianPosterior(), likelihood=likelihood), matrix


@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_with_the_exact_posterior_the_bound_is_the_evidence(variance):
    model, matrix = linear_gaussian(variance)
    covariance = matrix @ matrix.T + variance * torch.eye(5, dtype=torch.float64)
    evidence = MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance)
    x = torch.randn(4, 5, dtype=torch.float64)
    many = {"x": x.repeat(40_000, 1)}  # the mean over z of the reconstruction term
    loss = ELBO(model).losses("model", many, 0)["loss"]
    assert loss.item() == pytest.approx(-evidence.log_prob(x).mean().item(), abs=0.02)
    # By algebra, without sampling: E_q‖x - Az‖² = ‖x - Am‖² + tr(A S Aᵀ).
    q = model.encode(x)
    residual = (x - q.mean @ matrix.T).square().sum(1) + (q.variance * matrix.square().sum(0)).sum(1)
    reconstruction = 0.5 * (residual / variance + 5 * math.log(2 * math.pi * variance))
    kl = 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum(1)
    torch.testing.assert_close(reconstruction + kl, -evidence.log_prob(x), rtol=1e-6, atol=0)


def vae(prior, likelihood=None) -> Autoencoder:
    torch.manual_seed(0)
    likelihood = GaussianLikelihood(activation="identity") if likelihood is None else likelihood
    return Autoencoder(MLP(5, 4), MLP(2, 5), prior, posterior=GaussianPosterior(), likelihood=likelihood)


def test_terms_with_a_normal_prior_are_torchs():
    model = vae(StandardNormal(2))
    x = torch.rand(16, 5)
    torch.manual_seed(1)
    terms = ELBO(model, reconstruction_weight=3.0, kl_weight=0.5).losses("model", {"x": x}, 0)
    torch.manual_seed(1)
    q = model.encode(x)
    z = q.rsample()
    normal = Normal(q.base_dist.loc, q.base_dist.scale)
    kl = kl_divergence(normal, Normal(0.0, 1.0)).sum(1).mean()
    entropy = normal.entropy().sum(1).mean()
    reconstruction = -Normal(model.decoder(z), 1.0).log_prob(x).sum(1).mean()
    expected = {
        "loss": 3.0 * reconstruction + 0.5 * kl,
        "reconstruction": reconstruction,
        "kl": kl,
        "entropy": entropy,
        "nll": kl + entropy,
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda text, name=name: f"{name}: {text}")
        assert terms[name].requires_grad == (name == "loss")


@pytest.mark.parametrize("build", [lambda: FlowPrior(2), lambda: MixturePrior(2, components=3)])
def test_any_prior_trains_every_parameter(build):
    torch.manual_seed(0)
    model = vae(build(), BernoulliLikelihood())
    objective = ELBO(model)
    x = torch.rand(64, 5)
    terms = objective.losses("model", {"x": x}, 0)
    assert torch.isfinite(torch.stack(list(terms.values()))).all()
    terms["loss"].backward()
    missing = [name for name, parameter in objective.named_parameters() if parameter.grad is None]
    assert missing == []


def test_flow_prior_terms_estimate_the_cross_entropy():
    model = vae(FlowPrior(2))
    x = torch.rand(3, 5)
    terms = ELBO(model).losses("model", {"x": x.repeat(20_000, 1)}, 0)
    z = model.encode(x).rsample((20_000,))
    nll = -model.prior.log_prob(z).mean()
    assert terms["nll"].item() == pytest.approx(nll.item(), abs=0.05)
    assert terms["kl"].item() == pytest.approx((nll - model.encode(x).entropy().mean()).item(), abs=0.05)


def test_entropy_relates_to_the_papers_figure_as_documented():
    model = vae(StandardNormal(2))
    x = torch.rand(6, 5)
    figure = -(model.encode(x).base_dist.scale.log().sum(1) / 2).mean()
    entropy = ELBO(model).losses("model", {"x": x}, 0)["entropy"]
    torch.testing.assert_close((2 / 2 * math.log(2 * math.pi * math.e) - entropy) / 2, figure)


def test_weight_and_variance_are_the_same_beta():
    """GLF section 3.2: β on the reconstruction is a Gaussian of variance 1/β, up to a constant."""
    x = torch.rand(8, 5)
    gradients = []
    for weight, variance in ((50.0, 1.0), (1.0, 1 / 50)):
        model = vae(StandardNormal(2), GaussianLikelihood(variance, "identity"))
        torch.manual_seed(1)
        ELBO(model, reconstruction_weight=weight).losses("model", {"x": x}, 0)["loss"].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_groups_split_the_parameters_and_leave_feature_networks_out():
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return [self.layer(x)]

    likelihood = PerceptualLikelihood(GaussianLikelihood("learned", "identity"), Features())
    objective = ELBO(vae(FlowPrior(2), likelihood))
    groups = objective.parameter_groups("model")
    assert groups.keys() == {"autoencoder", "prior"}
    ids = {name: {id(p) for p in parameters} for name, parameters in groups.items()}
    model = objective.model
    assert ids["prior"] == {id(p) for p in model.prior.parameters()}
    coders = [*model.encoder.parameters(), *model.decoder.parameters(), likelihood.pixel.log_variance]
    assert ids["autoencoder"] == {id(p) for p in coders}
    assert len(list(objective.parameters_of("model"))) == len(ids["autoencoder"]) + len(ids["prior"])
    assert ELBO(vae(StandardNormal(2))).parameter_groups("model").keys() == {"autoencoder"}


def test_conditional_prior_reads_the_batchs_context():
    model = vae(FlowPrior(2, context_features=3))
    with torch.no_grad():
        for parameter in model.prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, context = torch.rand(4, 5), torch.eye(3)[[0, 1, 2, 0]]
    values = []
    for rows in (context, context.flip(1)):
        torch.manual_seed(1)
        values.append(ELBO(model).losses("model", {"x": x, "context": rows}, 0)["nll"])
    assert (values[0] - values[1]).abs() > 1e-3
    with pytest.raises(InputError, match="no 'context'"):
        ELBO(model).losses("model", {"x": x}, 0)


def test_bad_use_is_named():
    model = vae(StandardNormal(2))
    with pytest.raises(InputError, match="`reconstruction_weight` \\(=-1\\)"):
        ELBO(model, reconstruction_weight=-1)
    with pytest.raises(InputError, match="`kl_weight` \\(=nan\\)"):
        ELBO(model, kl_weight=float("nan"))
    with pytest.raises(InputError, match="`player` \\(='critic'\\)"):
        ELBO(model).losses("critic", {"x": torch.rand(2, 5)}, 0)
    with pytest.raises(InputError, match=r"no 'x'.*'image'"):
        ELBO(model).losses("model", {"image": torch.rand(2, 5)}, 0)
    model.posterior = DeterministicPosterior()
    with pytest.raises(InputError, match="DeterministicPosterior"):
        ELBO(model)
