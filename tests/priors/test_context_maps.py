"""Contexts that are maps (K, H, W): shapes, sentences, the mean they give, saving, fitting."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from flowprior import DecoupledPrior, FlowPrior, InputError, MixturePrior, Prior
from flowprior.priors import GaussianPrior
from flowprior.training.fit import fit

EVENT, MAPS = (2, 4, 4), (3, 8, 8)
KINDS = {
    "spatial": lambda: FlowPrior(
        EVENT, recipe="spatial", transforms=2, hidden_features=(6, 6), context_features=MAPS
    ),
    "spatial-pyro": lambda: FlowPrior(
        EVENT,
        recipe="spatial",
        transforms=2,
        hidden_features=(6, 6),
        context_features=MAPS,
        backend="pyro",
        base=MixturePrior(EVENT, components=3),
    ),
    "flat": lambda: FlowPrior(EVENT, transforms=2, hidden_features=(8,), context_features=MAPS),
    "gaussian": lambda: GaussianPrior(EVENT, MAPS, hidden_features=(6, 6)),
    "groups": lambda: GaussianPrior(EVENT, MAPS, hidden_features=(6, 6), groups=4),
    "decoupled": lambda: DecoupledPrior(GaussianPrior(EVENT, MAPS, hidden_features=(6, 6), groups=4)),
}


@pytest.fixture(params=KINDS)
def prior(request: pytest.FixtureRequest) -> Prior:
    """Each prior that reads context maps, in float64, with every parameter off its start."""
    built = KINDS[request.param]().double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def test_shapes_and_broadcasting(prior):
    """Batches of z and of maps broadcast as those of vectors do, to the numbers of one at a time."""
    assert prior.context_features == MAPS
    assert prior.context_shape == MAPS
    for batch, given in (((), ()), ((3,), (3,)), ((2, 3), (3,)), ((), (4,)), ((3,), (2, 1))):
        z, context = torch.randn(*batch, *EVENT).double(), torch.randn(*given, *MAPS).double()
        full = torch.broadcast_shapes(batch, given)
        log_prob = prior.log_prob(z, context)
        assert log_prob.shape == full
        z0, logabsdet = prior.to_base(z, context)
        assert (z0.shape, logabsdet.shape) == (full + EVENT, full)
        back, inverse = prior.from_base(z0, context)
        torch.testing.assert_close(back, z.expand(full + EVENT))
        torch.testing.assert_close(inverse, -logabsdet)
        rows = z.expand(full + EVENT).reshape(-1, *EVENT), context.expand(full + MAPS).reshape(-1, *MAPS)
        one_by_one = [prior.log_prob(row, own) for row, own in zip(*rows, strict=True)]
        torch.testing.assert_close(log_prob.flatten(), torch.stack(one_by_one))
        p = prior(context)
        assert (p.batch_shape, p.event_shape) == (given, EVENT)
        assert p.sample((5,)).shape == (5, *given, *EVENT)
        wide = p.expand((2, *full))
        assert wide.sample().shape == (2, *full, *EVENT)
        torch.testing.assert_close(wide.log_prob(z), log_prob.expand(2, *full))


def test_the_jacobian_of_to_base(prior):
    z, context = torch.randn(EVENT).double(), torch.randn(MAPS).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: prior.to_base(x, context)[0], z).reshape(32, 32)
    z0, logabsdet = prior.to_base(z, context)
    torch.testing.assert_close(logabsdet, torch.linalg.slogdet(jacobian).logabsdet)
    base = getattr(getattr(prior, "prior", prior), "base", None)
    torch.testing.assert_close(prior.log_prob(z, context), base.log_prob(z0) + logabsdet)


def test_gradients_of_z_and_of_the_maps(prior):
    z = torch.randn(1, *EVENT).double().requires_grad_()
    context = torch.randn(1, *MAPS).double().requires_grad_()
    assert torch.autograd.gradcheck(prior.log_prob, (z, context))
    (gradient,) = torch.autograd.grad(prior.log_prob(z, context), context)
    assert (gradient != 0).all()


def test_kl_of_a_distribution_and_of_the_prior_are_one(prior):
    q = Normal(torch.randn(4, *EVENT).double(), torch.rand(4, *EVENT).double() + 0.5)
    context = torch.randn(4, *MAPS).double()
    many = torch.stack([kl_divergence(q, prior(context)) for _ in range(20)])  # each a mean of draws
    other = prior.kl(Independent(q, 3).expand((1000, 4)), context=context)
    error = (many.var(0) / len(many) + other.var(0) / len(other)).sqrt() + 1e-9
    assert ((many.mean(0) - other.mean(0)).abs() < 4.5 * error).all()


def test_wrong_maps_are_named(prior):
    z = torch.zeros(5, *EVENT).double()
    with pytest.raises(InputError, match=r"`context` is missing.*\(\*batch, 3, 8, 8\)"):
        prior.log_prob(z)
    for shape in ((5, 3, 8, 4), (5, 3 * 64), (8, 8)):
        with pytest.raises(InputError, match=r"must end in `context_features` \(=\(3, 8, 8\)\), as in \(\*b"):
            prior.log_prob(z, torch.zeros(shape).double())
    with pytest.raises(InputError, match=r"one row for each of the 5 rows of `latents`: \(5, 3, 8, 8\)"):
        prior.initialize(z, torch.zeros(4, *MAPS).double())
    with pytest.raises(InputError, match="must broadcast"):
        prior.log_prob(z, torch.zeros(4, *MAPS).double())


def test_saved_and_loaded(prior, tmp_path):
    prior.save_pretrained(tmp_path)
    loaded = Prior.from_pretrained(tmp_path)
    assert loaded.context_features == MAPS
    z, context = torch.randn(3, *EVENT).double(), torch.randn(3, *MAPS).double()
    assert torch.equal(loaded.log_prob(z, context), prior.log_prob(z, context))


@pytest.mark.parametrize("context", [0, True, (3, 8, 8, 8), (3, 0, 8), (3,), "384", 2.5], ids=str)
def test_context_features_are_checked(context):
    for build in (FlowPrior, GaussianPrior):
        with pytest.raises(InputError, match=r"`context_features` \(=.*must be a positive int"):
            build(EVENT, context_features=context)


def test_the_base_mean_of_a_spatial_flow_is_a_convolution_that_starts_at_the_least_squares():
    """z = conv(c) + noise through an identity flow: the start finds the convolution."""
    prior = FlowPrior(
        EVENT,
        recipe={"coupling": "spatial", "last_layer_gain": 0.0},
        transforms=2,
        context_features=(3, 4, 4),
    )
    true = nn.Conv2d(3, 2, 3, padding=1)
    context = torch.randn(2000, 3, 4, 4)
    with torch.no_grad():
        z = true(context) + 0.1 * torch.randn(2000, *EVENT)
    prior.initialize(z, context, standardize=None)
    torch.testing.assert_close(prior.base_mean.weight, true.weight, rtol=0, atol=0.01)
    torch.testing.assert_close(prior.base_mean.bias, true.bias, rtol=0, atol=0.01)
    z0, _ = prior.to_base(z, context)
    assert z0.std() < 0.11
    vectors = FlowPrior(EVENT, recipe="spatial", transforms=2, context_features=5)
    assert vectors.base_mean.weight.shape == (32, 5)


def test_fewer_rows_than_inputs_leave_the_mean_at_zero():
    prior = FlowPrior(3, transforms=2, hidden_features=(8,), context_features=(2, 8, 8))
    prior.initialize(torch.randn(50, 3), torch.randn(50, 2, 8, 8))
    assert not prior.base_mean.weight.any()


def test_own_bijectors_read_maps():
    from flowprior.bijectors import build_bijector

    bijector = build_bijector(EVENT, "spatial", transforms=2, context_features=MAPS)
    prior = FlowPrior(EVENT, bijector=bijector, context_features=MAPS)
    z, context = torch.randn(3, *EVENT), torch.randn(3, *MAPS)
    torch.testing.assert_close(prior.to_base(z, context)[0], bijector.to_base(z, context)[0])
    vectors = build_bijector(EVENT, "glf", transforms=2, context_features=MAPS[0] * MAPS[1] * MAPS[2])
    prior = FlowPrior(EVENT, bijector=vectors, context_features=MAPS)
    flat = vectors.to_base(z, context.flatten(1))[0]
    torch.testing.assert_close(prior.to_base(z, context)[0] + prior.base_mean(context).view(z.shape), flat)


def test_fit_takes_maps():
    context = torch.rand(400, 1, 8, 8)
    cells = nn.functional.avg_pool2d(context, 2)
    z = torch.cat((4 * cells, -4 * cells), 1) + 0.1 * torch.randn(400, *EVENT)
    settings = {"recipe": "spatial", "transforms": 2, "hidden_features": (8, 8)}
    given = FlowPrior(EVENT, context_features=(1, 8, 8), **settings)
    without = FlowPrior(EVENT, **settings)
    fast = {"epochs": 3, "standardize": "diagonal", "progress": False, "device": "cpu"}
    known = fit(given, z.numpy(), context.numpy(), **fast).nll
    assert known < fit(without, z, **fast).nll - 2
