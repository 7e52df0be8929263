"""Ladders: order, KL and gradients; the contract `infer` for every model; flow posteriors."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from flowprior import FlowPrior, InputError, StandardNormal
from flowprior.models import Autoencoder, FlowPosterior, GaussianLikelihood, GaussianPosterior, Ladder
from flowprior.networks import MLP, LadderDecoder, LadderEncoder
from flowprior.objectives import ELBO, Bilevel
from flowprior.priors import GaussianPrior


def ladder(classes: int | None = None, flow: bool = False, size: int = 16, **options: object) -> Ladder:
    torch.manual_seed(0)
    width: dict[str, object] = {"width": 0.03, "classes": classes, "residual": options.pop("residual", False)}
    prior = options.pop("prior", None) or StandardNormal(5)
    built = Ladder(
        LadderEncoder(3, size, **width),  # type: ignore[arg-type]
        LadderDecoder(5, 3, size, **width),  # type: ignore[arg-type]
        prior,  # type: ignore[arg-type]
        latent_channels=2,
        flow_posteriors=flow,
        posterior=FlowPosterior(5, (8,)) if flow else None,
        likelihood=GaussianLikelihood("learned", "identity"),
        classes=classes,
        **options,  # type: ignore[arg-type]
    )
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built.double()


def images(n: int = 4, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("size", [16, 28, 32, 48, 96])
@pytest.mark.parametrize("residual", [False, True])
def test_sides_of_all_shipped_sizes(size: int, residual: bool) -> None:
    model = ladder(size=size, residual=residual, layers=None)
    x = images(2, size)
    z, kl, output = model.infer(x)
    assert z.shape == (2, 5)
    assert kl.shape == (2,)
    assert output.shape == x.shape
    sides = [layer.event_shape[1] for layer in model.layers]
    assert sides == [model.decoder.side * 2 ** (i + 1) for i in range(len(sides))]
    assert sides[-1] == size // 2 if sides else size // 4 in (4, 7)
    assert model.sample(3).shape == (3, 3, size, size)


def test_inference_and_sampling_visit_the_layers_in_the_same_order() -> None:
    model = ladder(size=32, layers=3)
    seen: list[str] = []
    for index, layer in enumerate(model.layers):
        for name in ("prior_head", "merge"):
            layer.get_submodule(name).register_forward_hook(lambda *_, w=f"{name} {index}": seen.append(w))
    model.decoder.dense.register_forward_hook(lambda *_: seen.append("top"))
    model.infer(images(1, 32))
    inferred = list(seen)
    seen.clear()
    model.draw_output(1)
    assert inferred == seen
    assert seen == ["top", *(f"{name} {i}" for i in range(3) for name in ("prior_head", "merge"))]


@pytest.mark.parametrize("flow", [False, True])
def test_the_kl_is_the_mean_of_its_log_ratios(flow: bool) -> None:
    """By closed forms where there are some; each against an average of log q - log p."""
    model = ladder(flow=flow, size=16)
    x = images(1).expand(400, -1, -1, -1)
    with torch.no_grad():
        exact, drawn = (model.infer(x, closed_form=closed).kl for closed in (True, False))
    spread = (exact.std().item() + drawn.std().item()) / math.sqrt(len(x))
    assert exact.mean().item() > 0.05
    assert exact.mean().item() == pytest.approx(drawn.mean().item(), abs=4 * spread)
    if not flow:
        assert exact.std() < drawn.std()


def test_log_weights_average_to_the_same_likelihood_whatever_the_posterior() -> None:
    """E_q[p(x, z) / q(z|x)] does not depend on q: the test of signs and of what is counted twice."""
    model = ladder(size=16, layers=1)
    with torch.no_grad():
        model.likelihood.log_variance.fill_(9.0)  # so flat that importance weights are tame
        for head in (model.head, model.layers[0].posterior_head, model.layers[0].prior_head):
            head.gain.mul_(0.0)
            head.bias.mul_(0.3)
    x = images(1).expand(1500, -1, -1, -1)

    def estimate() -> tuple[float, float, float]:
        with torch.no_grad():
            parts = [model.bound(part, closed_form=False) for part in x.split(500)]
        log_weights = torch.cat([-(bound.reconstruction + bound.kl) for bound in parts])
        weights = (log_weights - log_weights.max()).exp()
        mean = log_weights.max() + weights.mean().log()
        error = weights.std() / weights.mean() / math.sqrt(len(x))
        return mean.item(), error.item(), log_weights.mean().item()

    first, error, bound = estimate()
    with torch.no_grad():
        model.head.bias.add_(0.15)
        model.layers[0].posterior_head.bias.add_(0.02)
    second, other, lower = estimate()
    assert first == pytest.approx(second, abs=4 * (error + other))
    assert error + other < 0.2
    assert abs(bound - lower) > 1e-3, "the bounds do differ"


def test_layers_start_with_a_kl_of_zero_and_data_start_standardizes() -> None:
    torch.manual_seed(0)
    encoder, decoder = LadderEncoder(3, 16, width=0.05), LadderDecoder(5, 3, 16, width=0.05)
    model = Ladder(encoder, decoder, StandardNormal(5), latent_channels=2)
    x = images(64).float()
    q, p = model.encode(x), StandardNormal(5)
    torch.testing.assert_close(model.infer(x).kl, p.kl(q), msg="only the top latent has any")
    model.initialize({"x": x})
    variance = model.infer(x).output.var((0, 2, 3))
    torch.testing.assert_close(variance, torch.ones(3), atol=0.4, rtol=0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialize({"x": 7 * x})
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items()), "only once"


def test_every_parameter_learns_and_groups_are_whole() -> None:
    model = ladder(flow=True)
    model.log_bound(images()).sum().backward()
    groups = model.parts() | {"likelihood": [model.likelihood]}
    grouped = [id(p) for parts in groups.values() for part in parts for p in part.parameters()]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()}
    assert without == set()


def test_a_flow_and_a_conditional_prior_stand_on_top() -> None:
    flow = ladder(prior=FlowPrior(5, transforms=2, hidden_features=(8,)).double())
    assert flow.infer(images()).kl.shape == (4,)
    classes = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]]
    model = ladder(classes=3, prior=GaussianPrior(5, 3, hidden_features=(4,)).double())
    assert model.context_shape == (3,)
    assert model.infer(images(), classes).kl.shape == (4,)
    drawn = model.sample(2, classes)
    assert drawn.shape == (2, 4, 3, 16, 16)
    torch.manual_seed(0)
    one = model.rsample(4, classes)
    torch.manual_seed(0)
    other = model.rsample(4, classes.roll(1, 1))
    assert (one - other).abs().flatten(1).sum(1).min() > 1e-3, "every image depends on its class"
    z = torch.randn(6, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(model.decode(z, classes)[3, 2], model.decode(z[3, 2], classes[2]))
    with pytest.raises(InputError, match="`context` is missing"):
        model.infer(images())


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="the decoder starts from vectors of 5"):
        ladder(prior=StandardNormal(4))
    with pytest.raises(InputError, match="ladder's is of None classes"):
        ladder(prior=GaussianPrior(5, 3))
    with pytest.raises(InputError, match="`layers` \\(=3\\) must be an int from 0 to 2"):
        ladder(layers=3)
    with pytest.raises(InputError, match="halve down to 4 to 7 pixels"):
        LadderEncoder(3, 24 + 1)
    with pytest.raises(InputError, match="infers its latents in a way of its own, which ELBO does not know"):
        ELBO(ladder())


# The contract on a plain model, and the flow posterior.


def vae(posterior: object = None, features: int = 3) -> Autoencoder:
    torch.manual_seed(0)
    reader = posterior or GaussianPosterior()
    encoder = MLP(6, reader.out_features(features), hidden=(12,))  # type: ignore[attr-defined]
    decoder = MLP(features, 6, hidden=(12,))
    prior = FlowPrior(features, transforms=2, hidden_features=(8,))
    likelihood = GaussianLikelihood("learned", "identity")
    return Autoencoder(encoder, decoder, prior, posterior=reader, likelihood=likelihood)  # type: ignore[arg-type]


def test_infer_is_the_pass_of_the_elbo_to_the_bit() -> None:
    model, x = vae(), torch.rand(8, 6)
    torch.manual_seed(3)
    losses = ELBO(model).losses("model", {"x": x}, 0)
    torch.manual_seed(3)
    z, kl, output = model.infer(x)
    assert torch.equal(kl.mean().detach(), losses["kl"])
    assert torch.equal(model.likelihood.nll(output, x).mean().detach(), losses["reconstruction"])
    torch.manual_seed(3)
    assert torch.equal(z, model.encode(x).rsample())
    torch.manual_seed(3)
    bound = model.log_bound(x)
    torch.testing.assert_close(-bound.mean(), losses["loss"])


def moved(posterior: FlowPosterior) -> FlowPosterior:
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return posterior


@pytest.mark.parametrize("features", [3, (2, 2, 2)])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_flow_posterior_remembers_the_density_of_its_draws(features: object, steps: int) -> None:
    torch.manual_seed(0)
    posterior = moved(FlowPosterior(features, (8, 8), steps).double())
    size = posterior.out_features(features) // 3
    q = posterior(torch.randn(5, 3 * size, dtype=torch.float64), posterior.event_shape)
    z = q.rsample((4,))
    known = q.log_prob(z)
    torch.testing.assert_close(q.log_prob(z.clone()), known, rtol=1e-8, atol=1e-8)
    assert z.shape == (4, 5, *posterior.event_shape)
    draws = q.sample((2000,))
    entropy = -q.log_prob(draws).mean(0)
    q.rsample()
    many = q.base.entropy() + q.flow.from_base(q.base.sample((2000,)), q.context)[1].mean(0)
    torch.testing.assert_close(many, entropy, atol=0.15, rtol=0)
    assert q.entropy().shape == (5,)


def test_a_flow_posteriors_density_integrates_to_one() -> None:
    torch.manual_seed(0)
    posterior = moved(FlowPosterior(2, (8, 8)).double())
    q = posterior(torch.randn(1, 6, dtype=torch.float64))
    side = torch.linspace(-12, 12, 500, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)[:, None]
    with torch.no_grad():
        mass = q.log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=1e-3)


def test_a_flow_posterior_serves_every_vae_and_beats_a_gaussian_on_a_bent_posterior() -> None:
    """The true posterior of z is bent, and a factorized Gaussian cannot follow."""

    class Bent(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.stack([z[:, 0] * 0.2, 2 * z[:, 1] - z[:, 0].square()], 1)

    def trained(posterior: object) -> float:
        torch.manual_seed(0)
        encoder = MLP(2, posterior.out_features(2), hidden=(32,))  # type: ignore[attr-defined]
        likelihood = GaussianLikelihood(0.2, "identity")
        model = Autoencoder(encoder, Bent(), StandardNormal(2), posterior=posterior, likelihood=likelihood)  # type: ignore[arg-type]
        elbo, optimizer = ELBO(model), torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(150):
            x = likelihood.sample(Bent()(torch.randn(128, 2)))
            optimizer.zero_grad()
            elbo.losses("model", {"x": x}, 0)["loss"].backward()
            optimizer.step()
        torch.manual_seed(1)
        with torch.no_grad():
            return -model.log_bound(likelihood.sample(Bent()(torch.randn(4000, 2)))).mean().item()

    gaussian, flow = trained(GaussianPosterior()), trained(FlowPosterior(2, (16, 16)))
    assert flow < gaussian - 0.02
    losses = Bilevel(vae(FlowPosterior(3, (8,))), beta=0.5).losses("model", {"x": torch.rand(4, 6)}, 0)
    assert losses["loss"].isfinite()


def test_a_flow_posterior_names_what_it_was_built_for() -> None:
    with pytest.raises(InputError, match="`features` \\(=\\(3,\\)\\) of the FlowPosterior must be"):
        FlowPosterior(3)(torch.zeros(2, 12))


def test_draws_of_likelihoods_have_their_moments_and_gradients() -> None:
    from flowprior.models import BernoulliLikelihood, LaplaceLikelihood

    torch.manual_seed(0)
    output = torch.full((200_000, 1), 0.3)
    for likelihood, variance in (
        (GaussianLikelihood(0.5, "identity"), 0.5),
        (LaplaceLikelihood(0.5, "identity"), 0.5),
    ):
        x = likelihood.sample(output)
        assert x.mean().item() == pytest.approx(0.3, abs=0.01)
        assert x.var().item() == pytest.approx(variance, abs=0.01)
        gaussian = isinstance(likelihood, GaussianLikelihood)
        expected = Normal(0.0, math.sqrt(0.5)).entropy().item() if gaussian else 1 + math.log(2 * 0.5)
        assert likelihood.nll(output, x).mean().item() == pytest.approx(expected, abs=0.01)
    binary = BernoulliLikelihood().sample(output)
    assert binary.mean().item() == pytest.approx(torch.sigmoid(torch.tensor(0.3)).item(), abs=0.01)
    learned = GaussianLikelihood("learned", "identity")
    learned.sample(output).square().mean().backward()
    assert learned.log_variance.grad.item() == pytest.approx(1.0, abs=0.02)  # d/dlog v of 0.3² + v at v = 1
    joint = Independent(Normal(output, 1.0), 1)
    torch.testing.assert_close(-learned.nll(output, binary), joint.log_prob(binary))
