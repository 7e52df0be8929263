"""Guidance and denoising where the density is known: conditional Gaussians."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from flowprior import FlowPrior, InputError, StandardNormal, fit
from flowprior.bijectors import RECIPES, Bijector
from flowprior.priors import DecoupledPrior, EmbeddedPrior, Prior, denoise
from flowprior.priors.guidance import drop_context

MEAN, SCALE, FREE = 1.5, 0.6, 1.2  # p(z | c) = N(1.5 c, 0.6²), p(z) = N(0, 1.2²)


class Line(Bijector):
    """z0 = (z - mean) / scale, of numbers: mean and scale by whether there is a context, in closed form."""

    def _moments(self, context: Tensor) -> tuple[Tensor, Tensor]:
        value, present = context[:, :1], context[:, 1:]
        return MEAN * value, SCALE * present + FREE * (1 - present)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, scale = self._moments(context)
        return (z - mean) / scale, -scale[:, 0].log()

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, scale = self._moments(context)
        return mean + scale * z0, scale[:, 0].log()


def line() -> FlowPrior:
    return FlowPrior(
        1, bijector=Line(1, 2), context_features=1, context_dropout=0.2, standardize=None
    ).double()


def product(weight: float) -> tuple[float, float]:
    """Mean and deviation of N(MEAN, SCALE²)^(1 + w) / N(0, FREE²)^w."""
    precision = (1 + weight) / SCALE**2 - weight / FREE**2
    return (1 + weight) * MEAN / SCALE**2 / precision, precision**-0.5


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0])
def test_resampling_draws_from_the_guided_gaussian(weight: float) -> None:
    torch.manual_seed(0)
    z = line().sample(4000, torch.ones(1, dtype=torch.float64), guidance=weight).flatten()
    mean, std = product(weight)
    assert z.mean().item() == pytest.approx(mean, abs=0.05)
    assert z.std().item() == pytest.approx(std, rel=0.06)


def test_a_row_of_nan_is_no_context() -> None:
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    free = line().log_prob(z, torch.full((5, 1), math.nan, dtype=torch.float64))
    torch.testing.assert_close(free, torch.distributions.Normal(0, FREE).log_prob(z[:, 0]))
    assert DecoupledPrior(line()).context_dropout == 0.2


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_a_transformer_guides_each_token_in_closed_form(weight: float) -> None:
    """The first of two tokens, whose two Gaussians the network tells."""
    prior = FlowPrior(
        2, recipe="transformer", transforms=1, hidden_features=(4,), context_features=1, context_dropout=0.1
    ).double()
    network = prior.bijector.blocks[-1].network
    with torch.no_grad():
        torch.manual_seed(0)
        network.head.weight.normal_()
    context = torch.ones(20_000, 1, dtype=torch.float64)
    z = prior.sample(1, context, guidance=weight)[0]
    start = z.new_zeros(1, 0, 1)
    seen = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    (mean, scale), (free, wide) = (
        prior.bijector.blocks[-1]._gaussian(network(start, rows, start=True)) for rows in (seen, 0 * seen)
    )
    s = (scale / wide).clamp(max=1).square()
    precision = (1 + weight) / scale**2 - weight * s / scale**2
    expected = ((1 + weight) * mean - weight * s * free) / scale**2 / precision
    first = z[:, 0]
    assert first.mean().item() == pytest.approx(expected.item(), abs=5 * precision.item() ** -0.5 / 141)
    assert first.std().item() == pytest.approx(precision.item() ** -0.5, rel=0.03)


@pytest.mark.parametrize("recipe", ["transformer", "glf"])
def test_context_dropout_teaches_both_densities_and_guidance_moves_away_from_the_other_class(
    recipe: str,
) -> None:
    torch.manual_seed(0)
    label = torch.randint(2, (2000,))
    z = torch.randn(2000, 2) * 0.7 + torch.tensor([[-0.5, 0.5], [0.5, 0.5]])[label]
    context = one_hot(label, 2).float()
    prior = FlowPrior(
        2,
        recipe=replace(RECIPES[recipe], deep_layers=1, transforms=2, hidden_features=(16,)),
        context_features=2,
        context_dropout=0.3,
    )
    fit(prior, z, context, epochs=4, batch_size=100, progress=False, lr=1e-2)
    points = torch.tensor([[0.0, 0.5], [0.5, 0.0], [1.0, 1.0]])
    parts = torch.stack(
        [
            torch.distributions.Normal(m, 0.7).log_prob(points).sum(1)
            for m in torch.tensor([[-0.5, 0.5], [0.5, 0.5]])
        ]
    )
    with torch.no_grad():
        free = prior.log_prob(points, torch.full((3, 2), math.nan))
        one = prior.log_prob(points, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(free, parts.logsumexp(0) - math.log(2), atol=0.25, rtol=0)
    torch.testing.assert_close(one, parts[1], atol=0.25, rtol=0)
    means = [prior.sample(1500, torch.tensor([0.0, 1.0]), guidance=w)[:, 0].mean().item() for w in (0, 1, 4)]
    assert means[0] == pytest.approx(0.5, abs=0.12)
    assert means[0] < means[1] < means[2]


def test_context_is_dropped_in_the_share_that_is_asked_for_and_only_in_training() -> None:
    torch.manual_seed(0)
    rows = drop_context(torch.zeros(4000, 2, 3), 0.25)
    absent = rows.isnan()
    assert torch.equal(absent.flatten(1).all(1), absent.flatten(1).any(1))
    assert absent[:, 0, 0].float().mean().item() == pytest.approx(0.25, abs=0.03)
    from flowprior.objectives import LatentNLL

    objective = LatentNLL(line().float())
    batch = {"z": torch.randn(50, 1), "context": torch.ones(50, 1)}
    objective.eval()
    assert objective.losses("model", batch, 0)["nll"] == objective.losses("model", batch, 0)["nll"]
    objective.train()
    assert objective.losses("model", batch, 0)["nll"] != objective.losses("model", batch, 0)["nll"]


def test_denoising_is_the_posterior_mean_of_a_gaussian() -> None:
    """z = x + 0.5 e with x ~ N(m, C): E[x | z] = m + C (C + 0.25 I)^-1 (z - m)."""
    torch.manual_seed(0)
    factor = torch.tensor([[1.0, 0.0], [0.7, 0.4]], dtype=torch.float64)
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    clean, noisy = factor @ factor.T, factor @ factor.T + 0.25 * torch.eye(2, dtype=torch.float64)
    prior = FlowPrior(2, transforms=1, hidden_features=(2,)).double()
    with torch.no_grad():
        for parameter in prior.bijector.parameters():
            parameter.zero_()
        prior.whitening.fitted.fill_(True)
        prior.whitening.loc.copy_(mean)
        prior.whitening.scale_tril.copy_(torch.linalg.cholesky(noisy))
    z = torch.randn(5, 2, dtype=torch.float64)
    expected = mean + (z - mean) @ torch.linalg.inv(noisy) @ clean
    torch.testing.assert_close(denoise(prior, z, 0.5), expected)


def test_guided_priors_are_saved_and_loaded(tmp_path) -> None:
    prior = FlowPrior(
        (2, 2, 2),
        recipe="transformer",
        transforms=2,
        hidden_features=(8,),
        context_features=(3, 2),
        context_dropout=0.1,
    )
    prior.save_pretrained(tmp_path / "prior")
    loaded = Prior.from_pretrained(tmp_path / "prior")
    context = torch.randn(3, 3, 2)
    for each in (prior, loaded):
        torch.manual_seed(1)
        each.drawn = each.sample(2, context, guidance=2.0)
    assert torch.equal(prior.drawn, loaded.drawn)
    assert prior.drawn.shape == (2, 3, 2, 2, 2)


def test_bad_arguments_are_answered_by_one_sentence() -> None:
    embedded = EmbeddedPrior(
        FlowPrior(2, context_features=2, context_dropout=0.1), torch.nn.Linear(3, 2), context_features=3
    )
    for call, words in [
        (lambda: StandardNormal(2).sample(1, guidance=1.0), "needs a prior that knows z without"),
        (lambda: embedded.sample(1, torch.zeros(3), guidance=1.0), "needs a prior that knows z without"),
        (lambda: line().sample(1, torch.zeros(1), guidance=-1.0), "`guidance` .=-1.0. must be"),
        (lambda: line().sample(1, torch.full((1,), math.nan), guidance=1.0), "nothing to guide to"),
        (lambda: FlowPrior(2, context_dropout=0.1), "needs a context to leave out"),
        (lambda: FlowPrior(2, context_features=1, context_dropout=1.0), "`context_dropout` .=1.0. must be"),
        (lambda: denoise(StandardNormal(2), torch.zeros(2), -1.0), "`std` .=-1.0. must be"),
    ]:
        with pytest.raises(InputError, match=words):
            call()
