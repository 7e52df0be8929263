"""The bilevel objective against GLF, the ELBO, two backward passes, and free bits and annealing by hand."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from flowprior.errors import InputError
from flowprior.models import Autoencoder, DeterministicPosterior, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP
from flowprior.objectives import ELBO, Bilevel, LatentFlow, LinearAnnealing
from flowprior.priors import DecoupledPrior, FlowPrior, MixturePrior, StandardNormal

PRIORS = {
    "normal": StandardNormal,
    "flow": lambda features: FlowPrior(features, recipe="actnorm", transforms=4, hidden_features=(8, 8)),
    "mixture": lambda features: MixturePrior(features, components=3),
    "decoupled": lambda features: DecoupledPrior(FlowPrior(features, transforms=2, hidden_features=(8,))),
    "conditional": lambda features: FlowPrior(
        features, transforms=2, hidden_features=(8,), context_features=3
    ),
}


def model(prior: str = "flow", posterior: type = GaussianPosterior, variance: float | str = 1.0):
    torch.manual_seed(0)
    likelihood = GaussianLikelihood(variance, activation="identity")
    reader = posterior()
    built = Autoencoder(
        MLP(6, reader.out_features(4), hidden=(12,)),
        MLP(4, 6, hidden=(12,)),
        PRIORS[prior](4),
        posterior=reader,
        likelihood=likelihood,
    ).double()
    with torch.no_grad():  # off the identity, so that its gradient is not special
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def batch(n: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    context = torch.eye(3, dtype=torch.float64)[torch.arange(n) % 3]
    return {"x": torch.rand(n, 6, dtype=torch.float64, generator=generator), "context": context}


def gradients(objective, step: int = 0, data=None) -> dict[str, torch.Tensor]:
    """By parameter name, from one backward pass with the same noise each time."""
    torch.manual_seed(5)
    loss = objective.losses("model", batch() if data is None else data, step)["loss"]
    named = dict(objective.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(named[name]) if gradient is None else gradient
        for name, gradient in zip(named, found, strict=True)
    }


def assert_same(got, wanted) -> None:
    assert got.keys() == wanted.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-10, msg=name)


def brute_force(built: Autoencoder, beta: float) -> dict[str, torch.Tensor]:
    """Eq. 12 for encoder, decoder and likelihood, Eq. 13 for the prior, each by its own backward pass."""
    data, found = batch(), {}
    context = None if built.prior.context_features is None else data["context"]
    for prior_too in (False, True):
        torch.manual_seed(5)
        q = built.encode(data["x"])
        z = q.rsample()
        log_p = built.prior.log_prob(z, context).mean()
        entropy = 0.0 if built.posterior.deterministic else q.entropy().mean()
        reconstruction = -built.reconstruction_nll(data["x"], z).mean()
        value = log_p if prior_too else reconstruction + beta * (log_p + entropy)
        named = dict(built.named_parameters(prefix="model"))
        grads = torch.autograd.grad(-value, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, grads, strict=True):
            if name.startswith("model.prior.") == prior_too:
                found[name] = torch.zeros_like(named[name]) if gradient is None else gradient
    return found


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("posterior", [GaussianPosterior, DeterministicPosterior])
@pytest.mark.parametrize("prior", ["flow", "mixture", "decoupled", "conditional"])
def test_one_backward_pass_is_two(prior, posterior, beta):
    built = model(prior, posterior, variance="learned")
    got = gradients(Bilevel(built, beta))
    assert_same(got, brute_force(built, beta))
    encoder = sum(gradient.abs().sum() for name, gradient in got.items() if ".prior." in name)
    assert encoder > 0, "the prior learns whatever β is"


def test_the_prior_learns_alike_at_every_beta():
    built = model()
    found = [gradients(Bilevel(built, beta)) for beta in (0.0, 0.2, 1.0)]
    for other in found[1:]:
        for name in found[0]:
            same = torch.allclose(found[0][name], other[name], rtol=1e-9, atol=1e-12)
            assert same == (".encoder." not in name), name


def test_beta_0_is_the_stop_gradient_of_glf_and_beta_1_its_regularized_form():
    """Eq. 5 and 4 of GLF, written out."""
    built, x = model(posterior=DeterministicPosterior), batch()["x"]
    for beta, stop in ((0.0, True), (1.0, False)):
        z = built.encode(x).mean
        behind = z.detach() if stop else z
        loss = built.reconstruction_nll(x, z).mean() - built.prior.log_prob(behind).mean()
        named = dict(built.named_parameters(prefix="model"))
        written = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
        assert_same(gradients(Bilevel(built, beta)), written)
        assert_same(gradients(LatentFlow(built, stop_gradient=stop)), written)


@pytest.mark.parametrize("prior", PRIORS)
def test_beta_1_is_the_elbo(prior):
    built = model(prior, variance="learned")
    for weight in (1.0, 5.0):
        ours, plain = Bilevel(built, 1.0, weight), ELBO(built, weight)
        assert_same(gradients(ours), gradients(plain))
        torch.manual_seed(3)
        got = ours.losses("model", batch(), 0)
        torch.manual_seed(3)
        wanted = plain.losses("model", batch(), 0)
        assert got.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(got[name], wanted[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_the_loss_counts_beta_of_the_entropy_and_all_of_the_nll(prior):
    built = model(prior)
    for beta in (0.0, 0.25):
        terms = Bilevel(built, beta, 3.0).losses("model", batch(), 0)
        expected = 3.0 * terms["reconstruction"] + terms["nll"] - beta * terms["entropy"]
        torch.testing.assert_close(terms["loss"].detach(), expected)
    point = Bilevel(model(posterior=DeterministicPosterior), 0.5).losses("model", batch(), 0)
    assert point.keys() == {"loss", "reconstruction", "nll"}
    torch.testing.assert_close(point["loss"].detach(), point["reconstruction"] + point["nll"])


def test_without_a_pull_nothing_is_computed_behind_z():
    """An infinite gradient of the density does not become NaN at β = 0."""

    class Cliff(StandardNormal):
        def _log_prob(self, z, context):
            return (z.sum(1) * 0.0).sqrt()  # 0, with an infinite gradient

        def _exact_kl(self, q):
            return None

    built = model()
    built.prior = Cliff(4).double()
    assert all(gradient.isfinite().all() for gradient in gradients(Bilevel(built, 0.0)).values())


@pytest.mark.parametrize(("step", "beta"), [(0, 0.0), (10, 0.0), (15, 0.25), (30, 1.0), (1000, 1.0)])
def test_annealing_by_hand(step, beta):
    ramp = LinearAnnealing(steps=20, after=10)
    assert ramp(step) == pytest.approx(beta)
    built = model()
    annealed = Bilevel(built, ramp)
    assert_same(gradients(annealed, step), gradients(Bilevel(built, beta)))
    terms = annealed.losses("model", batch(), step)
    assert terms["beta"].item() == pytest.approx(beta)
    assert "beta" not in Bilevel(built, 0.5).losses("model", batch(), step)


def test_annealing_may_fall():
    ramp = LinearAnnealing(steps=4, start=1.0, end=0.5)
    assert [ramp(step) for step in (0, 2, 4, 9)] == [1.0, 0.75, 0.5, 0.5]


def dimension_kls(built: Autoencoder) -> torch.Tensor:
    """KL(N(m, s²) ‖ N(0, 1)) for each dimension, mean over the batch, by its formula: (D,)."""
    normal = built.encode(batch()["x"]).base_dist
    return (0.5 * (normal.loc**2 + normal.scale**2 - 1) - normal.scale.log()).mean(0)


@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_free_bits_of_dimensions_by_hand(beta):
    built = model("normal")
    each = dimension_kls(built)
    free = each.sort().values[1:3].mean().item()  # two dimensions below, two above
    assert (each < free).sum() == 2
    torch.manual_seed(5)
    x = batch()["x"]
    z = built.encode(x).rsample()
    loss = built.reconstruction_nll(x, z).mean() + beta * dimension_kls(built).clamp(min=free).sum()
    named = dict(built.named_parameters(prefix="model"))
    grads = torch.autograd.grad(loss, list(named.values()))
    objective = Bilevel(built, beta, free_bits=free, free_subsets="dimension")
    assert_same(gradients(objective), dict(zip(named, grads, strict=True)))
    if beta == 1:
        torch.manual_seed(5)
        torch.testing.assert_close(objective.losses("model", batch(), 0)["loss"], loss)


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_free_bits_of_the_latent_by_hand(prior):
    """Below λ the encoder feels nothing of the KL and a prior learns on; above it nothing is different."""
    built = model(prior)
    torch.manual_seed(5)
    kl = ELBO(built).losses("model", batch(), 0)["kl"].item()
    above, below = Bilevel(built, 0.5, free_bits=kl - 0.01), Bilevel(built, 0.5, free_bits=kl + 0.01)
    assert_same(gradients(above), gradients(Bilevel(built, 0.5)))
    assert_same(gradients(below), gradients(Bilevel(built, 0.0)))
    torch.manual_seed(5)
    terms = Bilevel(built, 1.0, free_bits=kl + 2.0).losses("model", batch(), 0)
    assert terms["loss"].item() == pytest.approx(terms["reconstruction"].item() + kl + 2.0)
    assert terms["kl"].item() == pytest.approx(kl)


def test_latent_reconstruction_is_the_distance_in_l1_and_trains_the_decoder_alone():
    built = model(posterior=DeterministicPosterior)
    plain, objective = LatentFlow(built), Bilevel(built, 0.0, latent_weight=2.0)
    torch.manual_seed(5)
    terms = objective.losses("model", batch(), 0)
    torch.manual_seed(5)
    z = built.prior.sample(8)
    distance = (z - built.encode(built.decode(z)).mean).abs().sum(1).mean()
    torch.testing.assert_close(terms["latent_reconstruction"], distance.detach())
    difference = (terms["loss"] - plain.losses("model", batch(), 0)["loss"]).item()
    assert difference == pytest.approx(2 * distance.item())
    decoder = dict(built.decoder.named_parameters(prefix="model.decoder"))
    added = torch.autograd.grad(2 * distance, list(decoder.values()))
    got, before = gradients(objective), gradients(plain)
    for name, gradient in got.items():
        extra = torch.zeros_like(gradient)
        if name in decoder:
            extra = dict(zip(decoder, added, strict=True))[name]
        torch.testing.assert_close(gradient, before[name] + extra, rtol=1e-6, atol=1e-10, msg=name)


def test_latent_reconstruction_leaves_the_encoders_batch_statistics_alone():
    built = model(posterior=DeterministicPosterior)
    built.encoder = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    objectives = [Bilevel(built, 0.0, latent_weight=weight) for weight in (0.0, 1.0)]
    fresh = built.encoder[1].running_mean.clone()
    means = []
    for objective in objectives:
        built.encoder[1].running_mean.copy_(fresh)
        objective.losses("model", batch(), 0)
        means.append(built.encoder[1].running_mean.clone())
    assert torch.equal(*means)
    assert not torch.equal(means[0], fresh)


def test_latent_reconstruction_draws_at_the_batchs_contexts():
    terms = Bilevel(model("conditional"), latent_weight=1.0).losses("model", batch(), 0)
    assert terms["latent_reconstruction"] > 0
    assert not terms["latent_reconstruction"].requires_grad


def test_learned_variance_of_a_linear_model_is_its_mean_squared_error():
    """γ² = mean squared error at the optimum (Dai & Wipf): reached by training, β = 0, a linear decoder."""
    built = model(posterior=DeterministicPosterior, variance="learned")
    x = {"x": batch(64)["x"]}
    optimizer = torch.optim.Adam(Bilevel(built, 0.0).parameters_of("model"), lr=0.02)
    for step in range(400):
        optimizer.zero_grad()
        Bilevel(built, 0.0).losses("model", x, step)["loss"].backward()
        optimizer.step()
    error = (built.reconstruct(x["x"]) - x["x"]).square().mean().item()
    assert built.likelihood.variance.item() == pytest.approx(error, rel=0.1)
    # There the nll is (n/2) (1 + log 2πγ²), for which no other γ is better.
    nll = built.reconstruction_nll(x["x"], built.encode(x["x"]).mean).mean().item()
    best = 3 * (1 + math.log(2 * math.pi * error))
    assert best <= nll <= best + 0.05
    wider = -Normal(built.reconstruct(x["x"]), (2 * error) ** 0.5).log_prob(x["x"]).sum(1).mean()
    assert wider > nll


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bilevel(model(), 1.5), "`beta` (=1.5)"),
        (lambda: Bilevel(model(), -0.1), "`beta` (=-0.1)"),
        (lambda: Bilevel(model(), True), "`beta` (=True)"),
        (lambda: Bilevel(model(), LinearAnnealing(10, end=2.0)), "`beta`"),
        (lambda: LinearAnnealing(0), "`steps` (=0)"),
        (lambda: LinearAnnealing(10, after=-1), "`after` (=-1)"),
        (lambda: LinearAnnealing(10, start=math.inf), "`start` (=inf)"),
        (lambda: Bilevel(model(), free_bits=-1.0), "`free_bits` (=-1.0)"),
        (lambda: Bilevel(model(), latent_weight=math.nan), "`latent_weight` (=nan)"),
        (lambda: Bilevel(model(), free_subsets="pixel"), "`free_subsets` (='pixel')"),
        (lambda: Bilevel(model(), free_bits=1.0, free_subsets="dimension"), "FlowPrior"),
        (lambda: Bilevel(model(posterior=DeterministicPosterior), free_bits=1.0), "DeterministicPosterior"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)
