"""What every prior must do, over every way to build one."""

import copy
import inspect
import pickle
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor

import flowprior
from flowprior.priors import InvertiblePrior, Prior, VampPrior

BATCHES = [(), (3,), (2, 3)]
SAMPLES = [(), (4,), (2, 5)]


def test_every_public_prior_is_in_the_battery(registry):
    public = {
        value
        for module in (flowprior, flowprior.priors)
        for value in (getattr(module, name) for name in module.__all__)
        if isinstance(value, type) and issubclass(value, Prior) and not inspect.isabstract(value)
    }
    apart = {VampPrior}  # it is nothing without the encoder of its autoencoder: test_vamp.py
    missing = public - apart - {type(case.build()) for case in registry}
    assert not missing, f"add a case to tests/priors/conftest.py for {missing}"


def test_density_is_normalized_and_samples_follow_it(case):
    """In 2-D: the density sums to 1 on a grid, and counts of samples in its cells pass a chi-square test."""
    prior, context, cells, fine, draws = case.build(2), case.context(), 16, 30, 20_000
    z = prior.sample(draws, context)  # (N, 2)
    low, high = z.min(0).values, z.max(0).values
    low, high = low - 0.4 * (high - low), high + 0.4 * (high - low)
    steps = (torch.arange(cells * fine) + 0.5) / (cells * fine)
    axes = [low[i] + (high[i] - low[i]) * steps for i in (0, 1)]
    grid = torch.cartesian_prod(*axes)
    with torch.no_grad():
        density = prior.log_prob(grid, context).exp() * (high - low).prod() / (cells * fine) ** 2
    assert density.sum().item() == pytest.approx(1, abs=1e-3)
    expected = density.reshape(cells, fine, cells, fine).sum((1, 3)).flatten() * draws
    place = ((z - low) / (high - low) * cells).long()  # (N, 2)
    counts = torch.bincount(place[:, 0] * cells + place[:, 1], minlength=cells**2).double()
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum().reshape(1)])
    wanted = torch.cat([expected[common], expected[~common].sum().reshape(1)])
    assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3


def test_density_is_normalized_in_one_dimension(case):
    prior, context = case.build(1), case.context()
    z = prior.sample(5_000, context)
    low, high = z.min().item(), z.max().item()
    grid = torch.linspace(2 * low - high, 2 * high - low, 40_001, dtype=torch.float64)
    with torch.no_grad():
        density = prior.log_prob(grid[:, None], context).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-3)
    cdf = torch.cumulative_trapezoid(density, grid).numpy()
    pvalue = stats.kstest(z.flatten().numpy(), lambda x: _interpolate(x, grid[1:], cdf)).pvalue
    assert pvalue > 1e-3


def _interpolate(x, grid, cdf):
    import numpy as np

    return np.interp(x, grid.numpy(), cdf)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("event", [(4,), (2, 3)], ids=str)
def test_shapes(case, batch, event):
    prior, context = case.build(event), case.context(*batch)
    for shape in SAMPLES:
        _check_shapes(case, prior, context, batch, shape, event)


def _check_shapes(case, prior, context, batch, shape, event):
    leading = shape + batch if case.conditional else shape
    z = prior.sample(shape, context)
    assert z.shape == leading + event
    assert z.dtype == torch.float64
    assert not z.requires_grad
    assert prior.log_prob(z, context).shape == leading
    p = prior(context)
    assert (p.batch_shape, p.event_shape) == (torch.Size(leading[len(shape) :]), torch.Size(event))
    assert p.sample(shape).shape == leading + event
    assert torch.equal(p.log_prob(z), prior.log_prob(z, context))
    if isinstance(prior, InvertiblePrior):
        z0, logabsdet = prior.to_base(z, context)
        assert (z0.shape, logabsdet.shape) == (leading + event, leading)
        back, inverse = prior.from_base(z0, context)
        torch.testing.assert_close(back, z, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(inverse, -logabsdet, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_expand(case, batch):
    prior, context = case.build(), case.context(*batch)
    wide = (5, 2, 3)
    p = prior(context).expand(wide)
    z = p.sample((7,))
    assert z.shape == (7, *wide, 4)
    assert len(z.reshape(-1, 4).unique(dim=0)) == 7 * 30  # draws are independent across the batch
    assert p.expand(wide).batch_shape == wide
    one = z[0, 0, 0, 0]
    log_prob = p.log_prob(one)
    assert log_prob.shape == wide
    torch.testing.assert_close(log_prob, prior(context).log_prob(one.expand(wide + (4,))))


def test_gradient_reaches_every_parameter(case):
    prior = case.build()
    context, z = case.context(64), torch.randn(64, 4, dtype=torch.float64, requires_grad=True)
    prior.log_prob(z, context).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().min() > 0
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_rsample_has_the_gradient_of_its_path_or_says_that_it_has_none(case):
    prior, context = case.build(), case.context(8)
    p = prior(context)
    assert p.has_rsample == prior.has_rsample
    if not prior.has_rsample:
        with pytest.raises(flowprior.InputError, match="has_rsample"):
            p.rsample()
        return
    draws = p.rsample((16,))
    assert draws.requires_grad == any(True for _ in prior.parameters())
    if draws.requires_grad:
        draws.square().sum().backward()
        assert all(parameter.grad is not None for parameter in prior.parameters())


def _same(one: Prior, other: Prior, z: Tensor, context: Tensor | None) -> None:
    assert torch.equal(one.log_prob(z, context), other.log_prob(z, context))
    torch.manual_seed(1)
    expected = one.sample(6, context)
    torch.manual_seed(1)
    assert torch.equal(other.sample(6, context), expected)


def test_copies_are_exact_and_independent(case):
    prior, context = case.build(), case.context(10)
    z = prior.sample(1, context)[0] if case.conditional else prior.sample(10)
    prior.log_prob(z, context)  # a used prior copies as well as a fresh one
    prior(context).sample()
    copies = [copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))]
    for other in copies:
        _same(prior, other, z, context)
    before = prior.log_prob(z, context)
    with torch.no_grad():
        for parameter in copies[0].parameters():
            parameter.add_(1.0)
    assert torch.equal(prior.log_prob(z, context), before)
    assert torch.equal(copies[1].log_prob(z, context), before)
    distribution = copy.deepcopy(prior(context))
    assert torch.equal(distribution.log_prob(z), before)


def test_state_dict_carries_all_of_it(case):
    prior, context = case.build(), case.context(10)
    fresh = case.make(4).double()  # parameters differ, and there is no whitening yet
    z = prior.sample(1, context)[0] if case.conditional else prior.sample(10)
    fresh.load_state_dict(prior.state_dict())
    _same(prior, fresh, z, context)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_save_and_load_are_exact(case, dtype, tmp_path: Path):
    prior, context = case.build().to(dtype), case.context(10)
    context = None if context is None else context.to(dtype)
    z = prior.sample(1, context)[0] if case.conditional else prior.sample(10)
    prior.save_pretrained(tmp_path / "a" / "prior")
    own = case.make(4).bijector.transform if case.name == "own-nflows-transform" else None
    network = case.make(4).embedding if case.name == "embedded" else None
    loaded = Prior.from_pretrained(tmp_path / "a" / "prior", bijector=own, embedding=network)
    assert type(loaded) is type(prior)
    assert loaded.dtype == dtype
    _same(prior, loaded, z, context)
    assert sorted(path.name for path in (tmp_path / "a" / "prior").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_autocast_changes_nothing(case):
    prior, context = case.build().float(), case.context(10)
    context = None if context is None else context.float()
    z = torch.randn(10, 4)
    q = torch.distributions.Normal(torch.zeros(10, 4), torch.ones(10, 4))
    torch.manual_seed(1)
    expected = prior.log_prob(z, context), prior.sample(5, context), prior.kl(q, z, context)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        got = prior.log_prob(z, context), prior.sample(5, context), prior.kl(q, z, context)
        low = prior.log_prob(z.bfloat16(), context)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    assert torch.equal(low, prior.log_prob(z.bfloat16().float(), context))


def test_nan_flows_through_to_the_loop(case):
    prior, context = case.build(), case.context(2)
    z = torch.zeros(2, 4, dtype=torch.float64)
    z[1] = torch.nan
    log_prob = prior.log_prob(z, context)
    assert log_prob[0].isfinite()
    assert log_prob[1].isnan()
    q = torch.distributions.Normal(z, torch.ones_like(z), validate_args=False)
    assert prior.kl(q, context=context)[1].isnan()
