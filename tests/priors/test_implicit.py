"""What a prior must do that has samples only."""

import copy
import pickle

import pytest
import torch
from torch.distributions import Independent, Normal

from flowprior.errors import InputError
from flowprior.priors import FlowPrior, ImplicitPrior, Prior
from flowprior.training import fit


@pytest.mark.parametrize("event", [(4,), (2, 3)], ids=str)
def test_shapes(sampler, event):
    prior = sampler.build(event)
    for shape in ((), (1,), (4,), (2, 5), (0,)):
        z = prior.sample(shape)
        assert z.shape == shape + event
        assert z.dtype == torch.float64
        assert not z.requires_grad
        assert prior.rsample(shape).shape == shape + event
        assert prior().expand((7,)).sample(shape).shape == (*shape, 7, *event)
    assert prior.sample(50).flatten(1).unique(dim=0).shape[0] == 50


def test_draws_are_the_network_of_the_noise(sampler):
    """Of u ~ N(0, I) or U(-1, 1) of its own width, by the moments of the draws of one linear layer."""
    prior = ImplicitPrior(4, noise_features=3, hidden_features=(), noise=sampler.build().noise).double()
    (linear,) = prior.layers
    assert linear.weight.shape == (4, 3)
    z = prior.sample(40_000)
    variance = 1.0 if prior.noise == "normal" else 1 / 3
    torch.testing.assert_close(z.mean(0), linear.bias.detach(), atol=0.03, rtol=0)
    covariance = (variance * linear.weight @ linear.weight.T).detach()
    torch.testing.assert_close(z.T.cov(), covariance, atol=0.03, rtol=0)
    u = torch.linalg.lstsq(linear.weight, (z - linear.bias).T).solution
    assert (u.abs().max() <= 1 + 1e-9) == (prior.noise == "uniform")


def test_layers_are_those_of_appendix_a2():
    """Three of FC-1024 - BN - ReLU, and a last FC as wide as z."""
    prior = ImplicitPrior(64)
    kinds = [type(layer).__mro__[1 if "Norm" in type(layer).__name__ else 0] for layer in prior.layers]
    hidden = [torch.nn.Linear, torch.nn.BatchNorm1d, torch.nn.ReLU]
    assert kinds == [*hidden * 3, torch.nn.Linear]
    # 64·1024, two of 1024², each with 2·1024 of a norm; 1024·64 + 64.
    assert sum(p.numel() for p in prior.parameters()) == 65_536 + 2 * 1_048_576 + 3 * 2_048 + 65_600


@pytest.mark.parametrize(
    "ask",
    [
        lambda prior, z: prior.log_prob(z),
        lambda prior, z: prior().log_prob(z),
        lambda prior, z: prior.kl(Independent(Normal(z, torch.ones_like(z)), 1)),
        lambda prior, z: FlowPrior(4, transforms=2, base=prior).log_prob(z.float()),
        lambda prior, z: fit(prior, z.float(), progress=False, device="cpu"),
    ],
)
def test_a_density_is_refused_in_one_sentence(sampler, ask):
    prior = sampler.build().float()
    assert not prior.has_density
    with pytest.raises(InputError, match=r"^ImplicitPrior has no density, only samples: .*\.$"):
        ask(prior, torch.zeros(40, 4))


def test_gradient_of_the_draws_reaches_every_parameter(sampler):
    prior = sampler.build()
    prior.rsample(64).square().sum().backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_only_draws_with_gradient_use_and_count_batch_statistics():
    prior = ImplicitPrior(2, hidden_features=(8,)).double()
    norm = prior.layers[1]
    fresh = norm.running_mean.clone()
    prior.sample(64)
    prior.eval().rsample(64)
    assert torch.equal(norm.running_mean, fresh)
    prior.train().rsample(1)  # of which there are no statistics
    assert torch.equal(norm.running_mean, fresh)
    prior.rsample(64)
    assert not torch.equal(norm.running_mean, fresh)
    torch.manual_seed(0)
    training = prior.train().sample(5)
    torch.manual_seed(0)
    assert torch.equal(prior.eval().sample(5), training)


def _same(one: Prior, other: Prior) -> None:
    torch.manual_seed(1)
    expected = one.sample(6)
    torch.manual_seed(1)
    assert torch.equal(other.sample(6), expected)


def test_copies_and_state_dict_are_exact(sampler):
    prior = sampler.build()
    prior.rsample(16)  # batch statistics off their start
    fresh = sampler.make(4).double()
    fresh.load_state_dict(prior.state_dict())
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior)), fresh):
        _same(prior, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_save_and_load_are_exact(sampler, dtype, tmp_path):
    prior = sampler.build((2, 3)).to(dtype)
    prior.rsample(16)
    prior.save_pretrained(tmp_path)
    loaded = Prior.from_pretrained(tmp_path)
    assert type(loaded) is ImplicitPrior
    assert loaded.arguments() == prior.arguments()
    _same(prior, loaded)


def test_autocast_changes_nothing(sampler):
    prior = sampler.build().float()
    torch.manual_seed(1)
    expected = prior.sample(5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(1)
        assert torch.equal(prior.sample(5), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"noise": "gumbel"}, "`noise` (='gumbel')"),
        ({"noise_features": 0}, "`noise_features` (=0)"),
        ({"hidden_features": (8, -1)}, "`hidden_features` (=-1)"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(InputError) as caught:
        ImplicitPrior(4, **arguments)
    assert words in str(caught.value)
