"""Likelihoods against torch.distributions, and the perceptual term against its definition."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.models import BernoulliLikelihood, GaussianLikelihood, LaplaceLikelihood, PerceptualLikelihood


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.randn(5, 2, 3, 3, dtype=torch.float64), torch.rand(5, 2, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
@pytest.mark.parametrize("variance", [1.0, 0.01, 3])
def test_gaussian_is_the_normal_density(pair, activation, variance):
    output, x = pair
    likelihood = GaussianLikelihood(variance, activation).double()
    mean = output.sigmoid() if activation == "sigmoid" else output
    reference = -Normal(mean, variance**0.5).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.mean(output), mean)
    torch.testing.assert_close(likelihood.nll(output, x), reference, rtol=1e-6, atol=0)
    assert likelihood.learned_parameters() == []


def test_learned_variance_has_one_scalar_whose_optimum_is_the_mean_squared_error(pair):
    output, x = pair
    likelihood = GaussianLikelihood("learned").double()
    assert [tuple(parameter.shape) for parameter in likelihood.learned_parameters()] == [()]
    torch.testing.assert_close(likelihood.nll(output, x), GaussianLikelihood(1.0).double().nll(output, x))
    with torch.no_grad():
        likelihood.log_variance.copy_((x - output.sigmoid()).square().mean().log())
    reference = -Normal(output.sigmoid(), likelihood.variance.sqrt()).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.nll(output, x), reference)
    likelihood.nll(output, x).mean().backward()
    assert abs(likelihood.log_variance.grad.item()) < 1e-12


def test_fixed_variance_follows_the_state_dict():
    likelihood = GaussianLikelihood(1.0)
    likelihood.load_state_dict(GaussianLikelihood(0.25).state_dict())
    assert likelihood.variance.item() == pytest.approx(0.25)


@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
@pytest.mark.parametrize("scale", [1.0, 0.01, 3])
def test_laplace_is_the_laplace_density(pair, activation, scale):
    output, x = pair
    likelihood = LaplaceLikelihood(scale, activation).double()
    mean = output.sigmoid() if activation == "sigmoid" else output
    reference = -Laplace(mean, scale).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(likelihood.mean(output), mean)
    torch.testing.assert_close(likelihood.nll(output, x), reference, rtol=1e-6, atol=0)
    assert likelihood.learned_parameters() == []


def test_learned_scale_has_one_scalar_whose_optimum_is_the_mean_absolute_error(pair):
    output, x = pair
    likelihood = LaplaceLikelihood("learned").double()
    assert [tuple(parameter.shape) for parameter in likelihood.learned_parameters()] == [()]
    torch.testing.assert_close(likelihood.nll(output, x), LaplaceLikelihood(1.0).double().nll(output, x))
    with torch.no_grad():
        likelihood.log_scale.copy_((x - output.sigmoid()).abs().mean().log())
    assert likelihood.scale.item() == pytest.approx((x - output.sigmoid()).abs().mean().item())
    likelihood.nll(output, x).mean().backward()
    assert abs(likelihood.log_scale.grad.item()) < 1e-12


def test_bernoulli_is_the_bernoulli_density(pair):
    output, x = pair
    binary = (x > 0.5).double()
    reference = -Bernoulli(logits=output).log_prob(binary).flatten(1).sum(1)
    torch.testing.assert_close(BernoulliLikelihood().nll(output, binary), reference)
    torch.testing.assert_close(BernoulliLikelihood().mean(output), Bernoulli(logits=output).mean)


def test_half_precision_outputs_are_summed_in_the_precision_of_x():
    torch.manual_seed(0)
    x, output = torch.rand(2, 1, 28, 28), torch.randn(2, 1, 28, 28).bfloat16()
    for likelihood in (GaussianLikelihood(), LaplaceLikelihood(), BernoulliLikelihood()):
        nll = likelihood.nll(output, x)
        assert nll.dtype == torch.float32
        torch.testing.assert_close(nll, likelihood.nll(output.float(), x))


class Pyramid(nn.Module):
    """Two feature maps with a dropout that evaluation mode must switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dropout = nn.Conv2d(2, 4, 3).double(), nn.Dropout(0.5)

    def forward(self, images):
        maps = self.dropout(self.conv(images))
        return [maps, functional.avg_pool2d(maps, 2, ceil_mode=True)]


def test_perceptual_adds_the_feature_distances(pair):
    torch.manual_seed(1)
    output, x = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.rand(5, 2, 6, 6, dtype=torch.float64)
    network = Pyramid()
    likelihood = PerceptualLikelihood(GaussianLikelihood().double(), network, weight=0.5).train()
    distance = torch.zeros(5, dtype=torch.float64)
    for got, goal in zip(network(output.sigmoid()), network(x), strict=True):
        distance += torch.stack([(got[i] - goal[i]).abs().mean() for i in range(5)])
    expected = GaussianLikelihood().double().nll(output, x) + 0.5 * 72 * distance
    torch.testing.assert_close(likelihood.nll(output, x), expected.detach())
    torch.testing.assert_close(likelihood.mean(output), output.sigmoid())


def test_perceptual_trains_the_pixels_only():
    likelihood = PerceptualLikelihood(GaussianLikelihood("learned").double(), Pyramid())
    likelihood.train()
    assert likelihood.training
    assert not likelihood.features.dropout.training
    assert not any(parameter.requires_grad for parameter in likelihood.features.parameters())
    assert likelihood.learned_parameters() == [likelihood.pixel.log_variance]
    output = torch.zeros(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    likelihood.feature_distance(
        output.sigmoid(), torch.ones(1, 2, 6, 6, dtype=torch.float64)
    ).sum().backward()
    assert output.grad.abs().sum() > 0


@pytest.mark.parametrize("likelihood", [GaussianLikelihood(), BernoulliLikelihood()])
def test_shapes_that_would_broadcast_are_refused(likelihood):
    with pytest.raises(InputError, match=r"\(4, 1, 8, 8\).*\(4, 3, 8, 8\)"):
        likelihood.nll(torch.zeros(4, 1, 8, 8), torch.zeros(4, 3, 8, 8))


@pytest.mark.parametrize("variance", [0, -1.0, "trained", float("inf"), True])
def test_bad_variance_is_named(variance):
    with pytest.raises(InputError, match="`variance`"):
        GaussianLikelihood(variance)


def test_bad_activation_and_weight_are_named():
    with pytest.raises(InputError, match="`activation` \\(='relu'\\)"):
        GaussianLikelihood(activation="relu")
    with pytest.raises(InputError, match="`weight` \\(=-1\\)"):
        PerceptualLikelihood(GaussianLikelihood(), nn.Identity(), weight=-1)
