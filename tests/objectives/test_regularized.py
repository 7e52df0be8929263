"""The regularized VAEs of dpVAE: estimators against closed forms, each objective with both priors."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from flowprior.errors import InputError
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP, LatentCritic
from flowprior.objectives import ELBO, BetaTCVAE, CapacityELBO, FactorVAE, InfoVAE
from flowprior.objectives.factor import permute_dimensions
from flowprior.objectives.total_correlation import decompose, stratified_weights
from flowprior.priors import DecoupledPrior, FlowPrior, MixturePrior, StandardNormal
from flowprior.training.optimizers import OptimizerSettings
from flowprior.training.stages import joint_stage


def decoupled(features: int, context_features: int | None = None) -> DecoupledPrior:
    flow = FlowPrior(
        features, recipe="masked", transforms=4, hidden_features=(16,), context_features=context_features
    )
    with torch.no_grad():  # away from the identity
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return DecoupledPrior(flow)


PRIORS = {"normal": StandardNormal, "decoupled": decoupled}
OBJECTIVES = {
    "elbo": lambda model: ELBO(model, kl_weight=4.0),
    "capacity": lambda model: CapacityELBO(model, gamma=15.0, capacity=2.0, capacity_steps=10),
    "tc": lambda model: BetaTCVAE(model, 100, tc_weight=6.0),
    "tc_weighted": lambda model: BetaTCVAE(model, 100, tc_weight=6.0, sampling="weighted"),
    "factor": lambda model: FactorVAE(model, 10.0, lambda features: LatentCritic(features, (16, 16))),
    "info": lambda model: InfoVAE(model, weight=100.0),
}


def vae(prior: str = "normal", features: int = 2) -> Autoencoder:
    torch.manual_seed(0)
    likelihood = GaussianLikelihood(activation="identity")
    return Autoencoder(
        MLP(5, 2 * features, hidden=(16,)),
        MLP(features, 5, hidden=(16,)),
        PRIORS[prior](features),
        posterior=GaussianPosterior(),
        likelihood=likelihood,
    )


def data(n: int = 32) -> torch.Tensor:
    return torch.rand(n, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_every_parameter_with_both_priors(name, prior):
    objective = OBJECTIVES[name](vae(prior))
    groups = {g for player in objective.players for g in objective.parameter_groups(player)}
    wanted = {"autoencoder"} | ({"prior"} if prior == "decoupled" else set())
    assert groups == wanted | ({"critic"} if name == "factor" else set())
    for player in objective.players:
        terms = objective.losses(player, {"x": data()}, 3)
        assert torch.isfinite(torch.stack(list(terms.values()))).all()
        assert [key for key, value in terms.items() if value.requires_grad] == ["loss"]
        parameters = list(objective.parameters_of(player))
        gradients = torch.autograd.grad(terms["loss"], parameters)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("prior", PRIORS)
def test_at_neutral_weights_all_are_the_elbo(prior):
    """Same noise, same terms: the regularizers add nothing but themselves."""
    model, x = vae(prior), data()
    neutral = {
        "elbo": ELBO(model),
        "tc": BetaTCVAE(model, 100, tc_weight=1.0),
        "factor": FactorVAE(model, 0.0, lambda features: LatentCritic(features, (4,))),
        "info": InfoVAE(model, alpha=0.0, weight=1.0),
        "capacity": CapacityELBO(model, gamma=1.0, capacity=0.0),
    }
    seen = {}
    for name, objective in neutral.items():
        torch.manual_seed(2)
        seen[name] = objective.losses("model", {"x": x}, 0)
    for name, terms in seen.items():
        if name != "tc" or prior == "decoupled":  # MI + TC + DW is the sampled KL, not the exact one
            torch.testing.assert_close(terms["loss"], seen["elbo"]["loss"], msg=name)
        for term in ("reconstruction", "kl", "entropy", "nll"):
            torch.testing.assert_close(terms[term], seen["elbo"][term])


def test_three_parts_add_up_to_the_sampled_kl():
    torch.manual_seed(0)
    prior = decoupled(3).double()
    loc, scale = torch.randn(2, 20, 3, dtype=torch.float64)
    scale = scale.exp()
    z = loc + scale * torch.randn_like(loc)
    log_p = prior.log_prob(z)
    expected = (Independent(Normal(loc, scale), 1).log_prob(z) - log_p).mean()
    for log_weights in (stratified_weights(20, 500).log(), torch.full((20, 20), -3.0, dtype=torch.float64)):
        torch.testing.assert_close(sum(decompose(z, loc, scale, log_p, log_weights)), expected)


def linear_gaussian(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, float]]:
    """Codes N(Wx + b, diag s²) of x ~ N(0, I), and the three parts in closed form."""
    torch.manual_seed(3)
    matrix = torch.tensor([[1.0, 0.4], [0.8, -0.3], [0.2, 0.6]], dtype=torch.float64)
    bias = torch.tensor([0.3, -0.2, 0.0], dtype=torch.float64)
    scale = torch.tensor([0.6, 0.7, 0.5], dtype=torch.float64)
    covariance = matrix @ matrix.T + scale.square().diag()
    variances = covariance.diagonal()
    truth = {
        "mi": 0.5 * (covariance.logdet() - 2 * scale.log().sum()).item(),
        "tc": 0.5 * (variances.log().sum() - covariance.logdet()).item(),
        "dw": 0.5 * (variances + bias.square() - 1 - variances.log()).sum().item(),
    }
    loc = torch.randn(n, 2, dtype=torch.float64) @ matrix.T + bias
    z = loc + scale * torch.randn_like(loc)
    return z, loc, scale.expand_as(loc), truth


def parts(z, loc, scale, log_weights, batch):
    log_p = StandardNormal(3).double().log_prob(z)
    each = [
        decompose(z[rows], loc[rows], scale[rows], log_p[rows], log_weights)
        for rows in torch.arange(len(z)).split(batch)
    ]
    return dict(zip(("mi", "tc", "dw"), torch.tensor(each).mean(0).tolist(), strict=True))


def test_stratified_parts_meet_the_closed_forms():
    z, loc, scale, truth = linear_gaussian(8000)
    assert truth["tc"] > 0.2
    found = parts(z, loc, scale, stratified_weights(1000, 8000).log(), 1000)
    for name, value in truth.items():
        assert found[name] == pytest.approx(value, abs=0.05), name


def test_weighted_parts_meet_the_closed_forms_up_to_the_constants_of_the_docstring():
    z, loc, scale, truth = linear_gaussian(8000)
    constant = math.log(8000)
    log_weights = torch.full((1000, 1000), -math.log(8000 * 1000), dtype=torch.float64)
    found = parts(z, loc, scale, log_weights, 1000)
    assert found["mi"] - constant == pytest.approx(truth["mi"], abs=0.05)
    assert found["tc"] - 2 * constant == pytest.approx(truth["tc"], abs=0.05)
    assert found["dw"] + 3 * constant == pytest.approx(truth["dw"], abs=0.05)


def test_logged_parts_are_those_of_the_model_with_a_decoupled_prior():
    """An affine decoupled prior: E_q[Σ log q(z_j) - log p(z)] has a closed form, log-det included."""
    from torch.distributions.transforms import AffineTransform

    z, loc, scale, truth = linear_gaussian(8000)
    shift, factor = 0.7, 1.9
    prior = DecoupledPrior(FlowPrior(3, bijector=[AffineTransform(shift, factor)])).double()
    mean, covariance = loc.mean(0), z.T.cov()
    log_p = prior.log_prob(z)
    variances = covariance.diagonal()
    entropies = 0.5 * (2 * math.pi * math.e * variances).log().sum()
    cross = (
        0.5 * (((mean - shift).square() + variances) / factor**2 + math.log(2 * math.pi * factor**2)).sum()
    )
    log_weights = stratified_weights(1000, 8000).log()
    chunks = torch.arange(8000).split(1000)
    dimension = [decompose(z[c], loc[c], scale[c], log_p[c], log_weights)[2].item() for c in chunks]
    assert sum(dimension) / 8 == pytest.approx((cross - entropies).item(), abs=0.05)
    assert truth["dw"] != pytest.approx((cross - entropies).item(), abs=0.3)


def test_stratified_weights_are_unbiased_and_the_legacy_ones_are_not():
    """Over all ways to fill the batch beside example 0, the mean weight of each example is 1/N."""
    import itertools

    n, batch = 5, 3
    for legacy, even in ((False, True), (True, False)):
        for row in range(batch):
            total = torch.zeros(n, dtype=torch.float64)
            weights = stratified_weights(batch, n, legacy)
            ways = list(itertools.permutations(range(1, n), batch - 1))
            for others in ways:
                placed = list(others)
                placed.insert(row, 0)  # the example itself stands in its own row
                total[placed] += weights[row]
            uniform = torch.full((n,), 1 / n, dtype=torch.float64)
            if row > 0:  # the official code is right in row 0
                assert torch.allclose(total / len(ways), uniform) == even
            elif not legacy:
                torch.testing.assert_close(total / len(ways), uniform)


def test_legacy_weights_are_the_official_codes():
    """As written there: strides of the batch size over the flattened matrix, M = B - 1."""
    batch, n = 5, 1000
    others = batch - 1
    strided = torch.full((batch, batch), 1 / others, dtype=torch.float64)
    rest = (n - others) / (n * others)
    strided.view(-1)[:: others + 1] = 1 / n
    strided.view(-1)[1 :: others + 1] = rest
    strided[others - 1, 0] = rest
    torch.testing.assert_close(stratified_weights(batch, n, legacy=True), strided)
    sums = stratified_weights(batch, n, legacy=True).sum(1)
    assert sums[3].item() == pytest.approx(1.25, abs=0.01)
    torch.testing.assert_close(stratified_weights(batch, n).sum(1), torch.ones(batch, dtype=torch.float64))


def test_equation_5_is_what_the_kl_estimates():
    """The docstring's expression, from the flow's own pieces, against log q - log p, by the same draws."""
    torch.manual_seed(0)
    prior = decoupled(3).double()
    loc, scale = torch.randn(3, dtype=torch.float64), torch.tensor([0.3, 1.2, 0.7], dtype=torch.float64)
    q = Independent(Normal(loc, scale), 1)
    z = q.sample((40_000,))
    z0, log_det = prior.to_base(z)
    equation = -log_det + 0.5 * z0.square().sum(1) - scale.log().sum() - 1.5
    sampled = q.log_prob(z) - prior.log_prob(z)
    assert (equation - sampled).mean().abs() < 4 * (equation - sampled).std() / 200
    assert prior.kl(q, z).mean().item() == pytest.approx(equation.mean().item(), abs=0.03)
    # As printed, without the half and the constant, it is another number.
    printed = -log_det + z0.square().sum(1) - scale.log().sum()
    assert (printed - sampled).mean().abs() > 0.5


def test_kl_of_a_linear_flow_is_the_gaussian_closed_form():
    from nflows.transforms import PointwiseAffineTransform

    shift, factor = 0.4, 1.7  # z0 = 1.7 z + 0.4, so p(z) = N(-0.4 / 1.7, 1.7⁻² I)
    prior = DecoupledPrior(FlowPrior(2, bijector=PointwiseAffineTransform(shift, factor))).double()
    q = Independent(Normal(torch.tensor([0.5, -1.0]).double(), torch.tensor([0.4, 0.9]).double()), 1)
    p = Independent(Normal(torch.full((2,), -shift / factor).double(), 1 / factor), 1)
    exact = torch.distributions.kl_divergence(q, p)
    torch.manual_seed(1)
    kl = prior.kl(q, q.sample((50_000,)))
    assert (kl.mean() - exact).abs() < 4 * kl.std() / math.sqrt(50_000)


@pytest.mark.parametrize(("step", "capacity"), [(0, 0.0), (5, 1.0), (10, 2.0), (25, 2.0)])
def test_capacity_grows_linearly_and_is_approached_from_both_sides(step, capacity):
    model, x = vae(), data()
    objective = CapacityELBO(model, gamma=15.0, capacity=2.0, capacity_steps=10)
    terms = objective.losses("model", {"x": x}, step)
    assert terms["capacity"].item() == pytest.approx(capacity)
    expected = terms["reconstruction"] + 15.0 * (terms["kl"] - capacity).abs()
    torch.testing.assert_close(terms["loss"].detach(), expected)


@pytest.mark.parametrize("capacity", [0.0, 50.0])  # below the KL, above it
def test_below_the_capacity_the_prior_still_learns_to_fit(capacity):
    """The encoder's gradient is that of gamma |KL - C|, the prior's that of its negative log-likelihood."""
    model, x = vae("decoupled"), data()

    def gradients(objective):
        torch.manual_seed(3)
        terms = objective.losses("model", {"x": x}, 9)
        groups = objective.parameter_groups("model").items()
        return terms, {name: torch.autograd.grad(terms["loss"], p, retain_graph=True) for name, p in groups}

    settings = {"gamma": 15.0, "capacity": capacity, "capacity_steps": 1}
    terms, ours = gradients(CapacityELBO(model, **settings))
    _, printed = gradients(CapacityELBO(model, **settings, strict=True))
    _, plain = gradients(ELBO(model))
    assert (terms["kl"] < capacity) == (capacity > 0)
    torch.testing.assert_close(
        terms["loss"].detach(), terms["reconstruction"] + 15 * (terms["kl"] - capacity).abs()
    )
    torch.testing.assert_close(ours["autoencoder"], printed["autoencoder"])
    torch.testing.assert_close(ours["prior"], plain["prior"])  # +1 times that of -log p(z)
    sign = -15.0 if capacity else 15.0
    torch.testing.assert_close(printed["prior"], tuple(sign * each for each in plain["prior"]))


def test_permuted_dimensions_keep_marginals_and_lose_dependence():
    torch.manual_seed(0)
    z = torch.randn(5000, 1).repeat(1, 3)
    permuted = permute_dimensions(z)
    torch.testing.assert_close(permuted.sort(0).values, z.sort(0).values)
    assert (permuted.T.corrcoef() - torch.eye(3)).abs().max() < 0.06


def test_critic_learns_the_total_correlation_of_a_gaussian():
    """At its optimum the logits' difference is the log density ratio: TC = -½ log(1 - ρ²)."""
    torch.manual_seed(0)
    rho = 0.8
    truth = -0.5 * math.log(1 - rho**2)
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]])
    objective = FactorVAE(vae(), 1.0, lambda features: LatentCritic(features, (32, 32)))
    codes = MultivariateNormal(torch.zeros(2), covariance)

    class Codes(torch.nn.Module):
        def forward(self, x):
            return torch.cat([codes.sample((len(x),)), torch.full((len(x), 2), -20.0)], 1)

    objective.model.encoder = Codes()
    optimizer = torch.optim.Adam(objective.parameters_of("critic"), lr=5e-3)
    x = torch.zeros(512, 5)
    for step in range(300):
        loss = objective.losses("critic", {"x": x}, step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.manual_seed(9)
    terms = objective.losses("model", {"x": torch.zeros(20_000, 5)}, 0)
    assert terms["total_correlation"].item() == pytest.approx(truth, abs=0.1)


def test_the_critics_step_leaves_the_encoder_alone():
    objective = OBJECTIVES["factor"](vae("decoupled"))
    objective.losses("critic", {"x": data()}, 0)["loss"].backward()
    assert all(p.grad is not None for p in objective.critic.parameters())
    assert all(p.grad is None for p in objective.model.parameters())


@pytest.mark.parametrize("prior", PRIORS)
def test_two_players_train_in_the_loop(prior, tmp_path):
    from flowprior.training.loop import train

    model = vae(prior)
    stage = joint_stage(
        model,
        {"x": data(64)},
        objective=OBJECTIVES["factor"],
        epochs=2,
        batch_size=32,
        optimizers=OptimizerSettings(lr=1e-2),
        validation=0.25,
    )
    before = {name: value.clone() for name, value in stage.objective.named_parameters()}
    train([stage], run=tmp_path, device="cpu", progress=False)
    unmoved = [n for n, value in stage.objective.named_parameters() if torch.equal(value, before[n])]
    assert unmoved == []
    header = (tmp_path / "metrics.csv").read_text()
    for term in ("train/model/total_correlation", "train/critic/accuracy", "valid/critic/loss"):
        assert term in header


def test_a_conditional_prior_is_read_at_the_batchs_context():
    torch.manual_seed(0)
    likelihood = GaussianLikelihood(activation="identity")
    model = Autoencoder(
        MLP(5, 4), MLP(2, 5), decoupled(2, 3), posterior=GaussianPosterior(), likelihood=likelihood
    )
    context = torch.eye(3)[torch.arange(32) % 3]
    for make in OBJECTIVES.values():
        losses = []
        for rows in (context, context.flip(1)):
            torch.manual_seed(1)
            losses.append(make(model).losses("model", {"x": data(), "context": rows}, 0)["kl"].item())
        assert losses[0] != losses[1]


def test_bad_settings_are_named():
    model = vae()
    with pytest.raises(InputError, match="`dataset_size` \\(=1\\)"):
        BetaTCVAE(model, 1)
    with pytest.raises(InputError, match="`sampling` \\(='some'\\)"):
        BetaTCVAE(model, 10, sampling="some")
    with pytest.raises(InputError, match="`legacy`"):
        BetaTCVAE(model, 10, sampling="weighted", legacy=True)
    with pytest.raises(InputError, match=r"32 examples.*`dataset_size` \(=10\)"):
        BetaTCVAE(model, 10).losses("model", {"x": data()}, 0)
    with pytest.raises(InputError, match="`capacity_steps` \\(=0\\)"):
        CapacityELBO(model, capacity_steps=0)
    with pytest.raises(InputError, match="`gamma` \\(=-1\\)"):
        CapacityELBO(model, gamma=-1)
    with pytest.raises(InputError, match="`tc_weight` \\(=nan\\)"):
        FactorVAE(model, float("nan"))
    with pytest.raises(InputError, match="`player` \\(='judge'\\)"):
        FactorVAE(model, critic=lambda n: LatentCritic(n, (4,))).parameter_groups("judge")
    with pytest.raises(InputError, match=r"`alpha` \(=2\.0\)"):
        InfoVAE(model, alpha=2.0)
    with pytest.raises(InputError, match=r"`weight` \(=0\.5\)"):
        InfoVAE(model, weight=0.5)
    full = model
    full.posterior.forward = lambda h, shape=None: MultivariateNormal(h[:, :2], torch.eye(2))
    with pytest.raises(InputError, match="factorized Gaussian"):
        BetaTCVAE(full, 100).losses("model", {"x": data()}, 0)


def test_info_vae_draws_true_samples_from_a_mixture_too():
    model = vae()
    model.prior = MixturePrior(2, components=3)
    terms = InfoVAE(model).losses("model", {"x": data()}, 0)
    assert terms["mmd"] > 0
