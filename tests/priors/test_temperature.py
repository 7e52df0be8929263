"""The temperature of a draw scales its noise and nothing else: closed forms, and every prior at 1."""

import math

import pytest
import torch

from flowprior import InputError
from flowprior.priors import (
    DecoupledPrior,
    EmbeddedPrior,
    FlowPrior,
    GaussianPrior,
    HierarchicalPrior,
    ImplicitPrior,
    MixturePrior,
    StandardNormal,
)


def drawn(prior, context=None, **options):
    torch.manual_seed(1)
    return prior.sample(6, context, **options)


def test_one_is_the_default_of_every_prior_and_others_must_be_above_zero(registry):
    for case in registry:
        prior, context = case.build(), case.context(2)
        assert torch.equal(drawn(prior, context), drawn(prior, context, temperature=1)), case.name
        assert not torch.equal(drawn(prior, context), drawn(prior, context, temperature=0.5)), case.name
    for wrong in (0, -1.0, math.inf, math.nan, "1", None, True):
        with pytest.raises(InputError, match="`temperature`"):
            StandardNormal(2).sample(1, temperature=wrong)


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_it_scales_z0_of_whatever_has_a_base(temperature):
    flow = FlowPrior(4, transforms=2, hidden_features=(8,), context_features=3).double()
    embedded = EmbeddedPrior(flow, torch.nn.Linear(2, 3).double(), 2)
    gaussian = GaussianPrior((2, 4, 4), (3, 8, 8), hidden_features=(8,), groups=4).double()
    coarse = GaussianPrior((2, 1, 1), 3, hidden_features=(8,))
    fine = GaussianPrior((1, 2, 2), (2, 2, 2), hidden_features=(8,))
    hierarchy = HierarchicalPrior([coarse, fine]).double()
    for prior in (StandardNormal(4).double(), flow, DecoupledPrior(flow), embedded, gaussian, hierarchy):
        context = None
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        if prior.context_shape is not None:
            context = torch.randn(prior.context_shape, dtype=torch.float64)
        z0, _ = prior.to_base(drawn(prior, context), context)
        z, _ = prior.from_base(temperature * z0, context)
        torch.testing.assert_close(drawn(prior, context, temperature=temperature), z)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_mixture_keeps_its_components_and_scales_the_noise_within(covariance):
    prior = MixturePrior(3, components=1, covariance=covariance).double()
    cool = drawn(prior, temperature=0.2) - prior.means
    torch.testing.assert_close(cool, 0.2 * (drawn(prior) - prior.means))


@pytest.mark.parametrize("noise", ["normal", "uniform"])
def test_an_implicit_prior_scales_the_noise_it_maps(noise):
    prior = ImplicitPrior(3, hidden_features=(), batch_norm=False, noise=noise).double()
    bias = prior.layers[-1].bias
    torch.testing.assert_close(drawn(prior, temperature=0.2) - bias, 0.2 * (drawn(prior) - bias))
