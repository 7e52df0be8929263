"""What is measured of prior against aggregate posterior, by name, on models whose truth is known."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation import BACKBONES, Backbone, Evaluation, measure, overlap
from flowprior.evaluation.context import LP_DRAWS
from flowprior.metrics import AggregatePosterior, frechet
from flowprior.metrics.features import FeatureNetwork
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP, SmallDecoder, SmallEncoder
from flowprior.priors import DecoupledPrior, FlowPrior, StandardNormal
from flowprior.registry import METRICS
from flowprior.tensors import as_input

NAMES = ("skl", "leakage", "iw_nll")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(overlap, "DRAWS", 1000)


def linear(prior) -> Autoencoder:
    torch.manual_seed(0)
    encoder, decoder = MLP(2, 4, hidden=()), MLP(2, 2, hidden=())
    with torch.no_grad():
        encoder.layers[0].weight.copy_(torch.tensor([[0.6, 0.2], [-0.2, 0.7], [0, 0], [0, 0]]))
        encoder.layers[0].bias.copy_(torch.tensor([0.1, 0.0, 0.5, 0.3]))
    likelihood = GaussianLikelihood(0.4, "identity")
    return Autoencoder(encoder, decoder, prior, posterior=GaussianPosterior(), likelihood=likelihood).eval()


def test_the_likelihood_of_a_linear_gaussian_vae_is_the_exact_one():
    model, source = linear(StandardNormal(2)), Source("moons", limit=300)
    found = measure(model, source, ["iw_nll"], importance_samples=500)
    layer = model.decoder.layers[0]
    covariance = layer.weight @ layer.weight.T + 0.4 * torch.eye(2)
    truth = -MultivariateNormal(layer.bias, covariance).log_prob(source.test().x).mean().item()
    facts = found.facts["iw_nll"]
    assert 0 < facts["standard_error"] < 0.02
    assert abs(found.values["iw_nll"] - truth) < 4 * facts["standard_error"]
    assert (facts["samples"], facts["examples"]) == (500, 300)


def test_overlap_and_leakage_agree_with_the_prior_asked_directly():
    model, source = linear(StandardNormal(2)), Source("moons", limit=300)
    found = measure(model, source, ["skl", "leakage"])
    q = model.encode(source.train().x)
    aggregate = Evaluation(model, source).aggregate
    torch.testing.assert_close(aggregate.loc, q.mean.detach())
    torch.testing.assert_close(aggregate.scale, q.stddev.detach())
    assert found.values["skl"] == pytest.approx(found.values["skl_density"], abs=0.3)
    thresholds = found.facts["leakage"]["thresholds"]
    torch.manual_seed(0)
    curve = DecoupledPrior(model.prior).leakage(aggregate, thresholds, samples=1000)
    values = [found.values[f"leakage_{share}"] for share in overlap.SHARES]
    assert values == pytest.approx(curve.scores, abs=1e-6)
    shares = [found.values[f"leakage_share_{share}"] for share in overlap.SHARES]
    means = [found.values[f"leakage_mean_{share}"] for share in overlap.SHARES]
    assert [share * mean for share, mean in zip(shares, means, strict=True)] == pytest.approx(values)
    assert found.facts["leakage"]["as_printed"]["scores"] == pytest.approx(
        values
    )  # N(0, I): one and the same
    assert found.values == measure(model, source, ["skl", "leakage"]).values  # seeded


def test_leakage_does_not_depend_on_the_unit_of_z():
    """The same codes in another unit, under the prior that is made for it: z = unit · z', g(z) = g'(z')."""
    from nflows.transforms import PointwiseAffineTransform

    source, seen = Source("moons", limit=300), []
    for unit in (1.0, 0.05, 30.0):
        flow = FlowPrior(2, bijector=PointwiseAffineTransform(shift=0.2, scale=1.3 / unit)).double()
        model = linear(DecoupledPrior(flow)).double()
        evaluation = Evaluation(model, source)
        plain = Evaluation(linear(StandardNormal(2)), source).aggregate
        evaluation.__dict__["aggregate"] = AggregatePosterior(
            plain.loc.double() * unit, plain.scale.double() * unit
        )
        torch.manual_seed(0)
        seen.append(METRICS["leakage"].function(evaluation)[0])
    assert 0 < seen[0]["leakage_share_0.01"] < 1
    for other in seen[1:]:
        assert other == pytest.approx(seen[0], rel=1e-6)


def test_a_fitted_decoupled_prior_overlaps_better():
    source = Source("moons", limit=400)
    model = linear(StandardNormal(2))
    plain = measure(model, source, ["skl", "leakage"]).values
    flow = FlowPrior(2, transforms=2, hidden_features=(4,))
    q = model.encode(source.train().x)
    flow.initialize(q.sample((5,)).flatten(0, 1))  # whitened
    model.prior = DecoupledPrior(flow)
    decoupled = measure(model, source, ["skl", "leakage"]).values
    for name in ("skl", "skl_density"):
        assert decoupled[name] < plain[name]


def test_low_posterior_samples_are_measured_as_images(monkeypatch):
    torch.manual_seed(0)
    model = Autoencoder(
        SmallEncoder(1, 4, width=0.25),
        SmallDecoder(2, 1, width=0.25),
        StandardNormal(2),
        posterior=GaussianPosterior(),
    ).eval()
    network = FeatureNetwork(
        nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), metric="fd_pooled", resize="none", checksum="0"
    )
    monkeypatch.setitem(BACKBONES, "classifier", Backbone(lambda _: network, ()))
    source = Source("digits", limit=80)
    names = ["fd_classifier", "lp_fd_classifier", "lp_fd_classifier_floor", "lp_ratio_fd_classifier"]
    names += ["fd_classifier_aggregate", "off_manifold_classifier"]
    found = measure(model, source, names, count=60)
    assert found.values.keys() == set(names)
    assert found.facts["lp_fd_classifier"]["samples"] == 60
    aggregate = Evaluation(model, source).aggregate
    torch.manual_seed(0)
    draws = model.prior.sample(LP_DRAWS * 60)
    kept = Evaluation(model, source, count=60).low_posterior
    expected = draws[aggregate.log_prob(draws).argsort()[:60]]
    torch.testing.assert_close(kept, expected)

    def distance(z):
        return frechet(model.decode(z), source.test().x, network).value

    ratio = aggregate.log_prob(draws) - model.prior.log_prob(draws)
    overrated = draws[ratio.argsort()[:60]]
    assert found.values["lp_ratio_fd_classifier"] == pytest.approx(distance(overrated), rel=1e-3)
    torch.manual_seed(0)
    own = aggregate.sample(LP_DRAWS * 60)
    floor = own[aggregate.log_prob(own).argsort()[:60]]
    assert found.values["lp_fd_classifier_floor"] == pytest.approx(distance(floor), rel=1e-3)
    torch.manual_seed(0)
    best = aggregate.sample(60)
    assert found.values["fd_classifier_aggregate"] == pytest.approx(distance(best), rel=1e-3)
    features = [
        network(x) for x in (model.decode(kept), as_input(source.train().x), as_input(source.test().x))
    ]
    assert found.values["off_manifold_classifier"] == overlap.off_manifold(*features)[0]


def test_samples_off_the_manifold_are_counted_as_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 2, generator=generator) for n in (300, 200))
    samples = torch.randn(100, 2, generator=generator) * 1.5
    share, limit = overlap.off_manifold(samples, train, test)

    def distance(x):
        return min(math.dist(x.tolist(), y.tolist()) for y in train)

    threshold = torch.tensor([distance(x) for x in test], dtype=torch.float64).quantile(0.99).item()
    assert limit == pytest.approx(threshold)
    assert share == sum(distance(x) > threshold for x in samples) / 100
    assert 0 < share < 1
    assert overlap.off_manifold(train[:50], train, test)[0] == 0.0


def test_low_posterior_samples_in_a_pocket_are_off_the_manifold():
    source = Source("moons", limit=500)
    near = measure(linear(StandardNormal(2)), source, ["off_manifold"], count=50).values["off_manifold"]
    model = linear(StandardNormal(2))
    model.decoder.layers[0].bias.data.add_(50.0)
    assert measure(model, source, ["off_manifold"], count=50).values["off_manifold"] == 1.0
    assert near < 1.0


def test_a_flow_beyond_the_floats_is_measured_as_infinite():
    class Overflow(StandardNormal):
        def _log_prob(self, z, context):
            return super()._log_prob(z, context) * math.inf

    found = measure(linear(Overflow(2)), Source("moons", limit=50), NAMES, importance_samples=4)
    assert set(found.values.values()) == {math.inf}
    assert found.values.keys() >= {"skl", "skl_density", "iw_nll", "leakage_0.1", "leakage_0.001"}
    assert all("NaN or infinity" in found.facts[name]["notes"][0] for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_models_without_these_densities_are_refused_before_any_work(name):
    source = Source("moons", limit=50)
    deterministic = Autoencoder(MLP(2, 2), MLP(2, 2), StandardNormal(2))
    with pytest.raises(InputError, match=f"'{name}' needs a posterior with a density"):
        measure(deterministic, source, [name])
    conditional = linear(FlowPrior(2, context_features=2))
    if name == "iw_nll":
        assert math.isfinite(measure(conditional, source, [name], importance_samples=5).values[name])
    else:
        with pytest.raises(InputError, match="this model is conditional"):
            measure(conditional, source, [name])
