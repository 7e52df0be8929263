"""The caller's generator, truncation, infinity, and empty batches, for every prior."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from flowprior import EmbeddedPrior, FlowPrior, ImplicitPrior, InputError, MixturePrior, StandardNormal
from flowprior.bijectors.spline import rational_quadratic_spline


def test_a_generator_decides_every_draw_and_nothing_else_is_touched(registry):
    for case in registry:
        prior, context = case.build(2), case.context(3)
        before = torch.get_rng_state()
        first, again, other = (
            prior.sample(4, context, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first, again), case.name
        assert not torch.equal(first, other), case.name
        assert torch.equal(torch.get_rng_state(), before), case.name
        torch.manual_seed(1)
        assert torch.equal(prior.sample(4, context), first), case.name
        if prior.has_density:
            kept = [
                prior.sample(4, context, truncate=0.5, generator=torch.Generator().manual_seed(1))
                for _ in range(2)
            ]
            assert torch.equal(*kept), case.name
            assert kept[0].shape == first.shape


def test_truncation_keeps_the_most_probable_share():
    """log p of N(0, I) in two dimensions falls with r², which is exponential: r² < -2 log(1 - Q)."""
    for temperature in (1.0, 0.5):
        z = StandardNormal(2).sample(5_000, truncate=0.8, temperature=temperature)
        radius = z.square().sum(-1).amax() / temperature**2
        assert radius.item() == pytest.approx(-2 * torch.log(torch.tensor(0.2)).item(), rel=0.15)
        assert z.std().item() < 0.8 * temperature


def test_truncation_is_within_each_context():
    prior = FlowPrior(2, transforms=2, hidden_features=(8,), context_features=1)
    with torch.no_grad():
        prior.base_mean.weight.fill_(20.0)
    context = torch.tensor([[-1.0], [0.0], [1.0]])
    z = prior.sample(2_000, context, truncate=0.5)
    assert z.shape == (2_000, 3, 2)
    every = prior.log_prob(prior.sample(4_000, context), context)
    low = prior.log_prob(z, context).amin(0)
    share = (every > low).float().mean(0)
    torch.testing.assert_close(share, torch.full((3,), 0.5), rtol=0, atol=0.08)


def test_truncation_that_cannot_be_had_says_so():
    with pytest.raises(InputError, match=r"`truncate` .* needs a density, and ImplicitPrior has none"):
        ImplicitPrior(2).sample(1, truncate=0.9)
    for wrong in (0.0, 0.001, 1.1, float("nan"), "0.9"):
        with pytest.raises(InputError, match="`truncate`"):
            StandardNormal(2).sample(1, truncate=wrong)

    class Flat(StandardNormal):
        def _log_prob(self, z, context):
            return z.new_zeros(len(z))

    with pytest.raises(InputError, match=r"of .* draws only 0 of the 5 wanted"):
        Flat(2).sample(5, truncate=0.9)
    assert StandardNormal(2).sample(0, truncate=0.9).shape == (0, 2)


def test_the_density_of_infinity_is_zero_in_that_row_alone(case):
    prior, context = case.build(), case.context(4)
    z = torch.randn(4, 4, dtype=torch.float64)
    expected = prior.log_prob(z, context).detach()
    bad = z.clone()
    bad[1, 2], bad[3] = torch.inf, -torch.inf
    log_prob = prior.log_prob(bad.requires_grad_(), context)
    assert (log_prob[[1, 3]] == -torch.inf).all()
    torch.testing.assert_close(log_prob[[0, 2]].detach(), expected[[0, 2]])
    log_prob[[0, 2]].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in prior.parameters())
    assert bad.grad.isfinite().all()


@pytest.mark.parametrize("recipe", ["glf", "actnorm", "masked", "spline", "spatial"])
@pytest.mark.parametrize("backend", ["nflows", "pyro"])
def test_no_rows_backpropagate(recipe, backend):
    if (recipe, backend) == ("spline", "pyro"):
        pytest.skip("Pyro has no spline recipe")
    shape = (2, 2, 2) if recipe == "spatial" else (4,)
    prior = FlowPrior(shape, recipe=recipe, backend=backend, transforms=2, hidden_features=(8,))
    z = torch.zeros(0, *shape, requires_grad=True)
    prior.log_prob(z).sum().backward()
    assert z.grad.shape == z.shape
    assert all(each.grad is not None and (each.grad == 0).all() for each in prior.bijector.parameters())


def test_an_embedding_is_computed_once_a_divergence():
    calls = []
    net = nn.Linear(3, 5)
    net.register_forward_hook(lambda *_: calls.append(1))
    prior = EmbeddedPrior(FlowPrior(4, transforms=2, context_features=5), net, 3)
    q, context = Normal(torch.zeros(6, 4), 1.0), torch.randn(6, 3)
    for call in (lambda: prior.kl(q, None, context), lambda: prior.kl(q, None, context, samples=7)):
        calls.clear()
        call()
        assert len(calls) == 1


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_the_inverse_of_a_spline_is_never_nan_in_float32(size):
    widths, heights = size * torch.randn(4_000, 8), size * torch.randn(4_000, 8)
    slopes = (size * torch.randn(4_000, 7)).requires_grad_()
    value = torch.cat((torch.linspace(-3, 3, 3_990), torch.tensor([3.0, -3.0, 0.0, 1e30, -1e30] * 2)))
    mapped, log_slope = rational_quadratic_spline(value, widths, heights, slopes, bound=3.0, inverse=True)
    assert mapped.isfinite().all()
    assert log_slope.isfinite().all()
    (mapped.sum() + log_slope.sum()).backward()
    assert slopes.grad.isfinite().all()


def test_a_full_mixture_draws_the_covariance_of_its_component():
    prior = MixturePrior(3, components=2, covariance="full").double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, -1e4]))
        prior.lower.copy_(torch.randn(2, 3, 3))
    z = prior.sample(40_000)
    factor = prior.scale_tril[0]
    torch.testing.assert_close(z.T.cov(), factor @ factor.T, rtol=0.1, atol=0.1)


def test_what_has_no_closed_form_says_so():
    p = StandardNormal(2)()
    for name in ("mean", "mode", "variance", "stddev"):
        with pytest.raises(NotImplementedError, match=f"`{name}` of a StandardNormal has no closed form: "):
            getattr(p, name)
    for call in (p.entropy, p.perplexity, p.enumerate_support, lambda: p.cdf(torch.zeros(2))):
        with pytest.raises(NotImplementedError, match="has no closed form: "):
            call()
