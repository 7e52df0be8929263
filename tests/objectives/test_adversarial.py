"""The adversarial autoencoder: Eq. 14-16 by their formulas, the penalty by hand, three players apart."""

import pytest
import torch
from torch import nn

from flowprior.errors import InputError
from flowprior.models import Autoencoder, DeterministicPosterior, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP
from flowprior.objectives import AdversarialAutoencoder, LinearAnnealing
from flowprior.priors import FlowPrior, ImplicitPrior, MixturePrior, StandardNormal
from flowprior.training import OptimizerSettings, joint_stage, train

PRIORS = {
    "fixed": StandardNormal,
    "learned": lambda features: ImplicitPrior(features, hidden_features=(8, 8)),
    "flow": lambda features: FlowPrior(features, transforms=2, hidden_features=(8,)),
}


def small_critic(features: int) -> nn.Module:
    return MLP(features, 1, hidden=(8, 8))


def model(prior: str = "learned", posterior: type = DeterministicPosterior) -> Autoencoder:
    torch.manual_seed(0)
    reader = posterior()
    return Autoencoder(
        MLP(6, reader.out_features(3), hidden=(12,)),
        MLP(3, 6, hidden=(12,)),
        PRIORS[prior](3),
        posterior=reader,
        likelihood=GaussianLikelihood(activation="identity"),
    )


def objective(prior: str = "learned", posterior: type = DeterministicPosterior, **options):
    built = model(prior, posterior)
    return AdversarialAutoencoder(built, critic=small_critic, **options).double()


def batch(n: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.rand(n, 6, dtype=torch.float64, generator=generator)}


def terms(built, player, step=0, data=None):
    torch.manual_seed(5)
    return built.losses(player, batch() if data is None else data, step)


@pytest.mark.parametrize("posterior", [DeterministicPosterior, GaussianPosterior])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("saturating", [True, False])
def test_losses_are_the_printed_ones(prior, posterior, saturating):
    """With D = sigmoid of the critic's output, and its logarithms taken as they are written."""
    built = objective(prior, posterior, beta=0.3, saturating=saturating, reconstruction_weight=2.0)
    x = batch()["x"]

    def d(z):
        return torch.sigmoid(built.critic(z)).squeeze(1)

    torch.manual_seed(5)
    z = built.model.encode(x).rsample()
    reconstruction = built.model.reconstruction_nll(x, z).mean()
    adversarial = (torch.log(1 - d(z)) if saturating else -torch.log(d(z))).mean()
    got = terms(built, "model")
    torch.testing.assert_close(got["loss"], 2 * reconstruction + 0.3 * adversarial)
    torch.testing.assert_close(got["adversarial"], adversarial.detach())
    torch.testing.assert_close(got["reconstruction"], reconstruction.detach())
    if prior != "fixed":
        torch.manual_seed(5)
        drawn = built.model.prior.rsample(8)
        wanted = (torch.log(d(drawn)) if saturating else -torch.log(1 - d(drawn))).mean()
        torch.testing.assert_close(terms(built, "prior")["loss"], wanted)
    torch.manual_seed(5)
    z = built.model.encode(x).sample()
    drawn = built.model.prior.rsample(8)
    got = terms(built, "critic")
    wanted = -(torch.log(d(drawn)) + torch.log(1 - d(z))).mean()
    torch.testing.assert_close(got["loss"], wanted)
    right = ((d(drawn) > 0.5).double().mean() + (d(z) < 0.5).double().mean()) / 2
    torch.testing.assert_close(got["accuracy"], right)


@pytest.mark.parametrize("prior", PRIORS)
def test_players_and_their_groups(prior):
    built = objective(prior)
    assert built.players == ("model", "prior", "critic")
    groups = [group for player in built.players for group in built.parameter_groups(player)]
    assert groups == (["autoencoder", "critic"] if prior == "fixed" else ["autoencoder", "prior", "critic"])
    listed = [id(p) for player in built.players for p in built.parameters_of(player)]
    assert sorted(listed) == sorted(id(p) for p in built.parameters())
    for player in built.players:
        for parameter in built.parameters_of(player):
            (gradient,) = torch.autograd.grad(terms(built, player)["loss"], parameter)
            assert gradient.abs().sum() > 0


@pytest.mark.parametrize("saturating", [True, False])
def test_encoder_goes_where_the_critic_expects_the_prior_and_the_prior_where_it_expects_codes(saturating):
    built = objective(saturating=saturating)
    built.critic = nn.Linear(3, 1).double()  # logits grow along its weight
    built.reconstruction_weight = 0.0
    z = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    for towards, sign in ((1, 1), (0, -1)):
        (gradient,) = torch.autograd.grad(built._fool(z, towards), z)
        assert (sign * gradient @ built.critic.weight[0] < 0).all()


def test_at_beta_0_the_encoder_is_that_of_a_plain_autoencoder_and_the_prior_learns_on():
    built, x = objective(beta=0.0), batch()["x"]
    coder = list(built.parameters_of("model"))
    got = torch.autograd.grad(terms(built, "model")["loss"], coder)
    plain = built.model.reconstruction_nll(x, built.model.encode(x).mean).mean()
    for one, other in zip(got, torch.autograd.grad(plain, coder), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    full = objective(beta=1.0)
    for player in ("prior", "critic"):
        torch.testing.assert_close(terms(built, player)["loss"], terms(full, player)["loss"])


def test_beta_weighs_the_encoders_adversarial_gradient():
    found = []
    for beta in (0.0, 0.25, 1.0):
        built = objective(beta=beta)
        encoder = list(built.model.encoder.parameters())
        found.append(torch.autograd.grad(terms(built, "model")["loss"], encoder))
    for none, quarter, whole in zip(*found, strict=True):
        torch.testing.assert_close(quarter, none + 0.25 * (whole - none), rtol=1e-6, atol=1e-10)


def test_annealed_beta_is_logged():
    built = objective(beta=LinearAnnealing(steps=10))
    got = terms(built, "model", step=4)
    assert got["beta"].item() == pytest.approx(0.4)
    expected = got["reconstruction"] + 0.4 * got["adversarial"]
    torch.testing.assert_close(got["loss"].detach(), expected)


class Quadratic(nn.Module):
    """a = ½ zᵀ A z, whose slope at z is A z for a symmetric A."""

    def __init__(self, features: int) -> None:
        super().__init__()
        matrix = torch.randn(features, features, generator=torch.Generator().manual_seed(2))
        self.matrix = nn.Parameter(matrix + matrix.T)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return 0.5 * (z @ self.matrix * z).sum(1, keepdim=True)


@pytest.mark.parametrize("prior", ["learned", "fixed"])
def test_penalty_by_hand_on_what_plays_the_data(prior):
    """R1 = ½ mean ‖A z‖², with gradient mean (A z zᵀ + z zᵀ A) / 2: of codes, or of a fixed prior."""
    built = model(prior)
    weighted, without = (
        AdversarialAutoencoder(built, critic=Quadratic, gradient_penalty=weight).double()
        for weight in (3.0, 0.0)
    )
    torch.manual_seed(5)
    codes = built.encode(batch()["x"]).mean
    z = (codes if prior == "learned" else built.prior.sample(8)).detach()
    matrix = weighted.critic.matrix.detach()
    penalty = 0.5 * (z @ matrix).square().sum(1).mean()
    got, plain = terms(weighted, "critic"), terms(without, "critic")
    torch.testing.assert_close(got["penalty"], penalty)
    torch.testing.assert_close(got["loss"], plain["loss"] + 3.0 * penalty)
    assert "penalty" not in plain
    outer = z.T @ z / len(z)
    by_hand = matrix @ outer
    slope = torch.autograd.grad(got["loss"], weighted.critic.matrix)[0]
    before = torch.autograd.grad(plain["loss"], without.critic.matrix)[0]
    # To autograd the slope is ½ (A + Aᵀ) z, so that A_ij and A_ji share the gradient.
    torch.testing.assert_close(slope - before, 3.0 * 0.5 * (by_hand + by_hand.T))
    with torch.no_grad():  # as in validation
        again = terms(weighted, "critic")
    torch.testing.assert_close(again["penalty"], penalty)


def test_no_players_step_moves_another():
    """In the loop: with all groups but one frozen, that one moves alone."""
    for moving in ("autoencoder", "prior", "critic"):
        built = model()
        frozen = tuple(group for group in ("autoencoder", "prior", "critic") if group != moving)
        stage = joint_stage(
            built,
            {"x": batch(40)["x"].float()},
            objective=lambda m: AdversarialAutoencoder(m, critic=small_critic, gradient_penalty=1.0),
            epochs=1,
            batch_size=10,
            optimizers=OptimizerSettings(lr=1e-2),
            frozen=frozen,
        )
        before = {name: p.detach().clone() for name, p in stage.objective.named_parameters()}
        train([stage], progress=False, device="cpu")
        moved = {name for name, p in stage.objective.named_parameters() if not torch.equal(p, before[name])}
        owners = {"autoencoder": ("model.encoder", "model.decoder"), "prior": ("model.prior",)}
        assert moved == {n for n in before if n.startswith(owners.get(moving, (moving,)))}


def test_each_players_gradients_are_its_own_in_the_loop():
    """All three move at once as each would alone: the steps of a batch follow one another, none leaks."""
    settings = {
        "autoencoder": OptimizerSettings(lr=1e-3),
        "prior": OptimizerSettings(lr=2e-3),
        "critic": OptimizerSettings(lr=3e-3),
    }
    data = {"x": batch(10)["x"].float()}
    stage = joint_stage(
        model(),
        data,
        objective=lambda m: AdversarialAutoencoder(m, critic=small_critic),
        epochs=1,
        batch_size=10,
        optimizers=settings,
    )
    before = {name: p.detach().clone() for name, p in stage.objective.named_parameters()}
    train([stage], progress=False, device="cpu")
    rates = {"model.prior": 2e-3, "critic": 3e-3, "model.encoder": 1e-3, "model.decoder": 1e-3}
    for name, parameter in stage.objective.named_parameters():
        rate = next(rate for owner, rate in rates.items() if name.startswith(owner))
        # Adam's first step has the length of the rate wherever there is a gradient: one step, not two.
        assert (parameter - before[name]).abs().max().item() == pytest.approx(rate, rel=1e-2), name


def test_a_learned_prior_finds_the_codes():
    """Codes of two clusters, given: the draws get their mean and spread (non-saturating, with penalty)."""
    torch.manual_seed(0)
    centers = torch.tensor([[4.0, 0.0], [6.0, 3.0]])
    x = centers[torch.arange(512) % 2] + 0.3 * torch.randn(512, 2)
    prior = ImplicitPrior(2, hidden_features=(32, 32))
    built = Autoencoder(
        nn.Identity(), nn.Identity(), prior, likelihood=GaussianLikelihood(activation="identity")
    )
    adversarial = AdversarialAutoencoder(
        built, 0.0, lambda features: MLP(features, 1, (32, 32)), gradient_penalty=0.1, saturating=False
    )
    optimizers = {
        player: torch.optim.Adam(adversarial.parameters_of(player), lr=2e-3, betas=(0.5, 0.9))
        for player in ("prior", "critic")
    }
    for step in range(600):
        rows = torch.randint(0, 512, (128,))
        for player, optimizer in optimizers.items():
            own = list(adversarial.parameters_of(player))
            loss = adversarial.losses(player, {"x": x[rows]}, step)["loss"]
            for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
                parameter.grad = gradient
            optimizer.step()
    z = prior.eval().sample(2000)
    torch.testing.assert_close(z.mean(0), x.mean(0), atol=0.4, rtol=0)
    torch.testing.assert_close(z.std(0), x.std(0), atol=0.4, rtol=0)
    near = (z[:, None] - centers).norm(dim=2).min(1).values
    assert (near < 1.2).float().mean() > 0.85


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: objective(beta=2.0), "`beta` (=2.0)"),
        (lambda: objective(gradient_penalty=-1.0), "`gradient_penalty` (=-1.0)"),
        (lambda: objective(reconstruction_weight=float("inf")), "`reconstruction_weight` (=inf)"),
        (lambda: objective().losses("dealer", batch(), 0), "`player` (='dealer')"),
        (lambda: objective().losses("critic", {}, 0), "no 'x'"),
    ],
)
def test_bad_settings_are_named(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)


def test_priors_that_cannot_play_are_named():
    for prior, words in (
        (MixturePrior(3, components=2), "MixturePrior, whose draws have no gradient"),
        (FlowPrior(3, transforms=2, context_features=2), "conditional Autoencoder"),
    ):
        built = Autoencoder(MLP(6, 3), MLP(3, 6), prior)
        with pytest.raises(InputError, match=words):
            AdversarialAutoencoder(built)
