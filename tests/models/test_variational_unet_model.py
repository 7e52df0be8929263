"""The Variational U-net as a model: context through every door, its data-dependent start, errors."""

import copy

import pytest
import torch

from flowprior.errors import InputError
from flowprior.models import (
    Autoencoder,
    DeterministicPosterior,
    GaussianPosterior,
    LaplaceLikelihood,
    UnitGaussianPosterior,
    VariationalUnet,
)
from flowprior.networks import MLP, AppearanceEncoder, ShapeBranch, ShapeEmbedding, UnetDecoder, UnetScales
from flowprior.priors import EmbeddedPrior, FlowPrior, StandardNormal

SCALES = UnetScales(32, filters=2, max_filters=4, blocks=1, dropout=0.2)
DIMENSIONS = 2 * 16 + 2 * 64
CONTEXT = 4 * 16 + 4 * 64


def flow(context_features: int | None = CONTEXT) -> FlowPrior:
    return FlowPrior(DIMENSIONS, transforms=2, hidden_features=(4,), context_features=context_features)


def unet(prior=None, posterior=None) -> VariationalUnet:
    torch.manual_seed(0)
    posterior = UnitGaussianPosterior() if posterior is None else posterior
    return VariationalUnet(
        ShapeBranch(1, SCALES),
        AppearanceEncoder(3, 1, 2, SCALES, multiplier=posterior.multiplier),
        UnetDecoder(3, 2, SCALES),
        flow() if prior is None else prior,
        posterior=posterior,
    )


def pairs(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(n, 3, 32, 32), torch.rand(n, 1, 32, 32)


@pytest.mark.parametrize(
    "posterior", [UnitGaussianPosterior(), DeterministicPosterior(), GaussianPosterior()]
)
@pytest.mark.parametrize("prior", [flow, lambda: StandardNormal(DIMENSIONS)], ids=["conditional", "not"])
def test_shapes(posterior, prior):
    model = unet(prior(), posterior)
    x, y = pairs()
    q = model.encode(x, y)
    assert (q.batch_shape, q.event_shape) == ((3,), (DIMENSIONS,))
    assert model.reconstruct(x, y).shape == x.shape
    assert model.reconstruction_nll(x, q.rsample(), y).shape == (3,)
    assert model.sample(2, y).shape == (2, 3, 3, 32, 32)
    assert model.sample(2, y[0]).shape == (2, 3, 32, 32)
    assert model.sample(2, y.reshape(3, 1, 1, 32, 32)).shape == (2, 3, 1, 3, 32, 32)
    assert model.codes(x, y).shape == (3, DIMENSIONS)


def test_defaults_are_the_published_ones():
    model = unet()
    x, y = pairs()
    q = model.encode(x, y)
    assert (q.stddev == 1).all()
    torch.testing.assert_close(q.mean, model.encoder(x, y), rtol=0, atol=float("inf"))
    assert isinstance(model.likelihood, LaplaceLikelihood)


def test_latents_of_any_batch_meet_their_own_context():
    model = unet().eval()
    _, y = pairs()
    z = torch.randn(5, 3, DIMENSIONS)
    images = model.decode(z, y)
    maps = model.shape(y)
    for draw in range(5):
        expected = model.likelihood.mean(model.decoder(z[draw], maps))
        torch.testing.assert_close(images[draw], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.decode(z[:, 1], y[1]), images[:, 1], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="must broadcast"):
        model.decode(z[:, :2], y)


def test_the_prior_sees_the_maps_at_the_latent_scales_coarse_first():
    model = unet().eval()
    _, y = pairs()
    condition = model.condition(y)
    maps = condition.maps
    assert [tuple(each.shape[1:]) for each in maps[-2:]] == [(4, 8, 8), (4, 4, 4)]
    expected = torch.cat([maps[-1].flatten(1), maps[-2].flatten(1)], 1)
    torch.testing.assert_close(model.prior_context(condition), expected, rtol=0, atol=0)
    assert unet(flow(None)).prior_context(condition) is None


def embedded() -> EmbeddedPrior:
    return EmbeddedPrior(flow(), ShapeEmbedding(ShapeBranch(1, SCALES)), (1, 32, 32))


def test_an_embedded_prior_sees_the_condition_itself():
    model = unet(embedded()).eval()
    y = pairs(6)[1].reshape(2, 3, 1, 32, 32)
    assert model.prior_context(model.condition(y)) is y
    z = torch.randn(2, 3, DIMENSIONS)
    maps = model.prior.embedding.branch(y.flatten(0, 1))
    seen = torch.cat([maps[-1].flatten(1), maps[-2].flatten(1)], 1).unflatten(0, (2, 3))
    torch.testing.assert_close(model.prior.log_prob(z, y), model.prior.prior.log_prob(z, seen))
    torch.testing.assert_close(model.decode(z, y), unet().eval().decode(z, y))  # the decoder does not care
    assert model.sample(2, y).shape == (2, 2, 3, 3, 32, 32)


def test_an_embedding_starts_from_data_with_the_rest():
    model = unet(embedded())
    x, y = pairs(16)
    before = {name: value.clone() for name, value in model.prior.embedding.named_parameters()}
    model.initialize({"x": x, "context": y})
    gains = [name for name in before if name.endswith("gain")]
    assert gains, "the names of weight-normalized layers"
    after = dict(model.prior.embedding.named_parameters())
    assert not any(torch.equal(after[name], before[name]) for name in gains)


def test_samples_are_decoded_prior_draws_at_their_context():
    model = unet()
    _, y = pairs()
    torch.manual_seed(2)
    samples = model.sample(2, y)
    model.eval()
    torch.manual_seed(2)
    z = model.prior.sample(2, model.prior_context(model.condition(y)))
    torch.testing.assert_close(samples, model.decode(z, y).detach())


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_samples_of_a_narrow_prior_are_the_same_whatever_the_chunks(batch_size):
    prior = flow()
    with torch.no_grad():  # z0 = 1e6 z - m(c): all draws lie within 1e-5 of what the context says
        prior.initialize(
            torch.randn(400, DIMENSIONS) * 1e-6, torch.randn(400, CONTEXT), standardize="diagonal"
        )
    model = unet(prior)
    _, y = pairs()
    expected = model.eval().decode(torch.zeros(3, DIMENSIONS), y).detach().expand(3, -1, -1, -1, -1)
    torch.testing.assert_close(model.sample(3, y, batch_size=batch_size), expected, rtol=0, atol=1e-3)


def test_codes_are_posterior_means_whatever_the_chunks():
    model = unet()
    x, y = pairs(5)
    expected = model.eval().encode(x, y).mean.detach()
    model.train()
    for codes in (
        model.codes(x, y),
        model.codes(x, y, batch_size=2),
        model.codes(iter(x.split(3)), iter(y.split(3))),
    ):
        torch.testing.assert_close(codes, expected)
    with pytest.raises(InputError, match="the same way"):
        model.codes(iter(x.split(3)), y)


def test_a_plain_model_does_not_look_at_its_context():
    torch.manual_seed(0)
    model = Autoencoder(MLP(5, 2), MLP(2, 5), FlowPrior(2, context_features=3))
    x, z, context = torch.randn(4, 5), torch.randn(4, 2), torch.eye(4)[:, :3]
    torch.testing.assert_close(model.encode(x, context).mean, model.encode(x).mean)
    torch.testing.assert_close(model.decode(z, context), model.decode(z))
    torch.testing.assert_close(model.reconstruction_nll(x, z, context), model.reconstruction_nll(x, z))
    torch.testing.assert_close(model.codes(x, context), model.codes(x))
    torch.testing.assert_close(model.reconstruct(x, context), model.reconstruct(x))
    assert model.prior_context(model.condition(context)) is context
    assert (model.context_shape, model.conditional) == ((3,), True)
    torch.manual_seed(1)
    drawn = model.sample(2, context, batch_size=100)
    torch.manual_seed(1)
    torch.testing.assert_close(drawn, model.decode(model.prior.sample(2, context)).detach())


def test_the_start_from_data_normalises_and_happens_once():
    model = unet()
    x, y = pairs(16)
    model.train()
    model.initialize({"x": 3 + 2 * x, "context": y})
    assert model.training
    assert model.initialized == 1
    torch.manual_seed(3)
    codes = model.codes(3 + 2 * x, y).reshape(16, -1)
    for maps in (codes[:, :32].reshape(16, 2, -1), codes[:, 32:].reshape(16, 2, -1)):
        variance, mean = torch.var_mean(maps, (0, 2), correction=0)
        torch.testing.assert_close(mean, torch.zeros(2), atol=1e-3, rtol=0)
        torch.testing.assert_close(variance, torch.ones(2), atol=1e-3, rtol=0)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    twin = copy.deepcopy(model)
    fresh = unet()
    fresh.load_state_dict(state)
    for again in (model, twin, fresh):
        again.initialize({"x": x, "context": y})
        for name, value in again.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_bfloat16_autocast_keeps_latents_and_losses_in_float32():
    model = unet()
    x, y = pairs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model.encode(x, y).rsample()
        nll = model.reconstruction_nll(x, z, y)
        log_prob = model.prior.log_prob(z, model.prior_context(model.condition(y)))
    assert z.dtype == nll.dtype == log_prob.dtype == torch.float32


def test_bad_input_is_named():
    model = unet()
    x, y = pairs()
    z = torch.zeros(3, DIMENSIONS)
    for call in (
        lambda: model.encode(x),
        lambda: model.decode(z),
        lambda: model.codes(x),
        lambda: model.reconstruct(x),
    ):
        with pytest.raises(
            InputError, match=r"`context` is missing: this VariationalUnet .*\(\*batch, 1, 32, 32\)"
        ):
            call()
    for wrong in (x, y[:, :, :16], y[0, 0]):
        for call in (model.encode, model.reconstruct):
            with pytest.raises(InputError, match=r"`context` has shape \(.*reads \(\*batch, 1, 32, 32\)"):
                call(x, wrong)
        with pytest.raises(InputError, match="`context` has shape"):
            model.sample(2, wrong)
        with pytest.raises(InputError, match="`context` has shape"):
            model.decode(z, wrong)
    with pytest.raises(InputError, match="2 rows"):
        model.encode(x, y[:2])
    with pytest.raises(InputError, match="uint8"):
        model.encode(x, (255 * y).byte())
    with pytest.raises(InputError, match=r"`context_features` \(=7\) but the shape branch gives it 320"):
        unet(flow(7))
