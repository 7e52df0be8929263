"""GaussianPrior: its density and its KL against torch.distributions, its groups against a loop."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from flowprior import InputError, MixturePrior
from flowprior.priors import GaussianPrior
from flowprior.priors.gaussian import apart, together

EVENT, MAPS = (2, 4, 6), (3, 8, 12)


def built(event=EVENT, context=MAPS, hidden=(6, 5), groups=1) -> GaussianPrior:
    prior = GaussianPrior(event, context, hidden_features=hidden, groups=groups).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return prior


def test_it_starts_as_the_standard_normal():
    for prior in (GaussianPrior(5, 3), GaussianPrior(EVENT, MAPS, groups=4)):
        z, context = torch.randn(4, *prior.event_shape), torch.randn(4, *prior.context_shape)
        expected = Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
        torch.testing.assert_close(prior.log_prob(z, context), expected)
        assert prior.has_normal_base


@pytest.mark.parametrize(
    ("event", "context"), [(5, 3), ((2, 3), (1, 2, 2)), (EVENT, 4), (EVENT, MAPS)], ids=str
)
def test_one_group_is_a_normal_of_unit_variance(event, context):
    prior = built(event, context)
    c = torch.randn(7, *prior.context_shape).double()
    mean, _ = prior.from_base(torch.zeros(7, *prior.event_shape).double(), c)
    assert mean.std(0).min() > 1e-3  # it does depend on the context
    p = Independent(Normal(mean, 1.0), len(prior.event_shape))
    z = torch.randn_like(mean)
    torch.testing.assert_close(prior.log_prob(z, c), p.log_prob(z))
    q = Independent(Normal(torch.randn_like(mean), torch.rand_like(mean) + 0.1), len(prior.event_shape))
    for given in (None, z):  # exact whatever the draw
        torch.testing.assert_close(prior.kl(q, given, c), kl_divergence(q, p))
    torch.testing.assert_close(kl_divergence(q, prior(c)), kl_divergence(q, p))
    torch.testing.assert_close(prior.kl(q, z.expand(3, *z.shape), c), kl_divergence(q, p).expand(3, 7))


def test_apart_and_together():
    maps = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    parts = apart(maps)
    assert parts[1][1, 2, 1, 2] == maps[1, 2, 2, 5]
    assert parts[2][1, 2, 1, 2] == maps[1, 2, 3, 4]
    assert torch.equal(together(parts), maps)


def test_groups_depend_on_the_groups_before_and_on_no_others():
    prior, c = built(groups=4), torch.randn(MAPS).double()
    z = torch.randn(EVENT).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: prior.to_base(x, c)[0], z)
    for g in range(4):
        for h in range(4):
            rows, columns = divmod(g, 2), divmod(h, 2)
            block = jacobian[:, rows[0] :: 2, rows[1] :: 2, :, columns[0] :: 2, columns[1] :: 2]
            if g == h:
                torch.testing.assert_close(block.reshape(12, 12), torch.eye(12, dtype=torch.float64))
            else:
                assert bool(block.any()) == (h < g)
    z0, logabsdet = prior.to_base(z, c)
    assert logabsdet == 0
    torch.testing.assert_close(prior.from_base(z0, c)[0], z)
    density = Normal(0.0, 1.0).log_prob(z0).sum()
    torch.testing.assert_close(prior.log_prob(z, c), density)


def test_the_kl_in_groups_is_that_of_the_joint_gaussian():
    """Linear means (no hidden layers) make p a Gaussian with a full covariance, whose KL is known."""
    event, context = (1, 2, 4), (2, 2, 4)
    prior = built(event, context, hidden=(), groups=4)
    c = torch.randn(context).double()
    matrix = torch.autograd.functional.jacobian(
        lambda x: prior.from_base(x, c)[0], torch.zeros(event).double()
    )
    matrix = matrix.reshape(8, 8)
    mean = prior.from_base(torch.zeros(event).double(), c)[0].flatten()
    p = MultivariateNormal(mean, matrix @ matrix.T)
    torch.testing.assert_close(
        prior.log_prob(torch.ones(event).double(), c), p.log_prob(torch.ones(8).double())
    )
    loc, scale = torch.randn(event).double(), torch.rand(event).double() + 0.2
    exact = kl_divergence(MultivariateNormal(loc.flatten(), scale.flatten().square().diag()), p)
    q = Independent(Normal(loc, scale), 3).expand((20_000,))
    z = q.rsample()
    estimates = prior.kl(q, z, c)
    plain = q.log_prob(z) - prior.log_prob(z, c)
    error = estimates.std() / math.sqrt(len(z))
    assert (estimates.mean() - exact).abs() < 4 * error
    assert error < 0.02 * exact
    assert estimates.std() < plain.std()  # what the closed form of each group is for
    offset = loc - (z - prior.to_base(z, c)[0])
    written_out = 0.5 * (offset.square() + scale.square() - 1 - scale.square().log())
    torch.testing.assert_close(estimates, written_out.flatten(1).sum(1))


def test_other_posteriors_are_sampled():
    prior, c = built(4, 3), torch.randn(6, 3).double()
    mixture = MixturePrior(4, components=3).double()
    z = mixture.sample(6)
    q = mixture().expand((6,))
    torch.testing.assert_close(prior.kl(q, z, c), q.log_prob(z) - prior.log_prob(z, c))


def test_the_gradient_of_the_kl_reaches_all_that_it_should():
    prior = built(groups=4)
    loc, scale = torch.zeros(3, *EVENT).double().requires_grad_(), torch.ones(3, *EVENT).double()
    c = torch.randn(3, *MAPS).double().requires_grad_()
    prior.kl(Normal(loc, scale.requires_grad_()), context=c).sum().backward()
    for value in (loc, scale, c, *prior.parameters()):
        assert value.grad is not None
        assert value.grad.any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((4, None), "`context_features` .*=None.* StandardNormal"),
        ((4, 3, {"groups": 4}), r"`groups` \(=4\) needs maps"),
        (((2, 4, 5), MAPS, {"groups": 4}), "even sides"),
        (((2, 4, 4), 3, {"groups": 4}), "context maps"),
        ((EVENT, MAPS, {"groups": 2}), r"`groups` \(=2\) must be 1 or 4"),
        ((EVENT, MAPS, {"hidden_features": 64}), r"`hidden_features` \(=64\)"),
        ((EVENT, MAPS, {"hidden_features": (8, 0)}), "`hidden_features`"),
    ],
)
def test_what_does_not_fit_is_named(arguments, words):
    features, context, *settings = arguments
    with pytest.raises(InputError, match=words):
        GaussianPrior(features, context, **(settings[0] if settings else {}))
