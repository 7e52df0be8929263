"""Posteriors against torch.distributions."""

import pytest
import torch
from torch.distributions import Normal
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.models import DeterministicPosterior, GaussianPosterior, UnitGaussianPosterior


@pytest.mark.parametrize("event_shape", [(6,), (2, 3)])
def test_gaussian_posterior_is_the_diagonal_normal(event_shape):
    torch.manual_seed(0)
    h = torch.randn(4, 12, dtype=torch.float64)
    q = GaussianPosterior()(h, event_shape)
    assert (q.batch_shape, q.event_shape) == ((4,), event_shape)
    reference = Normal(h[:, :6], functional.softplus(h[:, 6:]) + 1e-6)
    z = q.rsample((3,))
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z.reshape(3, 4, 6)).sum(-1))
    torch.testing.assert_close(q.entropy(), reference.entropy().sum(-1))
    torch.testing.assert_close(q.mean.reshape(4, 6), reference.mean)


@pytest.mark.parametrize("event_shape", [(12,), (3, 4)])
def test_unit_gaussian_posterior_has_variance_one(event_shape):
    torch.manual_seed(0)
    h = torch.randn(4, 12, dtype=torch.float64)
    q = UnitGaussianPosterior()(h, event_shape)
    assert (q.batch_shape, q.event_shape) == ((4,), event_shape)
    z = q.rsample((3,))
    reference = Normal(h, 1.0)
    torch.testing.assert_close(q.log_prob(z), reference.log_prob(z.reshape(3, 4, 12)).sum(-1))
    torch.testing.assert_close(q.entropy(), reference.entropy().sum(-1))


@pytest.mark.parametrize("event_shape", [(12,), (3, 4)])
def test_deterministic_posterior_is_a_point(event_shape):
    torch.manual_seed(0)
    h = torch.randn(4, 12, requires_grad=True)
    q = DeterministicPosterior()(h, event_shape)
    assert (q.batch_shape, q.event_shape) == ((4,), event_shape)
    z = q.rsample()
    torch.testing.assert_close(z, h.reshape(4, *event_shape))
    torch.testing.assert_close(q.log_prob(z), torch.zeros(4))
    (gradient,) = torch.autograd.grad(z.sum(), h)
    torch.testing.assert_close(gradient, torch.ones_like(h))


def test_without_event_shape_the_event_is_a_vector():
    assert GaussianPosterior()(torch.zeros(2, 8)).event_shape == (4,)
    assert DeterministicPosterior()(torch.zeros(2, 8)).event_shape == (8,)


def test_out_features():
    assert GaussianPosterior().out_features(20) == 40
    assert GaussianPosterior().out_features((4, 8, 8)) == 512
    assert DeterministicPosterior().out_features(20) == 20


def test_half_precision_is_read_as_float32():
    h = torch.zeros(2, 8, dtype=torch.bfloat16)
    assert GaussianPosterior()(h).rsample().dtype == torch.float32
    assert DeterministicPosterior()(h).mean.dtype == torch.float32


def test_nan_flows_through_to_the_loss():
    q = GaussianPosterior()(torch.full((2, 4), torch.nan))
    assert q.rsample().isnan().all()
    assert q.entropy().isnan().all()


@pytest.mark.parametrize(
    "posterior", [GaussianPosterior(), UnitGaussianPosterior(), DeterministicPosterior()]
)
def test_wrong_encoder_output_is_refused(posterior):
    with pytest.raises(InputError, match="out_features"):
        posterior(torch.zeros(2, 7), (5,))
    with pytest.raises(InputError, match=type(posterior).__name__):
        posterior(torch.zeros(2, 3, 4, 4))
