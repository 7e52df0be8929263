"""The distribution that a prior returns: in Pyro, with validation, with contexts, in odd shapes."""

import subprocess
import sys

import hypothesis.strategies as st
import pyro
import pytest
import torch
from hypothesis import given, settings
from pyro.infer import SVI, Trace_ELBO
from torch.distributions import Distribution, Normal

from flowprior import FlowPrior, InputError, MixturePrior, Prior, StandardNormal
from flowprior.priors.distribution import PriorDistribution


def _conditional() -> FlowPrior:
    prior = FlowPrior(4, transforms=2, hidden_features=(8,), context_features=3).double()
    with torch.no_grad():
        prior.base_mean.weight.normal_(std=5.0)
    return prior


def test_each_sample_belongs_to_its_own_context():
    """Joined batches would mix the contexts: every draw is compared with the one from its context alone."""
    prior, context = _conditional(), torch.randn(5, 3, dtype=torch.float64)
    torch.manual_seed(2)
    noise = torch.randn(4, 5, 4, dtype=torch.float64)
    torch.manual_seed(2)
    z = prior(context).sample((4,))
    assert z.shape == (4, 5, 4)
    for draw in range(4):
        for row in range(5):
            alone, _ = prior.from_base(noise[draw, row], context[row])
            torch.testing.assert_close(z[draw, row], alone)
            expected = prior.log_prob(z[draw, row], context[row])
            torch.testing.assert_close(prior(context).log_prob(z)[draw, row], expected)


def test_generation_space_does_not_depend_on_the_context():
    prior = _conditional()
    context = torch.eye(3, dtype=torch.float64).repeat_interleave(4_000, 0)
    with torch.no_grad():
        z = prior.sample((), context)
        z0, _ = prior.to_base(z, context)
    means = z0.reshape(3, 4_000, 4).mean(1)
    assert means.abs().max() < 4 / 4_000**0.5
    # ... while z does: the base mean is what moves it
    assert z.reshape(3, 4_000, 4).mean(1).std(0).max() > 1


shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(z_batch=shapes, context_batch=shapes, sample_shape=shapes)
def test_batches_of_z_and_context_broadcast_or_are_refused(z_batch, context_batch, sample_shape):
    prior = _conditional()
    z, context = torch.randn(*z_batch, 4).double(), torch.randn(*context_batch, 3).double()
    assert prior(context).sample(sample_shape).shape == sample_shape + context_batch + (4,)
    try:
        batch = torch.broadcast_shapes(z_batch, context_batch)
    except RuntimeError:
        with pytest.raises(InputError, match="must broadcast"):
            prior.log_prob(z, context)
        with pytest.raises(InputError, match="must broadcast"):
            prior(context).log_prob(z)
        return
    log_prob = prior.log_prob(z, context)
    assert log_prob.shape == batch
    wide = prior.log_prob(z.expand(*batch, 4), context.expand(*batch, 3))
    torch.testing.assert_close(log_prob, wide)
    torch.testing.assert_close(prior(context).log_prob(z), wide)


def test_it_follows_the_parameters_of_its_prior():
    prior = _conditional()
    p, z = prior(torch.zeros(3).double()), torch.zeros(4).double()
    before = p.log_prob(z)
    with torch.no_grad():
        prior.base_mean.bias.add_(1.0)
    assert p.log_prob(z) != before
    assert p.log_prob(z) == prior.log_prob(z, torch.zeros(3).double())


def test_validation_is_asked_for_or_refused_one_by_one():
    prior, nan = StandardNormal(2), torch.tensor([0.0, torch.nan])
    with pytest.raises(ValueError, match="support"):
        PriorDistribution(prior, validate_args=True).log_prob(nan)
    with pytest.raises(ValueError, match="support"):
        PriorDistribution(prior, validate_args=True).expand((3,)).log_prob(nan)
    assert PriorDistribution(prior, validate_args=False).log_prob(nan).isnan()
    assert PriorDistribution(prior, validate_args=False).expand((3,)).log_prob(nan).isnan().all()
    default = Distribution._validate_args
    try:
        Distribution.set_default_validate_args(False)
        assert prior().log_prob(nan).isnan()
        Distribution.set_default_validate_args(True)
        with pytest.raises(ValueError, match="support"):
            prior().log_prob(nan)
    finally:
        Distribution.set_default_validate_args(default)


def test_wrong_values_and_contexts_are_named():
    conditional, plain = _conditional(), StandardNormal(4)
    z, context = torch.zeros(2, 4).double(), torch.zeros(2, 3).double()
    for call in (
        lambda: plain(context),
        lambda: plain.log_prob(z.float(), context),
        lambda: plain.sample(1, context),
        lambda: plain.to_base(z.float(), context),
    ):
        with pytest.raises(InputError, match="`context` was given to an unconditional StandardNormal"):
            call()
    for call in (
        conditional,
        lambda: conditional.log_prob(z),
        lambda: conditional.sample(2),
        lambda: conditional.rsample(2),
        lambda: conditional.from_base(z),
        lambda: conditional.kl(Normal(z, 1.0)),
        lambda: conditional.initialize(z),
    ):
        with pytest.raises(InputError, match=r"`context` is missing: .* \(\*batch, 3\)"):
            call()
    with pytest.raises(
        InputError, match=r"`context` has shape \(2, 2\) but must end in `context_features` \(=3\)"
    ):
        conditional(torch.zeros(2, 2))
    with pytest.raises(InputError, match="`context` \\(a list\\) must be a tensor"):
        conditional([0.0, 0.0, 0.0])
    with pytest.raises(InputError, match=r"`z` has shape \(2, 3\) but must end in the event shape \(4,\)"):
        plain.log_prob(torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"`value` has shape \(2, 3\)"):
        plain().log_prob(torch.zeros(2, 3))
    with pytest.raises(InputError, match="`z` \\(a ndarray\\) must be a tensor"):
        plain.log_prob(z.numpy())
    with pytest.raises(
        InputError, match=r"`z` has dtype torch.float64 but the prior computes in torch.float32"
    ):
        plain.log_prob(z)
    with pytest.raises(InputError, match=r"`z` has dtype torch.int64 .* `z.to\(torch.float32\)`"):
        plain.log_prob(z.long())
    for n in (-1, 2.5, True, "3", (2, -1)):
        with pytest.raises(InputError, match="`n`"):
            plain.sample(n)


def test_an_implicit_prior_samples_and_says_that_it_has_no_density():
    class Implicit(Prior):
        def _draw(self, count, context, temperature):
            return torch.ones(count, *self.event_shape)

    prior = Implicit(3)
    assert prior().sample((2,)).shape == (2, 3)
    for call in (
        lambda: prior.log_prob(torch.zeros(3)),
        lambda: prior().log_prob(torch.zeros(3)),
        lambda: prior.kl(Normal(torch.zeros(3), 1.0)),
    ):
        with pytest.raises(InputError, match="Implicit has no density, only samples"):
            call()


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "given"])
def test_in_a_pyro_model_with_a_plate(conditional):
    """Pyro's ELBO is our own sum, and SVI trains the prior through it."""
    pyro.clear_param_store()
    prior = FlowPrior(2, transforms=2, hidden_features=(8,), context_features=3 if conditional else None)
    x, context = torch.randn(6, 2) + 3, torch.randn(6, 3) if conditional else None

    def model():
        pyro.module("prior", prior)
        with pyro.plate("data", 6):
            z = pyro.sample("z", prior(context))
            pyro.sample("x", pyro.distributions.Normal(z, 0.5).to_event(1), obs=x)

    def guide():
        loc = pyro.param("loc", torch.zeros(6, 2))
        with pyro.plate("data", 6):
            return pyro.sample("z", pyro.distributions.Normal(loc, 0.3).to_event(1))

    torch.manual_seed(3)
    loss = Trace_ELBO().loss(model, guide)
    torch.manual_seed(3)
    q = pyro.distributions.Normal(torch.zeros(6, 2), 0.3).to_event(1)
    z = q.rsample()
    likelihood = pyro.distributions.Normal(z, 0.5).to_event(1).log_prob(x)
    assert loss == pytest.approx((prior.kl(q, z, context) - likelihood).sum().item(), rel=1e-5)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    before = [parameter.detach().clone() for parameter in prior.parameters()]
    losses = [svi.step() for _ in range(60)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(not torch.equal(old, new) for old, new in zip(before, prior.parameters(), strict=True))


def test_in_pyro_sample_without_a_path_gradient():
    z = pyro.sample("z", MixturePrior(3, components=2)().expand((5,)))
    assert z.shape == (5, 3)
    assert not z.requires_grad


def test_import_is_light_and_leaves_validation_alone():
    script = """
import sys
import flowprior
assert "torch" not in sys.modules
flowprior.FlowPrior, flowprior.MixturePrior
heavy = {"nflows", "pyro", "sklearn", "scipy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
import torch
torch.distributions.Distribution.set_default_validate_args(False)
prior = flowprior.StandardNormal(2)
prior(), prior.kl(torch.distributions.Normal(torch.zeros(2), 1.0))
assert "pyro" in sys.modules
assert torch.distributions.Distribution._validate_args is False
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
