"""Separability and path length of a model, by name, where one space is straight and the other is not."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import squeezenet1_0

from flowprior.bijectors.bijector import Bijector
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation import BACKBONES, Backbone, Evaluation, measure
from flowprior.metrics.perceptual import PerceptualDistance
from flowprior.models import Autoencoder, GaussianLikelihood
from flowprior.priors import FlowPrior, MixturePrior, StandardNormal


class Swirl(Bijector):
    """z is z0 turned by an angle that grows with the radius: what is a half plane in z is a spiral in z0."""

    def _to_base(self, z, context):
        return _turned(z, -3.0), z.new_zeros(z.shape[:-1])

    def _from_base(self, z0, context):
        return _turned(z0, 3.0), z0.new_zeros(z0.shape[:-1])


def _turned(points, speed):
    angle = speed * points.norm(dim=-1)
    x, y = points.unbind(-1)
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], -1)


@pytest.fixture
def source(tmp_path):
    """Gray images, bright on the left (1) or not (0), by the first coordinate of a 2-dimensional code."""
    z = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    images = (255 * model(StandardNormal(2)).decode(z)).detach().byte().numpy()
    label = (z[:, 0] > 0).long().numpy()
    np.savez(
        tmp_path / "a.npz", x_train=images[:500], y_train=label[:500], x_test=images[500:], y_test=label[500:]
    )
    return Source("a.npz", tmp_path)


def model(prior) -> Autoencoder:
    """A linear decoder: the left half has gray 0.5 + 0.05 z_1, the right half 0.5 + 0.05 z_2."""
    decoder = nn.Sequential(nn.Linear(2, 64), nn.Unflatten(1, (1, 8, 8)))
    left = (torch.arange(64) % 8 < 4).float()
    with torch.no_grad():
        decoder[0].weight.copy_(0.05 * torch.stack([left, 1 - left], 1))
        decoder[0].bias.fill_(0.5)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    return Autoencoder(encoder, decoder, prior, likelihood=GaussianLikelihood(1.0, "identity")).eval()


def test_separability_prefers_the_space_in_which_the_attribute_is_straight(source):
    found = measure(model(FlowPrior(2, bijector=Swirl(2))), source, ["separability"], count=100)
    assert found.values["separability_z"] < 1.05
    assert 3 < found.values["separability_z0"] <= 4.01  # two classes, each nearly undecided: 2 · 2
    facts = found.facts["separability"]
    assert facts["attributes"] == ("0", "1")
    assert (facts["z"]["samples"], facts["z"]["kept"]) == (2000, 1000)
    assert facts["test_accuracy"] > 0.9
    plain = measure(model(StandardNormal(2)), source, ["separability"], count=100).values
    assert plain["separability_z"] == plain["separability_z0"]
    mixed = measure(model(MixturePrior(2, components=2)), source, ["separability"], count=100)
    assert mixed.values.keys() == {"separability_z"}  # no z0


def test_path_length_is_that_of_the_linear_decoder_in_z_and_longer_where_paths_bend(source, monkeypatch):
    def pixels(evaluation):
        return lambda a, b: (a - b).square().flatten(1).sum(1), {}

    monkeypatch.setitem(BACKBONES, "vgg distance", Backbone(pixels, ()))
    found = measure(model(FlowPrior(2, bijector=Swirl(2))), source, ["ppl"], count=2000, seed=1)
    # E‖A (z' - z)‖², A'A = 32 · 0.05² I and E‖z' - z‖² = 4, less what the outliers add
    assert found.values["ppl_z"] == pytest.approx(0.32, rel=0.1)
    assert found.facts["ppl"]["z"]["mean"] == pytest.approx(0.32, rel=0.06)
    assert found.values["ppl_z0"] > 2 * found.values["ppl_z"]
    assert found.values["ppl_z0_lerp"] > 2 * found.values["ppl_z"]
    plain = measure(model(StandardNormal(2)), source, ["ppl"], count=200).values
    assert plain["ppl_z"] == pytest.approx(plain["ppl_z0_lerp"])
    mixture = FlowPrior(2, transforms=2, hidden_features=(4,), base="mixture")
    assert measure(model(mixture), source, ["ppl"], count=10).values.keys() == {"ppl_z", "ppl_z0_lerp"}


def test_distances_of_local_weights_and_their_absence(source, monkeypatch, tmp_path):
    monkeypatch.delenv("FLOWPRIOR_WEIGHTS", raising=False)
    for name, file in (
        ("ppl", "vgg19_normalised_relu3_1.pth"),
        ("ppl_lpips", "vgg16-397923af.pth"),
        ("ppl_squeezenet", "FLOWPRIOR_WEIGHTS"),
    ):
        with pytest.raises(InputError, match=file):
            measure(model(StandardNormal(2)), source, [name], count=4)
    torch.manual_seed(0)
    torch.save(squeezenet1_0(weights=None).state_dict(), tmp_path / "squeezenet1_0_deepcompression.pth")
    found = measure(model(StandardNormal(2)), source, ["ppl_squeezenet"], count=4, weights=tmp_path)
    assert found.values.keys() == {f"ppl_squeezenet_{space}" for space in ("z", "z0", "z0_lerp")}
    assert min(found.values.values()) > 0
    distance, facts = Evaluation(model(StandardNormal(2)), source, weights=tmp_path).backbone(
        "squeezenet distance"
    )
    assert isinstance(distance, PerceptualDistance)
    assert len(distance.maps(torch.rand(2, 1, 8, 8))) == len(facts["layers"])


def test_a_conditional_prior_is_refused(source):
    conditional = model(FlowPrior(2, transforms=2, hidden_features=(4,), context_features=3))
    for name in ("separability", "ppl_squeezenet"):
        with pytest.raises(
            InputError, match=rf"'{name}' needs one prior for all examples, but this model is cond"
        ):
            measure(conditional, source, [name])


class Breaks(StandardNormal):
    """One draw in so many is infinite."""

    def __init__(self, features, every):
        super().__init__(features)
        self.every = every

    def _draw(self, shape, context, temperature):
        z = super()._draw(shape, context, temperature)
        z.flatten(0, -2)[:: self.every] = torch.inf
        return z


def test_draws_that_are_not_finite_are_left_out_and_many_of_them_refused():
    source = Source("digits", limit=80)
    with pytest.warns(UserWarning, match="2 of 600 draws, not finite, were left out"):
        z, z0 = Evaluation(model(Breaks(2, every=300)), source).draws(600)
    assert z.shape == z0.shape == (598, 2)
    assert z.isfinite().all()
    with pytest.raises(InputError, match="12 of 600 draws are not finite"):
        Evaluation(model(Breaks(2, every=50)), source).draws(600)


def test_samples_that_are_not_finite_are_left_out_and_many_of_them_make_a_distance_infinite(monkeypatch):
    from flowprior.metrics.features import FeatureNetwork

    network = FeatureNetwork(
        nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), metric="fd_pooled", resize="none", checksum="0"
    )
    monkeypatch.setitem(BACKBONES, "classifier", Backbone(lambda _: network, ()))
    source = Source("digits", limit=80)
    found = measure(model(Breaks(2, every=300)), source, ["fd_classifier"], count=600)
    assert 0 < found.values["fd_classifier"] < float("inf")
    assert found.facts["fd_classifier"]["samples"] == 598
    assert "2 of 600 samples, not finite, were left out." in found.facts["fd_classifier"]["notes"]
    found = measure(model(Breaks(2, every=50)), source, ["fd_classifier"], count=600)
    assert found.values["fd_classifier"] == float("inf")
    assert "the prior has diverged" in found.facts["fd_classifier"]["notes"][0]
    source = Source("digits", limit=150)
    found = measure(model(Breaks(2, every=150)), source, ["prd_classifier"], count=150)
    assert 0 < found.values["prd_classifier_f8"] <= 1
    facts = found.facts["prd_classifier"]
    assert (facts["samples"], facts["real"]) == (149, 149)  # as many test images as samples are left
    assert facts["notes"] == ["1 of 150 samples, not finite, were left out."]
