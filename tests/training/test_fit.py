"""`fit` against closed forms, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from flowprior.errors import InputError
from flowprior.priors import FlowPrior, MixturePrior, StandardNormal
from flowprior.training import FitResult, fit, prior_stage

FAST = {"progress": False, "device": "cpu"}


def gaussian(rows: int = 3000) -> tuple[Tensor, Distribution]:
    """Correlated latents far from the origin, and where they are from."""
    mix = torch.tensor([[3.0, 0.0, 0.0], [2.0, 0.5, 0.0], [-1.0, 0.3, 0.02]])
    source = MultivariateNormal(torch.tensor([100.0, 0.0, -5.0]), scale_tril=mix)
    torch.manual_seed(0)
    return source.sample((rows,)), source


def flow(**options) -> FlowPrior:
    torch.manual_seed(0)
    return FlowPrior(3, transforms=2, hidden_features=(8,), **options)


def excess(prior: FlowPrior, latents: Tensor, truth: Tensor, context: Tensor | None = None) -> float:
    """By how many nats the prior explains latents worse than their true density does."""
    return (truth - prior.log_prob(latents, context)).mean().item()


def test_a_gaussian_is_found() -> None:
    latents, source = gaussian()
    prior = flow()
    result = fit(prior, latents, epochs=10, **FAST)
    assert isinstance(result, FitResult)
    torch.manual_seed(1)
    fresh = source.sample((5000,))
    assert excess(prior, fresh, source.log_prob(fresh)) < 0.02
    samples = prior.sample(4000)
    torch.testing.assert_close(samples.mean(0), source.mean, rtol=0.01, atol=0.3)


def test_the_reported_nll_is_that_of_the_prior_on_the_held_out_rows() -> None:
    latents, _ = gaussian()
    latents[:, 1] += (latents[:, 0] - 100).square()  # what the start, a Gaussian, is not
    prior = flow()
    result = fit(prior, latents, epochs=5, seed=3, **FAST)
    _, held = prior_stage(prior, {"z": latents}, validation=0.1).split(3)
    assert result.nll == pytest.approx(-prior.log_prob(held["z"]).mean().item(), abs=1e-4)
    assert result.nll == result.history[result.best_epoch - 1]["valid/nll"]
    assert result.nll == min(entry["valid/nll"] for entry in result.history)
    assert result.epochs == len(result.history) == 5


def test_two_modes_with_a_mixture_base() -> None:
    torch.manual_seed(0)
    modes = Independent(Normal(torch.tensor([[10.0] * 3, [-10.0] * 3]), 1.0), 1)
    source = MixtureSameFamily(Categorical(torch.ones(2)), modes)
    latents, fresh = source.sample((2000,)), source.sample((2000,))
    prior = flow(base=MixturePrior(3, components=2))
    fit(prior, latents, epochs=10, **FAST)
    assert excess(prior, fresh, source.log_prob(fresh)) < 0.1


def test_a_context_is_used() -> None:
    torch.manual_seed(0)
    context = torch.nn.functional.one_hot(torch.randint(0, 2, (3000,)), 2).float()
    source = Independent(Normal(context[:, :1] * torch.tensor([6.0, 0.0, 0.0]), 1.0), 1)
    prior = flow(context_features=2)
    fit(prior, source.sample(), context, epochs=20, batch_size=100, lr=1e-2, **FAST)
    fresh = source.sample()
    assert excess(prior, fresh, source.log_prob(fresh), context) < 0.1
    drawn = prior.sample(1000, torch.eye(2)).mean(0)
    torch.testing.assert_close(drawn, torch.tensor([[6.0, 0, 0], [0, 0, 0]]), rtol=0, atol=0.3)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16], ids=["float64", "float32", "float16"])
def test_arrays_of_any_real_type(kind) -> None:
    latents, _ = gaussian(300)
    result = fit(flow(), (latents - latents.mean(0)).numpy().astype(kind), epochs=1, **FAST)
    assert math.isfinite(result.nll)


def test_a_double_prior_is_fitted_in_double() -> None:
    latents, _ = gaussian(300)
    prior = flow().double()
    fit(prior, latents, epochs=1, **FAST)
    assert {parameter.dtype for parameter in prior.parameters()} == {torch.float64}


def test_seeds_repeat_and_the_random_state_stays() -> None:
    latents, _ = gaussian(300)
    one, two, three = flow(), flow(), flow()
    state = torch.get_rng_state()
    fit(one, latents, epochs=2, **FAST)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    fit(two, latents, epochs=2, **FAST)
    fit(three, latents, epochs=2, seed=1, **FAST)
    at = [prior.log_prob(latents[:5]) for prior in (one, two, three)]
    assert torch.equal(at[0], at[1])
    assert not torch.equal(at[0], at[2])


def test_standardize_is_part_of_the_prior_or_left_out() -> None:
    latents, _ = gaussian(300)
    priors = {}
    for standardize in ("full", "diagonal", None):
        priors[standardize] = flow()
        fit(priors[standardize], latents, standardize=standardize, epochs=1, **FAST)
    assert priors["full"].whitening.scale_tril.tril(-1).any()
    assert priors["diagonal"].whitening.fitted
    assert not priors["diagonal"].whitening.scale_tril.tril(-1).any()
    assert not priors[None].whitening.fitted


def test_without_validation_the_training_nll_is_reported() -> None:
    latents, source = gaussian()
    result = fit(flow(), latents, validation=0.0, epochs=10, **FAST)
    assert result.best_epoch is None
    assert result.nll == result.history[-1]["train/nll"]
    assert result.nll == pytest.approx(-source.log_prob(latents).mean().item(), abs=0.05)


def test_patience_ends_early() -> None:
    latents, _ = gaussian(60)
    result = fit(flow(), latents, epochs=200, lr=0.05, schedule="constant", patience=2, **FAST)
    assert result.epochs < 200


def test_other_priors_are_fitted_too() -> None:
    latents, _ = gaussian(500)
    mixture = MixturePrior(3, components=3)
    before = -StandardNormal(3).log_prob(latents).mean().item()
    assert fit(mixture, latents, epochs=2, **FAST).nll < before


@pytest.mark.parametrize(
    ("latents", "context", "word"),
    [
        (torch.full((20, 3), math.nan), None, "NaN"),
        (torch.zeros(20, 4), None, "shape"),
        (torch.zeros(3), None, "latents"),
        (torch.zeros(5, 3), None, "too few"),
        (torch.zeros(20, 3), torch.zeros(20, 1), "context"),
        (torch.zeros(20, 3, dtype=torch.complex64), None, "real"),
        (["a", "b"], None, "real"),
    ],
)
def test_bad_latents_are_named(latents, context, word: str) -> None:
    with pytest.raises(InputError, match=word):
        fit(flow(), latents, context, **FAST)


@pytest.mark.parametrize(
    ("context", "word"),
    [(None, "missing"), (torch.zeros(20, 3), "context"), (torch.zeros(19, 2), "context")],
    ids=["missing", "wide", "short"],
)
def test_bad_contexts_are_named(context, word: str) -> None:
    with pytest.raises(InputError, match=word):
        fit(flow(context_features=2), torch.randn(20, 3), context, **FAST)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": -1.0}, "lr"),
        ({"schedule": "cosines"}, "schedule"),
        ({"validation": 1.5}, "validation"),
        ({"standardize": "half"}, "standardize"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_options_are_named(options, word: str) -> None:
    with pytest.raises(InputError, match=word):
        fit(flow(), torch.randn(50, 3), **{**FAST, **options})


def test_a_prior_without_parameters_has_nothing_to_fit() -> None:
    with pytest.raises(InputError, match="nothing to train"):
        fit(StandardNormal(3), torch.randn(50, 3), **FAST)


def test_what_is_no_prior_or_no_seed_is_refused_in_a_sentence():
    latents = torch.zeros(20, 3)
    with pytest.raises(InputError, match=r"`prior` \(a Linear\) must be a prior"):
        fit(torch.nn.Linear(3, 3), latents)
    with pytest.raises(InputError, match=r"`seed` \(='a'\)"):
        fit(FlowPrior(3), latents, seed="a")
