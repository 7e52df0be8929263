"""Objectives on a Variational U-net: what the context's network learns from, and who refuses it."""

from itertools import pairwise

import pytest
import torch

from flowprior.errors import InputError
from flowprior.models import GaussianPosterior, UnitGaussianPosterior, VariationalUnet
from flowprior.networks import AppearanceEncoder, ShapeBranch, ShapeEmbedding, UnetDecoder, UnetScales
from flowprior.objectives import (
    ELBO,
    AdversarialAutoencoder,
    BetaTCVAE,
    Bilevel,
    CapacityELBO,
    FactorVAE,
    InfoVAE,
    LinearAnnealing,
    MomentMatching,
)
from flowprior.priors import EmbeddedPrior, FlowPrior, StandardNormal

PARTS = ("shape", "encoder", "decoder", "prior")
DIMENSIONS, CONTEXT = 2 * 16 + 2 * 64, 4 * 16 + 4 * 64


def unet(prior=None, posterior=None, dropout: float = 0.1) -> VariationalUnet:
    torch.manual_seed(0)
    posterior = UnitGaussianPosterior() if posterior is None else posterior
    scales = UnetScales(32, filters=2, max_filters=4, blocks=1, dropout=dropout)
    flow = FlowPrior(DIMENSIONS, transforms=2, hidden_features=(4,), context_features=CONTEXT)
    with torch.no_grad():  # so that log p(z|c) depends on c from the start
        flow.base_mean.weight.normal_(std=0.1)
    return VariationalUnet(
        ShapeBranch(1, scales),
        AppearanceEncoder(3, 1, 2, scales, multiplier=posterior.multiplier),
        UnetDecoder(3, 2, scales),
        flow if prior is None else prior,
        posterior=posterior,
    ).double()


def batch(n: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "x": torch.rand(n, 3, 32, 32, dtype=torch.float64),
        "context": torch.rand(n, 1, 32, 32, dtype=torch.float64),
    }


def gradients(model: VariationalUnet, loss: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """The gradient of each parameter, by part; zero where none arrives."""
    named = {part: list(getattr(model, part).parameters()) for part in PARTS}
    flat = [parameter for part in PARTS for parameter in named[part]]
    found = torch.autograd.grad(loss, flat, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(flat, found, strict=True)]
    ends = [0]
    for part in PARTS:
        ends.append(ends[-1] + len(named[part]))
    return {part: filled[start:end] for part, (start, end) in zip(PARTS, pairwise(ends), strict=True)}


def by_hand(model: VariationalUnet, weights: tuple[float, float, float]) -> torch.Tensor:
    """Reconstruction, -log p(z|c) and -entropy, weighted: their plain sum, with every gradient."""
    examples = batch()
    torch.manual_seed(2)
    maps = model.shape(examples["context"])
    q = model.posterior(model.encoder(examples["x"], examples["context"]), (DIMENSIONS,))
    z = q.rsample()
    coarse, fine = model.shape.latent_maps(maps)
    nll = -model.prior.log_prob(z, torch.cat([coarse.flatten(1), fine.flatten(1)], 1)).mean()
    reconstruction = model.likelihood.nll(model.decoder(z, maps), examples["x"]).mean()
    return weights[0] * reconstruction + weights[1] * nll - weights[2] * q.entropy().mean()


def of_objective(objective) -> torch.Tensor:
    examples = batch()
    torch.manual_seed(2)
    return objective.losses("model", examples, 0)["loss"]


def compare(found, expected, parts) -> None:
    for part in parts:
        assert any(gradient.abs().max() > 0 for gradient in expected[part]), part
        for got, wanted in zip(found[part], expected[part], strict=True):
            torch.testing.assert_close(got, wanted, msg=lambda text, part=part: f"{part}: {text}")


@pytest.mark.parametrize("posterior", [UnitGaussianPosterior(), GaussianPosterior()])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_beta_scales_the_priors_pull_on_shape_branch_and_encoder_alike(posterior, beta):
    model = unet(posterior=posterior)
    found = gradients(model, of_objective(Bilevel(model, beta)))
    compare(found, gradients(model, by_hand(model, (1.0, beta, beta))), ("shape", "encoder", "decoder"))
    compare(found, gradients(model, by_hand(model, (0.0, 1.0, 0.0))), ("prior",))


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_an_embedding_learns_from_the_prior_at_full_strength(beta):
    flow = FlowPrior(DIMENSIONS, transforms=2, hidden_features=(4,), context_features=CONTEXT)
    branch = ShapeBranch(1, UnetScales(32, filters=2, max_filters=4, blocks=1, dropout=0.0))
    with torch.no_grad():
        flow.base_mean.weight.normal_(std=0.1)
    model, examples = unet(EmbeddedPrior(flow, ShapeEmbedding(branch), (1, 32, 32)), dropout=0.0), batch()
    found = gradients(model, of_objective(Bilevel(model, beta)))

    def weighted(reconstruction: float, nll: float) -> dict[str, list[torch.Tensor]]:
        torch.manual_seed(2)
        z = model.encode(examples["x"], examples["context"]).rsample()
        maps, seen = model.shape(examples["context"]), branch(examples["context"])
        far = model.likelihood.nll(model.decoder(z, maps), examples["x"]).mean()
        log_prob = flow.log_prob(z, torch.cat([seen[-1].flatten(1), seen[-2].flatten(1)], 1)).mean()
        return gradients(model, reconstruction * far - nll * log_prob)

    compare(found, weighted(0.0, 1.0), ("prior",))
    compare(found, weighted(1.0, beta), ("shape", "encoder", "decoder"))
    assert {id(p) for p in branch.parameters()} <= {id(p) for p in model.prior.parameters()}


def test_at_beta_one_it_is_the_elbo():
    model = unet()
    compare(
        gradients(model, of_objective(Bilevel(model))), gradients(model, of_objective(ELBO(model))), PARTS
    )
    compare(gradients(model, of_objective(ELBO(model))), gradients(model, by_hand(model, (1, 1, 1))), PARTS)


def test_the_elbos_annealed_weight():
    model = unet()
    objective = ELBO(model, kl_weight=LinearAnnealing(25_000, start=1e-6, after=50_000))
    losses, examples = [], batch()
    for step, weight in ((0, 1e-6), (50_000, 1e-6), (62_500, (1 + 1e-6) / 2), (75_000, 1.0), (100_000, 1.0)):
        torch.manual_seed(2)
        terms = objective.losses("model", examples, step)
        assert terms["kl_weight"].item() == pytest.approx(weight)
        torch.testing.assert_close(terms["loss"].detach(), terms["reconstruction"] + weight * terms["kl"])
        losses.append(terms["loss"])
    constant = of_objective(ELBO(model, kl_weight=(1 + 1e-6) / 2))
    compare(gradients(model, losses[2]), gradients(model, constant), PARTS)
    assert "kl_weight" not in ELBO(model).losses("model", batch(), 0)
    with pytest.raises(InputError, match="kl_weight"):
        ELBO(model, kl_weight=-1.0)


@pytest.mark.parametrize(
    "build",
    [
        ELBO,
        CapacityELBO,
        lambda model: BetaTCVAE(model, dataset_size=64),
        InfoVAE,
        FactorVAE,
        lambda model: Bilevel(model, 0.5, free_bits=0.1, latent_weight=1.0),
        lambda model: MomentMatching(model, beta=0.5),
    ],
    ids=["elbo", "capacity", "tc", "info", "factor", "bilevel", "moments"],
)
@pytest.mark.parametrize("conditional", [True, False], ids=["conditional_prior", "plain_prior"])
def test_all_others_train_every_part(build, conditional):
    prior = None if conditional else FlowPrior(DIMENSIONS, transforms=2, hidden_features=(4,))
    model = unet(prior)
    objective = build(model).double()
    for player in objective.players:
        terms = objective.losses(player, batch(), 1)
        assert all(value.isfinite() for value in terms.values())
        if player == "model":
            found = gradients(model, terms["loss"])
            for part in PARTS:
                assert any(gradient.abs().max() > 0 for gradient in found[part]), part
    with pytest.raises(InputError, match="'context'"):
        objective.losses("model", {"x": batch()["x"]}, 1)


def test_moment_matching_scales_the_gradient_of_the_draws_in_the_context():
    model = unet()
    examples = batch()

    def discrepancy_gradient(beta):
        torch.manual_seed(2)
        terms = MomentMatching(model, beta, reconstruction_weight=0.0).losses("model", examples, 0)
        return gradients(model, terms["loss"])

    none, half, whole = (discrepancy_gradient(beta) for beta in (0.0, 0.5, 1.0))
    for part in ("shape", "encoder"):
        assert all(gradient.abs().max() == 0 for gradient in none[part])
    compare(half, {part: [gradient / 2 for gradient in whole[part]] for part in PARTS}, ("shape", "encoder"))
    compare(half, whole, ("prior",))


def test_latent_reconstruction_trains_the_decoder_and_its_view_of_the_context_alone():
    model = unet(dropout=0.0)
    with_it = gradients(model, of_objective(Bilevel(model, 0.0, latent_weight=1.0)))
    without = gradients(model, of_objective(Bilevel(model, 0.0)))
    for part, changed in (("decoder", True), ("shape", True), ("encoder", False), ("prior", False)):
        same = all(torch.allclose(a, b) for a, b in zip(with_it[part], without[part], strict=True))
        assert same != changed, part


def test_a_critic_without_context_refuses_it():
    for prior in (None, StandardNormal(DIMENSIONS)):
        with pytest.raises(InputError, match="conditional VariationalUnet, but this critic sees no context"):
            AdversarialAutoencoder(unet(prior))
