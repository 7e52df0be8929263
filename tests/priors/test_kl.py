"""KL divergences against closed forms, and by sampling within their standard error."""

import pytest
import torch
from pyro.distributions import Delta
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)
from torch.distributions.transforms import AffineTransform

from flowprior import FlowPrior, InputError, MixturePrior, StandardNormal


def _normal(*shape: int) -> Normal:
    return Normal(torch.randn(*shape), torch.rand(*shape) + 0.2)


@pytest.mark.parametrize("event", [(4,), (2, 3)], ids=str)
def test_standard_normal_is_exact_for_factorized_posteriors(event):
    q = _normal(5, *event)
    expected = kl_divergence(q, Normal(0.0, 1.0)).flatten(1).sum(1)
    prior = StandardNormal(event)
    for posterior in (q, Independent(q, 1), Independent(q, len(event))):
        torch.testing.assert_close(prior.kl(posterior), expected)
        torch.testing.assert_close(prior.kl(posterior, z=torch.zeros(5, *event)), expected)
        torch.testing.assert_close(kl_divergence(posterior, prior()), expected)


def test_standard_normal_is_exact_for_full_covariance():
    factor = torch.randn(5, 4, 4).tril(-1) + torch.diag_embed(torch.rand(5, 4) + 0.2)
    q = MultivariateNormal(torch.randn(5, 4), scale_tril=factor)
    expected = kl_divergence(q, MultivariateNormal(torch.zeros(4), torch.eye(4)))
    torch.testing.assert_close(StandardNormal(4).kl(q), expected)
    torch.testing.assert_close(kl_divergence(q, StandardNormal(4)()), expected)


def _within_standard_error(estimates: torch.Tensor, exact: torch.Tensor, errors: float = 4.0) -> None:
    error = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) - exact).abs() < errors * error).all()
    assert (error < 0.05 * exact).all()  # or the comparison would say nothing


def test_estimates_for_a_flow_average_to_the_closed_form():
    flow = FlowPrior(3, bijector=AffineTransform(1.0, 2.0))  # p = N(1, 2² I)
    q = Independent(_normal(2, 3), 1)
    exact = kl_divergence(q, Independent(Normal(torch.ones(3), 2 * torch.ones(3)), 1).expand([2]))
    _within_standard_error(flow.kl(q.expand((20_000, 2))), exact)
    _within_standard_error(flow.kl(q, z=q.rsample((20_000,))), exact)
    torch.manual_seed(1)
    _within_standard_error(kl_divergence(q.expand((20_000, 2)), flow()), exact)
    estimates = torch.stack([flow.kl(q, samples=64) for _ in range(300)])
    _within_standard_error(estimates, exact)
    single = flow.kl(q.expand((20_000, 2))).std(0)
    torch.testing.assert_close(estimates.std(0), single / 64**0.5, rtol=0.2, atol=0.0)


def test_the_divergence_of_torch_costs_what_kl_costs(monkeypatch):
    flow = FlowPrior(3, transforms=2, context_features=2)
    q, context = Independent(_normal(5, 3), 1), torch.randn(5, 2)
    rows = []
    of_rows = flow._log_prob
    monkeypatch.setattr(flow, "_log_prob", lambda z, seen: rows.append(len(z)) or of_rows(z, seen))
    torch.manual_seed(1)
    expected = flow.kl(q, context=context)
    torch.manual_seed(1)
    assert torch.equal(kl_divergence(q, flow(context)), expected)
    assert rows == [5, 5]


def test_the_reverse_divergence_averages_to_the_closed_form():
    flow = FlowPrior(3, bijector=AffineTransform(1.0, 2.0))  # p = N(1, 2² I)
    q = _normal(2, 3)
    p = Independent(Normal(torch.ones(3), 2 * torch.ones(3)), 1).expand([2])
    exact = kl_divergence(p, Independent(q, 1))
    for posterior in (q.expand((20_000, 2, 3)), Independent(q, 1).expand((20_000, 2))):
        _within_standard_error(kl_divergence(flow(), posterior), exact)
    _within_standard_error(kl_divergence(flow().expand((20_000, 2)), q), exact)
    other = FlowPrior(3, bijector=AffineTransform(0.0, 2.0))
    between = kl_divergence(flow().expand((20_000, 1)), other())  # two priors: ½ Σ (1 / 2)²
    _within_standard_error(between, torch.tensor([3 / 8]), errors=4.5)


def test_the_gradient_of_the_reverse_divergence_is_that_of_the_path():
    flow = FlowPrior(2, transforms=2, hidden_features=(8,))
    scale = torch.ones(2, requires_grad=True)
    kl_divergence(flow().expand((50,)), Normal(torch.zeros(2), scale)).mean().backward()
    assert scale.grad is not None
    assert all(parameter.grad is not None for parameter in flow.parameters())
    with pytest.raises(InputError, match="no reparameterized draws"):
        kl_divergence(MixturePrior(2, components=2)(), Normal(torch.zeros(2), scale))
    with torch.no_grad():
        assert kl_divergence(MixturePrior(2, components=2)(), Normal(torch.zeros(2), scale)).shape == ()


def test_posteriors_without_a_closed_form_are_sampled():
    q = LowRankMultivariateNormal(torch.randn(3), torch.randn(3, 1), torch.rand(3) + 0.5)
    exact = kl_divergence(q, MultivariateNormal(torch.zeros(3), torch.eye(3)))
    _within_standard_error(StandardNormal(3).kl(q.expand((20_000,))), exact)


def test_kl_uses_the_draws_it_is_given(case):
    prior, context = case.build(), case.context(6)
    q = Independent(Normal(torch.zeros(6, 4, dtype=torch.float64), 1.5), 1)
    z = q.sample()
    rows, seen, _ = prior._enter("z", z, context)
    if prior._exact_kl(q) is None and prior._conditional_kl(q.base_dist, rows, seen) is None:
        torch.testing.assert_close(prior.kl(q, z, context), q.log_prob(z) - prior.log_prob(z, context))
    assert prior.kl(q, context=context).shape == (6,)
    assert kl_divergence(q, prior(context)).shape == (6,)
    assert prior.kl(q, q.sample((3,)), context).shape == (3, 6)


def test_gradient_reaches_the_posterior_and_the_prior():
    flow = FlowPrior(2, bijector=AffineTransform(1.0, 2.0), base=MixturePrior(2, components=3))
    loc, scale = torch.zeros(20_000, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    flow.kl(Normal(loc, scale)).mean().backward()
    assert loc.grad is not None
    assert scale.grad is not None
    assert all(parameter.grad is not None for parameter in flow.parameters())
    # E_q[log q] = -Σ log s + const: with p replaced by a Gaussian the gradient for the scale is -1/s + s/4
    flow, scale = FlowPrior(2, bijector=AffineTransform(1.0, 2.0)), torch.ones(2, requires_grad=True)
    flow.kl(Normal(torch.zeros(50_000, 2), scale)).mean().backward()
    torch.testing.assert_close(scale.grad, torch.full((2,), -0.75), rtol=0, atol=0.02)


def test_a_point_mass_drops_its_entropy(case):
    prior, context = case.build(), case.context(6)
    point = torch.randn(6, 4, dtype=torch.float64)
    expected = -prior.log_prob(point, context)
    for q in (Delta(point, event_dim=1), Independent(Delta(point), 1)):
        torch.testing.assert_close(prior.kl(q, context=context), expected)
        torch.testing.assert_close(prior.kl(q, point, context), expected)
        torch.testing.assert_close(kl_divergence(q, prior(context)), expected)


def test_half_precision_posteriors_are_read_in_full():
    q = Normal(torch.randn(64, 8).bfloat16(), (torch.rand(64, 8) + 0.2).bfloat16())
    full = Normal(q.loc.float(), q.scale.float())
    flow, z = FlowPrior(8, transforms=2), torch.randn(64, 8)
    assert torch.equal(flow.kl(q, z), flow.kl(full, z))
    assert torch.equal(StandardNormal(8).kl(q), StandardNormal(8).kl(full))


def test_posteriors_that_do_not_fit_are_named():
    flow = FlowPrior(4, transforms=1)
    with pytest.raises(InputError, match=r"`q` has batch shape \(5, 3\)"):
        flow.kl(Normal(torch.zeros(5, 3), 1.0))
    with pytest.raises(InputError, match=r"`q` has batch shape \(\)"):
        flow.kl(Normal(0.0, 1.0))
    with pytest.raises(InputError, match=r"`z` has shape \(5, 3\)"):
        flow.kl(Normal(torch.zeros(5, 4), 1.0), z=torch.zeros(5, 3))
    with pytest.raises(InputError, match="must broadcast"):
        flow.kl(Normal(torch.zeros(5, 4), 1.0), z=torch.zeros(6, 4))
    with pytest.raises(InputError, match="unconditional"):
        StandardNormal(4).kl(Normal(torch.zeros(5, 4), 1.0), context=torch.zeros(5, 2))
    mixture = MixturePrior(4, components=3)
    with pytest.raises(InputError, match="no reparameterized draws"):
        flow.kl(mixture())
    with torch.no_grad():  # the value alone is right
        estimate = mixture.kl(mixture().expand((2_000,)))
        torch.testing.assert_close(estimate, torch.zeros(2_000))


def test_standard_normal_has_no_second_argument():
    with pytest.raises(TypeError):
        StandardNormal(3, 3)


def test_a_tensor_for_q_is_refused_in_a_sentence():
    with pytest.raises(InputError, match=r"`q` \(a Tensor\) must be a distribution"):
        FlowPrior(3).kl(torch.zeros(2, 3))
