"""Aggregate posterior, KL, leakage and importance sampling against closed forms and independent twins."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from flowprior.errors import InputError
from flowprior.metrics import (
    AggregatePosterior,
    aggregate,
    density_skl,
    importance_nll,
    leakage,
    neighbor_skl,
    normal_thresholds,
)


def mixture(n=40, features=3):
    torch.manual_seed(0)
    loc, scale = torch.randn(2, n, features)
    return loc * 3 + 100, scale.exp() / 10


def twin(loc, scale):
    each = Independent(Normal(loc.double(), scale.double()), 1)
    return MixtureSameFamily(Categorical(logits=torch.zeros(len(loc)).double()), each)


@pytest.mark.parametrize("values", [1, 100, 2**21])
def test_the_mixture_is_torchs_whatever_the_blocks(values, monkeypatch):
    monkeypatch.setattr(aggregate, "_CHUNK_VALUES", values)
    loc, scale = mixture()
    z = torch.cat([loc + scale, 100 + 10 * torch.randn(23, 3)]).reshape(3, 21, 3)
    found = AggregatePosterior(loc, scale).log_prob(z)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, twin(loc, scale).log_prob(z.double()), rtol=1e-9, atol=1e-6)


def test_narrow_posteriors_far_from_zero_keep_their_digits():
    loc, scale = mixture()
    scale = torch.full_like(scale, 1e-4)
    z = loc + scale * torch.randn_like(scale)
    expected = twin(loc, scale).log_prob(z.double())
    torch.testing.assert_close(AggregatePosterior(loc, scale).log_prob(z), expected, rtol=0, atol=1e-4)


def test_blocks_bound_the_largest_matrix(monkeypatch):
    """2,000 x 3,000 evaluations in blocks of at most 10,000 values."""
    monkeypatch.setattr(aggregate, "_CHUNK_VALUES", 10_000)
    largest = 0
    plain = torch.Tensor.logsumexp

    def noting(self, *arguments, **named):
        nonlocal largest
        largest = max(largest, self.numel())
        return plain(self, *arguments, **named)

    monkeypatch.setattr(torch.Tensor, "logsumexp", noting)
    torch.manual_seed(0)
    loc = torch.randn(3000, 2)
    AggregatePosterior(loc, torch.ones_like(loc)).log_prob(torch.randn(2000, 2))
    assert 0 < largest <= 10_000


def test_draws_of_the_mixture_have_its_moments():
    loc, scale = mixture()
    torch.manual_seed(1)
    draws = AggregatePosterior(loc, scale).sample(40_000)
    torch.testing.assert_close(draws.mean(0), loc.mean(0), rtol=0, atol=0.1)
    variance = loc.var(0, correction=0) + scale.square().mean(0)
    torch.testing.assert_close(draws.var(0), variance, rtol=0.05, atol=0)


def gaussians():
    p = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    covariance = torch.tensor([[1.5, 0.6], [0.6, 0.8]]).double()
    q = MultivariateNormal(torch.tensor([0.5, -0.3]).double(), covariance)
    kl = torch.distributions.kl_divergence
    return p, q, kl(p, q).item(), kl(q, p).item()


def test_both_estimators_meet_the_kl_of_gaussians():
    p, q, forward, backward = gaussians()
    torch.manual_seed(0)
    x, y = p.sample((5000,)), q.sample((5000,))
    exact = density_skl(x, y, p.log_prob, q.log_prob)
    assert abs(exact.value - forward - backward) < 4 * exact.standard_error < 0.2
    assert exact.p_to_q == pytest.approx(forward, abs=4 * exact.standard_error)
    assert exact.q_to_p == pytest.approx(backward, abs=4 * exact.standard_error)
    for k in (1, 5):  # in the tails of p, where q is thin, neighbors say too little
        near = neighbor_skl(x, y, k)
        assert near.p_to_q == pytest.approx(forward, abs=0.2)
        assert near.q_to_p == pytest.approx(backward, abs=0.1)
        assert near.value == near.p_to_q + near.q_to_p
    assert near.samples == 5000
    assert abs(neighbor_skl(x, p.sample((5000,))).value) < 0.15


def test_neighbor_kl_is_the_formulas_double_loop():
    torch.manual_seed(0)
    x, y, k = torch.randn(11, 2), 1 + torch.randn(9, 2), 2

    def one(a, b):
        total = 0.0
        for i, row in enumerate(a.tolist()):
            near = sorted(math.dist(row, other) for j, other in enumerate(a.tolist()) if j != i)
            far = sorted(math.dist(row, other) for other in b.tolist())
            total += math.log(far[k - 1] / near[k - 1])
        return 2 * total / len(a) + math.log(len(b) / (len(a) - 1))

    found = neighbor_skl(x, y, k)
    assert found.p_to_q == pytest.approx(one(x, y), abs=1e-6)
    assert found.q_to_p == pytest.approx(one(y, x), abs=1e-6)


def test_leakage_is_equation_6():
    p, q, _, backward = gaussians()
    torch.manual_seed(0)
    z = q.sample((20_000,))
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    thresholds = (-1e9, -6.0, -4.0, 1e9)
    curve = leakage(log_q, log_p, thresholds)
    for tau, score, share in zip(thresholds, curve.scores, curve.shares, strict=True):
        rows = [(a, b) for a, b in zip(log_q.tolist(), log_p.tolist(), strict=True) if b < tau]
        assert score == pytest.approx(sum(a - b for a, b in rows) / len(z), abs=1e-9)
        assert share == len(rows) / len(z)
    assert curve.scores[0] == 0
    assert abs(curve.scores[-1] - backward) < 4 * curve.standard_errors[-1]  # τ = ∞ is KL(q ‖ p)
    assert curve.conditional_means[0] == 0
    for score, share, mean in zip(curve.scores, curve.shares, curve.conditional_means, strict=True):
        assert score == pytest.approx(share * mean, abs=1e-9)
    base = log_p - torch.linspace(-1, 1, len(z)).double()  # the draws that leak are those of low base density
    for printed in (False, True):
        found = leakage(log_q, log_p, thresholds, base, as_printed=printed)
        expected = torch.where(base < -4.0, log_q - (base if printed else log_p), 0.0).mean()
        assert found.scores[2] == pytest.approx(expected.item(), abs=1e-9)
        assert found.shares[2] == (base < -4.0).double().mean().item()


@pytest.mark.parametrize("features", [1, 2, 10])
def test_thresholds_leave_their_share_of_a_normals_draws(features):
    torch.manual_seed(0)
    log_p = Normal(0.0, 1.0).log_prob(torch.randn(50_000, features)).sum(1)
    for share, tau in zip((0.1, 0.01), normal_thresholds(features, (0.1, 0.01)), strict=True):
        assert (log_p < tau).float().mean().item() == pytest.approx(share, rel=0.15)


def linear_gaussian():
    """x = Az + noise, with a proposal wider than and beside the true posterior; and log p(x) exactly."""
    torch.manual_seed(0)
    matrix, variance = torch.randn(5, 2).double(), 0.5
    evidence = MultivariateNormal(
        torch.zeros(5).double(), matrix @ matrix.T + variance * torch.eye(5).double()
    )
    x = evidence.sample((12,))
    precision = torch.eye(2).double() + matrix.T @ matrix / variance
    mean = x @ matrix @ precision.inverse() / variance + 0.1
    q = MultivariateNormal(mean, 1.5 * precision.inverse())
    prior = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())

    def log_weight(rows, draws):
        chosen = torch.stack([(x == row).all(1).nonzero()[0, 0] for row in rows])
        proposal = MultivariateNormal(q.mean[chosen], 1.5 * precision.inverse())
        z = proposal.sample((draws,))
        likelihood = Normal(z @ matrix.T, math.sqrt(variance)).log_prob(rows).sum(-1)
        return likelihood + prior.log_prob(z) - proposal.log_prob(z)

    return x, log_weight, -evidence.log_prob(x).mean().item()


def test_importance_sampling_meets_the_evidence_within_its_error():
    x, log_weight, truth = linear_gaussian()
    torch.manual_seed(1)
    found = importance_nll(log_weight, x, samples=2000, rows=3000)
    assert 0 < found.standard_error < 0.01
    assert abs(found.mean - truth) < 4 * found.standard_error
    assert (found.examples, found.samples) == (12, 2000)
    assert 200 < found.effective_samples < 2000


def test_the_standard_error_is_that_of_repetitions():
    x, log_weight, _ = linear_gaussian()
    torch.manual_seed(2)
    found = [importance_nll(log_weight, x[:3], samples=200) for _ in range(60)]
    spread = torch.tensor([each.mean for each in found]).std().item()
    error = sum(each.standard_error for each in found) / len(found)
    assert error == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("rows", [1, 7, 64, 10_000])
def test_chunks_change_nothing(rows):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    context = x[:, :1] + 1
    calls = []

    def log_weight(some, draws, given):
        calls.append(some.shape[0] * draws)
        torch.testing.assert_close(given, some[:, :1] + 1)
        return some.sum(1).expand(draws, -1)  # the same for each draw

    found = importance_nll(log_weight, x, context, samples=20, rows=rows)
    assert found.mean == pytest.approx(-x.sum(1).mean().item(), abs=1e-6)
    assert found.standard_error == pytest.approx(0, abs=1e-6)
    assert found.effective_samples == pytest.approx(20)
    assert sum(calls) == 100
    assert max(calls) <= max(rows, 1)


def test_bad_input_is_named():
    loc, scale = mixture()
    with pytest.raises(InputError, match="`loc` has shape"):
        AggregatePosterior(loc, scale[:-1])
    with pytest.raises(InputError, match="`scale` positive"):
        AggregatePosterior(loc, scale * 0)
    with pytest.raises(InputError, match="event shape"):
        AggregatePosterior(loc, scale).log_prob(torch.zeros(4, 2))
    with pytest.raises(InputError, match="40 draws coincide"):
        neighbor_skl(loc, loc.flip(0))
    with pytest.raises(InputError, match="`k` \\(=0\\)"):
        neighbor_skl(loc, loc + 1, 0)
    with pytest.raises(InputError, match="holds NaN or infinity in 80 of 80 rows"):
        density_skl(loc, loc, lambda z: z.sum(1) * math.inf, lambda z: z.sum(1))
    with pytest.raises(InputError, match="N > 1"):
        density_skl(loc[:1], loc, torch.sum, torch.sum)
    with pytest.raises(InputError, match=r"\(draws > 1,\)"):
        leakage(torch.zeros(3), torch.zeros(2), [0.0])
    with pytest.raises(InputError, match="`log_prior` holds NaN"):
        leakage(torch.zeros(2), torch.tensor([0.0, math.nan]), [0.0])
    with pytest.raises(InputError, match="`shares`"):
        normal_thresholds(2, (0.0,))
    with pytest.raises(InputError, match="`samples` \\(=1\\)"):
        importance_nll(lambda x, draws: x, loc, samples=1)
    with pytest.raises(InputError, match=r"must give \(3, 40\)"):
        importance_nll(lambda x, draws: x, loc, samples=3)
    with pytest.raises(InputError, match="`log_weight` holds NaN or infinity in 40 of 40"):
        importance_nll(lambda x, draws: torch.full((draws, len(x)), math.nan), loc, samples=3)
