"""The two-stage VAE's second stage: its bound against quadrature, its draws, its units."""

import math

import pytest
import torch
from torch.distributions import Normal

from flowprior.errors import InputError
from flowprior.objectives import LatentNLL
from flowprior.priors import FlowPrior, Prior, VariationalPrior


def one_dimensional() -> VariationalPrior:
    torch.manual_seed(1)
    prior = VariationalPrior(1, hidden_features=(8, 8)).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    prior.shift.fill_(0.7)
    prior.scale.fill_(1.6)
    return prior


def exact(prior: VariationalPrior, z: torch.Tensor) -> torch.Tensor:
    """log ∫ N(z; shift + scale f(u), (scale γ)²) N(u; 0, 1) du on a grid of u."""
    u = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    with torch.no_grad():
        mean = prior.shift + prior.scale * prior.decoder(u[:, None]).squeeze(1)
        each = Normal(mean, prior.scale * prior.log_gamma.exp()).log_prob(z[:, None]) + Normal(0, 1).log_prob(
            u
        )
    return each.logsumexp(1) + math.log(u[1] - u[0])


def test_the_bound_lies_below_the_density_by_the_posterior_gap():
    prior, z = one_dimensional(), torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)
    with torch.no_grad():
        bounds = prior.log_bound(z.expand(20_000, 3, 1)).mean(0)
        mean, raw = prior.encoder((z - prior.shift) / prior.scale).chunk(2, 1)
        q = Normal(mean, torch.nn.functional.softplus(raw) + 1e-6)
        u = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
        decoded = prior.shift + prior.scale * prior.decoder(u[:, None]).squeeze(1)
        joint = Normal(decoded, prior.scale * prior.log_gamma.exp()).log_prob(z) + Normal(0, 1).log_prob(u)
        gap = (q.log_prob(u).exp() * (q.log_prob(u) - joint + exact(prior, z.squeeze(1))[:, None])).sum(1)
    torch.testing.assert_close(exact(prior, z.squeeze(1)) - bounds, gap * (u[1] - u[0]), atol=0.03, rtol=0.02)


def test_draws_follow_the_integral():
    prior = one_dimensional()
    draws = prior.sample(40_000).squeeze(1).sort().values
    grid = torch.linspace(draws[0] - 2, draws[-1] + 2, 801, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(exact(prior, grid).exp(), grid)
    empirical = torch.searchsorted(draws, grid[1:]) / len(draws)
    assert (cdf - empirical).abs().max() < 0.01


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_after_its_start_the_unit_of_the_codes_costs_only_its_log_determinant(scale):
    torch.manual_seed(0)
    codes = torch.randn(200, 3, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1])
    codes[:, 1] += 4
    torch.manual_seed(2)
    prior = VariationalPrior(3, hidden_features=(8,)).double()
    bounds = []
    for rows in (codes, codes * scale):
        prior.initialize(rows)
        torch.manual_seed(3)
        bounds.append(prior.log_bound(rows))
    torch.testing.assert_close(bounds[1], bounds[0] - 3 * math.log(scale))


def test_it_is_trained_by_the_same_objective_and_has_no_density():
    prior = VariationalPrior(2, hidden_features=(8,))
    batch = {"z": torch.randn(16, 2)}
    losses = LatentNLL(prior).losses("model", batch, 0)
    losses["loss"].backward()
    assert all(p.grad is not None for p in prior.parameters())
    with pytest.raises(InputError, match="no density"):
        prior.log_prob(batch["z"])


def test_a_density_is_its_own_bound():
    prior, z = FlowPrior(3, transforms=2), torch.randn(4, 3)
    torch.testing.assert_close(prior.log_bound(z), prior.log_prob(z))


def test_it_is_saved(tmp_path):
    prior = one_dimensional()
    prior.save_pretrained(tmp_path)
    loaded = Prior.from_pretrained(tmp_path)
    torch.manual_seed(0)
    drawn = prior.sample(3)
    torch.manual_seed(0)
    torch.testing.assert_close(loaded.sample(3), drawn)
