"""GMMN + autoencoder: the discrepancy by a double loop, who learns from it, and draws that find the codes."""

import math

import pytest
import torch
from torch import nn

from flowprior.errors import InputError
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP
from flowprior.objectives import LinearAnnealing, MomentMatching, mmd
from flowprior.objectives.moment_matching import typical_distance
from flowprior.priors import FlowPrior, ImplicitPrior, MixturePrior, StandardNormal

SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)


def model(prior=None, posterior=None) -> Autoencoder:
    torch.manual_seed(0)
    if prior is None:
        prior = ImplicitPrior(3, hidden_features=(8,), batch_norm=False, noise="uniform")
    out = 3 if posterior is None else posterior.out_features(3)
    likelihood = GaussianLikelihood(activation="identity")
    built = Autoencoder(
        MLP(6, out, (12,)), MLP(3, 6, (12,)), prior, posterior=posterior, likelihood=likelihood
    )
    return built.double()


def x(n: int = 8) -> torch.Tensor:
    return torch.rand(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def losses(objective, step=0):
    torch.manual_seed(5)
    return objective.losses("model", {"x": x()}, step)


def gradients(objective, loss, part):
    parameters = list(getattr(objective.model, part).parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    pairs = zip(found, parameters, strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]


def by_hand(z, y, scales=SCALES) -> float:
    """The biased estimate, pair by pair, in units of the codes' root mean squared distance."""
    z, y = z.tolist(), y.tolist()
    pairs = [(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
    unit = sum(math.dist(a, b) ** 2 for a, b in pairs) / len(pairs)

    def mean(left, right):
        kernels = [
            sum(math.exp(-(math.dist(a, b) ** 2) / unit / scale) for scale in scales) / len(scales)
            for a in left
            for b in right
        ]
        return sum(kernels) / len(kernels)

    return mean(z, z) + mean(y, y) - 2 * mean(z, y)


def test_several_scales_are_the_mean_of_their_kernels():
    a, b = x(5), x(7) + 1
    for kernel in ("gaussian", "imq"):
        for block in (None, 2):
            each = [mmd(a, b, kernel, scale=scale, unbiased=True) for scale in (0.5, 3.0)]
            both = mmd(a, b, kernel, scale=(0.5, 3.0), unbiased=True, block=block)
            torch.testing.assert_close(both, sum(each) / 2)


def test_the_unit_is_the_root_mean_squared_distance_of_two_codes():
    z = x(9)
    pairs = [(z[i] - z[j]).square().sum() for i in range(9) for j in range(9) if i != j]
    torch.testing.assert_close(typical_distance(z), torch.stack(pairs).mean().sqrt())
    assert typical_distance(torch.zeros(4, 2)) > 0


@pytest.mark.parametrize("posterior", [None, GaussianPosterior()])
def test_loss_by_hand(posterior):
    objective = MomentMatching(model(posterior=posterior), weight=7.0, reconstruction_weight=2.0)
    terms = losses(objective)
    torch.manual_seed(5)
    z = objective.model.encode(x()).rsample()
    drawn = objective.model.prior.sample(8)
    reconstruction = objective.model.reconstruction_nll(x(), z).mean().item()
    assert terms["mmd"].item() == pytest.approx(by_hand(z, drawn), abs=1e-12)
    assert terms["reconstruction"].item() == pytest.approx(reconstruction)
    assert terms["loss"].item() == pytest.approx(2 * reconstruction + 7 * by_hand(z, drawn))


def test_the_discrepancy_does_not_know_the_unit_of_the_codes():
    """Codes and draws ten times as large: the same discrepancy."""
    found = []
    for factor in (1.0, 10.0):
        built = model(StandardNormal(3))
        built.encoder = nn.Sequential(built.encoder, nn.Linear(3, 3, bias=False)).double()
        with torch.no_grad():
            built.encoder[1].weight.copy_(factor * torch.eye(3))
        built.prior = FlowPrior(3, bijector=torch.distributions.AffineTransform(0.0, factor)).double()
        found.append(losses(MomentMatching(built))["mmd"])
    torch.testing.assert_close(*found)


def test_beta_weighs_the_gradient_in_the_encoder_and_not_in_the_prior():
    objectives = {beta: MomentMatching(model(), beta, reconstruction_weight=0.0) for beta in (0.0, 0.3, 1.0)}
    found = {beta: losses(objective)["loss"] for beta, objective in objectives.items()}
    encoder = {beta: gradients(objectives[beta], loss, "encoder") for beta, loss in found.items()}
    prior = {beta: gradients(objectives[beta], loss, "prior") for beta, loss in found.items()}
    assert all(not gradient.any() for gradient in encoder[0.0])
    for part, whole in zip(encoder[0.3], encoder[1.0], strict=True):
        assert whole.any()
        torch.testing.assert_close(part, 0.3 * whole, rtol=1e-6, atol=1e-12)
    for beta in (0.0, 0.3):
        for one, other in zip(prior[beta], prior[1.0], strict=True):
            assert one.any()
            torch.testing.assert_close(one, other)


def test_at_beta_0_the_autoencoder_is_unregularized():
    objective = MomentMatching(model())
    built = objective.model
    plain = built.reconstruction_nll(x(), built.encode(x()).mean).mean()
    for part in ("encoder", "decoder"):
        pairs = zip(
            gradients(objective, losses(objective)["loss"], part),
            gradients(objective, plain, part),
            strict=True,
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other)


def test_annealed_beta_and_groups():
    objective = MomentMatching(model(), LinearAnnealing(steps=4))
    assert losses(objective, step=1)["beta"].item() == pytest.approx(0.25)
    assert objective.parameter_groups("model").keys() == {"autoencoder", "prior"}
    fixed = MomentMatching(model(StandardNormal(3)), 1.0)
    assert fixed.parameter_groups("model").keys() == {"autoencoder"}
    conditional = MomentMatching(model(FlowPrior(3, transforms=2, context_features=2)))
    terms = conditional.losses("model", {"x": x(), "context": x()[:, :2]}, 0)
    assert terms["mmd"] > 0


def test_the_prior_finds_the_codes():
    """Codes of two clusters, far from the origin: the draws get their moments and their places."""
    torch.manual_seed(0)
    centers = torch.tensor([[4.0, 0.0], [6.0, 3.0]])
    codes = centers[torch.arange(512) % 2] + 0.3 * torch.randn(512, 2)
    prior = ImplicitPrior(2, hidden_features=(32, 32), batch_norm=False, noise="uniform")
    built = Autoencoder(
        nn.Identity(), nn.Identity(), prior, likelihood=GaussianLikelihood(activation="identity")
    )
    objective = MomentMatching(built)
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)
    for step in range(500):
        optimizer.zero_grad()
        objective.losses("model", {"x": codes[torch.randint(0, 512, (128,))]}, step)["loss"].backward()
        optimizer.step()
    z = prior.sample(2000)
    torch.testing.assert_close(z.mean(0), codes.mean(0), atol=0.2, rtol=0)
    torch.testing.assert_close(z.std(0), codes.std(0), atol=0.2, rtol=0)
    near = (z[:, None] - centers).norm(dim=2).min(1).values
    assert (near < 1.0).float().mean() > 0.8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": -1.0}, "`beta` (=-1.0)"),
        ({"weight": -1.0}, "`weight` (=-1.0)"),
        ({"kernel": "laplace"}, "`kernel` (='laplace')"),
        ({"scale": ()}, "`scale` (=())"),
        ({"scale": (1.0, 0.0)}, "`scale` (=0.0)"),
        ({"block": 0}, "`block` (=0)"),
    ],
)
def test_bad_settings_are_named(options, words):
    with pytest.raises(InputError) as caught:
        MomentMatching(model(), **options)
    assert words in str(caught.value)


def test_a_prior_that_cannot_learn_from_its_draws_is_named():
    with pytest.raises(InputError, match="MixturePrior, whose draws have no gradient"):
        MomentMatching(model(MixturePrior(3, components=2)))


def test_the_root_is_li_et_als_loss():
    """Same terms; the prior's gradient is that of MMD², divided by 2 MMD."""
    plain, rooted = MomentMatching(model(), weight=3.0), MomentMatching(model(), weight=3.0, root=True)
    ours, theirs = losses(rooted), losses(plain)
    assert ours["mmd"] == theirs["mmd"]
    root = ours["mmd"].sqrt()
    torch.testing.assert_close(ours["loss"].detach(), ours["reconstruction"] + 3 * root)
    pairs = zip(
        gradients(rooted, ours["loss"], "prior"), gradients(plain, theirs["loss"], "prior"), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b / (2 * root))
    with pytest.raises(InputError, match="`root`"):
        MomentMatching(model(), root=True, unbiased=True)
