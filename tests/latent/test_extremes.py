"""Low- and high-posterior samples, leakage and paths of a decoupled prior."""

import pytest
import torch

from flowprior.errors import InputError
from flowprior.latent import crossing_depth, least_supported, normal_steps
from flowprior.metrics import AggregatePosterior, leakage
from flowprior.priors import DecoupledPrior, FlowPrior, StandardNormal


def decoupled(features: int = 2, **settings: object) -> DecoupledPrior:
    torch.manual_seed(3)
    flow = FlowPrior(features, recipe="masked", transforms=4, hidden_features=(8,), **settings)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return DecoupledPrior(flow)


def ring(n: int = 400) -> AggregatePosterior:
    """Codes on a ring of radius 2: a pocket in the middle, a leak where the prior is thin."""
    angle = torch.linspace(0, 2 * torch.pi, n + 1)[:-1]
    loc = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    loc[0] = torch.tensor([6.0, 0.0])
    return AggregatePosterior(loc, torch.full_like(loc, 0.15))


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_the_least_supported_are_those_of_a_sort(batch_size):
    pool = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    rows = iter(pool)
    z, support = least_supported(
        lambda n: torch.stack([next(rows) for _ in range(n)]), lambda z: z.sum(1), 10, 100, batch_size
    )
    expected = pool.sum(1).sort()
    torch.testing.assert_close(support, expected.values[:10])
    torch.testing.assert_close(z, pool[expected.indices[:10]])


def test_low_posterior_samples_lie_in_the_pocket_and_high_ones_in_the_leak():
    prior, aggregate = DecoupledPrior(StandardNormal(2)), ring()
    torch.manual_seed(0)
    low, log_q = prior.low_posterior(aggregate, 50, 2000)
    inside = low.norm(dim=1) < 1.2  # a few far draws of the prior are as badly supported
    assert inside.float().mean() > 0.8
    assert (StandardNormal(2).sample(2000).norm(dim=1) < 1.2).float().mean() < 0.6
    torch.testing.assert_close(log_q, aggregate.log_prob(low))
    assert (log_q.diff() >= 0).all()
    high, log_p0 = prior.high_posterior(aggregate, 5, 8000)
    assert (high - torch.tensor([6.0, 0.0])).norm(dim=1).max() < 0.8
    torch.testing.assert_close(log_p0, StandardNormal(2).log_prob(high))


def test_of_a_decoupled_prior_samples_pass_g_and_leaks_are_ranked_in_z0():
    prior, aggregate = decoupled(), ring()
    torch.manual_seed(1)
    low, _ = prior.low_posterior(aggregate, 20, 500)
    torch.manual_seed(1)
    z = prior.representation(torch.randn(500, 2))
    expected = z[aggregate.log_prob(z).argsort()[:20]]
    torch.testing.assert_close(low, expected)
    torch.manual_seed(1)
    high, found = prior.high_posterior(aggregate, 20, 500)
    torch.manual_seed(1)
    z = aggregate.sample(500)
    base = StandardNormal(2).log_prob(prior.generation(z))
    torch.testing.assert_close(high, z[base.argsort()[:20]])
    torch.testing.assert_close(found, base.sort().values[:20].detach())


def test_leakage_of_the_prior_is_the_metrics():
    prior, aggregate = decoupled(), ring()
    thresholds = (-8.0, -5.0, 0.0)
    for printed in (False, True):
        torch.manual_seed(2)
        found = prior.leakage(aggregate, thresholds, samples=300, as_printed=printed)
        torch.manual_seed(2)
        z = aggregate.sample(300)
        z0, volume = prior.to_base(z)
        log_p0 = StandardNormal(2).log_prob(z0)
        expected = leakage(aggregate.log_prob(z), log_p0 + volume, thresholds, log_p0, printed)
        assert found.scores == pytest.approx(expected.scores, abs=1e-5)
        assert found.shares == expected.shares
    plain = DecoupledPrior(StandardNormal(2))
    torch.manual_seed(2)
    one = plain.leakage(aggregate, thresholds)
    torch.manual_seed(2)
    assert plain.leakage(aggregate, thresholds, as_printed=True) == one


def test_traversals_move_one_coordinate_of_z0():
    prior = decoupled(3)
    z = prior.sample(4)
    moved = prior.traverse(z, (0, 2), normal_steps(5))
    assert moved.shape == (2, 5, 4, 3)
    z0 = prior.generation(moved)
    torch.testing.assert_close(z0[1, 3, :, 2], normal_steps(5)[3].expand(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(z0[1, 3, :, :2], prior.generation(z)[:, :2], rtol=0, atol=1e-4)
    with pytest.raises(InputError, match=r"base N\(0, I\)"):
        decoupled(2, base="mixture").traverse(torch.zeros(1, 2), (0,), normal_steps(3))


def test_paths_are_straight_in_z0_and_keep_their_ends():
    prior = decoupled()
    start, end = prior.sample(4), prior.sample(4)
    path = prior.path(start, end, 5)
    torch.testing.assert_close(path[[0, -1]], torch.stack([start, end]), rtol=1e-4, atol=1e-4)
    z0 = prior.generation(path)
    torch.testing.assert_close(z0[2], (z0[0] + z0[-1]) / 2, rtol=1e-4, atol=1e-4)
    assert (path[2] - (start + end) / 2).abs().max() > 1e-3  # bent in z
    plain = DecoupledPrior(StandardNormal(2)).path(start, end, 3)
    torch.testing.assert_close(plain[1], (start + end) / 2)


def test_lines_across_the_ring_fall_deepest():
    aggregate = ring(50)
    angles = torch.tensor([0.0, 0.4, 1.6, 3.1416])
    ends = 3 * torch.stack([angles.cos(), angles.sin()], 1)
    starts = ends[:1].expand(4, 2)
    depths = crossing_depth(aggregate.log_prob, starts, ends)
    assert depths[0] == 0
    assert depths.argmin() == 3  # through the middle
    dense = torch.stack([starts + (ends - starts) * step / 2000 for step in range(2001)])
    support = aggregate.log_prob(dense)
    expected = support.amin(0) - torch.minimum(support[0], support[-1])
    torch.testing.assert_close(depths, expected, rtol=0.02, atol=1e-6)
    with pytest.raises(InputError, match="`steps` \\(=2\\)"):
        crossing_depth(aggregate.log_prob, starts, ends, steps=2)


def test_bad_input_is_named():
    prior, aggregate = decoupled(), ring(10)
    with pytest.raises(InputError, match=r"`n` \(=5\) must be an int from 1 to 4"):
        prior.low_posterior(aggregate, 5, 4)
    with pytest.raises(InputError, match="NaN for 3 of 3"):
        least_supported(lambda n: torch.zeros(n, 1), lambda z: z[:, 0] * torch.nan, 1, 3)
    with pytest.raises(InputError, match="`steps` \\(=1\\)"):
        prior.path(torch.zeros(1, 2), torch.ones(1, 2), 1)
    with pytest.raises(InputError, match="`context` is missing"):
        decoupled(2, context_features=3).low_posterior(aggregate, 1, 4)
