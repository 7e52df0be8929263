"""The autoencoder: shapes through every door, modes, chunks, errors."""

import copy

import pytest
import torch
from torch import nn

from flowprior.errors import InputError
from flowprior.models import (
    Autoencoder,
    BernoulliLikelihood,
    DeterministicPosterior,
    GaussianLikelihood,
    GaussianPosterior,
)
from flowprior.networks import MLP, InfoGANDecoder, InfoGANEncoder, SmallDecoder, SmallEncoder
from flowprior.priors import FlowPrior, StandardNormal


def small_model(posterior=None, **options) -> Autoencoder:
    torch.manual_seed(0)
    posterior = DeterministicPosterior() if posterior is None else posterior
    encoder = SmallEncoder(1, posterior.out_features(4), width=0.25)
    decoder = SmallDecoder(4, 1, width=0.25)
    return Autoencoder(encoder, decoder, StandardNormal(4), posterior=posterior, **options)


@pytest.mark.parametrize("posterior", [DeterministicPosterior(), GaussianPosterior()])
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (28, 3), (32, 1), (32, 3)])
def test_image_shapes(posterior, size, channels):
    torch.manual_seed(0)
    model = Autoencoder(
        InfoGANEncoder(channels, size, posterior.out_features(6), width=0.0625),
        InfoGANDecoder(6, channels, size, width=0.0625),
        StandardNormal(6),
        posterior=posterior,
    )
    x = torch.rand(3, channels, size, size)
    q = model.encode(x)
    assert (q.batch_shape, q.event_shape) == ((3,), (6,))
    assert model.reconstruct(x).shape == x.shape
    assert model.reconstruction_nll(x, q.rsample()).shape == (3,)
    assert model.sample(2).shape == (2, channels, size, size)
    assert model.codes(x).shape == (3, 6)


def test_latents_of_any_event_shape_reach_the_decoder_flat():
    torch.manual_seed(0)
    posterior = GaussianPosterior()
    encoder, decoder = MLP(5, posterior.out_features((2, 2, 3))), MLP(12, 5)
    model = Autoencoder(encoder, decoder, StandardNormal((2, 2, 3)), posterior=posterior)
    x = torch.randn(4, 5)
    q = model.encode(x)
    assert (q.batch_shape, q.event_shape) == ((4,), (2, 2, 3))
    z = q.rsample((7,))  # (7, 4, 2, 2, 3)
    expected = torch.stack([torch.cat([decoder(row.reshape(1, 12)) for row in rows]) for rows in z])
    torch.testing.assert_close(model.decoder_output(z), expected)
    assert model.decode(z).shape == (7, 4, 5)
    assert model.decode(z[0, 0]).shape == (5,)
    assert model.codes(x, batch_size=3).shape == (4, 2, 2, 3)
    assert model.sample(3).shape == (3, 5)


def test_decode_is_the_likelihoods_mean():
    model = small_model(likelihood=BernoulliLikelihood()).eval()
    z = torch.randn(3, 4)
    torch.testing.assert_close(model.decode(z), model.decoder(z).sigmoid())


def test_reconstruct_goes_through_the_posterior_mean():
    model = small_model(GaussianPosterior()).eval()
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model.reconstruct(x), model.decode(model.encoder(x)[:, :4]))


@pytest.mark.parametrize("posterior", [DeterministicPosterior(), GaussianPosterior()])
def test_codes_are_posterior_means_whatever_the_chunks(posterior):
    model = small_model(posterior)
    x = torch.rand(7, 1, 8, 8)
    model.eval()
    expected = model.encode(x).mean.detach()
    model.train()
    for codes in (model.codes(x), model.codes(x, batch_size=2), model.codes(iter(x.split(3)))):
        torch.testing.assert_close(codes, expected)
        assert not codes.requires_grad


def test_code_distributions_are_the_posteriors_whatever_the_chunks():
    model, x = small_model(GaussianPosterior()).eval(), torch.rand(7, 1, 8, 8)
    posterior = model.encode(x)
    for mean, std in (model.code_distributions(x), model.code_distributions(iter(x.split(3)))):
        torch.testing.assert_close(mean, posterior.mean.detach())
        torch.testing.assert_close(std, posterior.variance.sqrt().detach())
    codes, none = small_model(DeterministicPosterior()).code_distributions(x)
    assert none is None
    assert codes.shape == mean.shape


def test_codes_and_samples_leave_every_mode_and_statistic_as_it_was():
    model = small_model()
    model.train()
    model.encoder.eval()  # a frozen encoder must come back frozen
    before = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.codes(torch.rand(5, 1, 8, 8))
    model.sample(5)
    with pytest.raises(InputError):
        model.codes(torch.rand(5, 2))
    assert {name: module.training for name, module in model.named_modules()} == before
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_samples_are_decoded_prior_draws_whatever_the_chunks():
    model = small_model()
    torch.manual_seed(1)
    samples = model.sample(7, batch_size=3)
    torch.manual_seed(1)
    z = model.prior.sample(7)
    torch.testing.assert_close(samples, model.eval().decode(z).detach())


def test_conditional_prior():
    torch.manual_seed(0)
    model = Autoencoder(MLP(5, 2), MLP(2, 5), FlowPrior(2, context_features=3))
    assert model.sample(4, torch.eye(3)).shape == (4, 3, 5)
    with pytest.raises(InputError, match="context"):
        model.sample(4)
    with pytest.raises(InputError, match="context"):
        small_model().sample(4, torch.eye(3))


def test_whole_model_survives_the_state_dict():
    model = small_model(likelihood=GaussianLikelihood("learned"))
    other = small_model(likelihood=GaussianLikelihood("learned"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    other.load_state_dict(model.state_dict())
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(other.codes(x), model.codes(x), rtol=0, atol=0)


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_deep_copies_are_equal_and_independent(spectral_norm):
    torch.manual_seed(0)
    encoder = InfoGANEncoder(1, 28, 4, width=0.0625, spectral_norm=spectral_norm)
    model = Autoencoder(encoder, InfoGANDecoder(4, 1, 28, width=0.0625), FlowPrior(4))
    x = torch.rand(3, 1, 28, 28)
    model.encode(x).mean.sum().backward()  # copies are taken in the middle of training
    twin = copy.deepcopy(model)
    codes = model.codes(x)
    torch.testing.assert_close(twin.codes(x), codes, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    torch.testing.assert_close(twin.codes(x), codes, rtol=0, atol=0)
    assert (model.codes(x) - codes).abs().max() > 1e-3


def test_bfloat16_autocast_keeps_latents_and_losses_in_float32():
    model = small_model(GaussianPosterior())
    x = torch.rand(4, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model.encode(x).rsample()
        nll = model.reconstruction_nll(x, z)
    assert z.dtype == nll.dtype == torch.float32


def test_bad_input_is_named():
    model = small_model()
    with pytest.raises(InputError, match=r"dtype torch\.uint8"):
        model.codes(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="empty"):
        model.codes(torch.zeros(0, 1, 8, 8))
    with pytest.raises(InputError, match="`batch_size` \\(=0\\)"):
        model.codes(torch.rand(2, 1, 8, 8), batch_size=0)
    with pytest.raises(InputError, match=r"must end in the event shape \(4,\)"):
        model.decode(torch.zeros(2, 5))
    with pytest.raises(InputError, match="out_features"):
        Autoencoder(SmallEncoder(1, 5), SmallDecoder(4, 1), StandardNormal(4)).encode(torch.rand(2, 1, 8, 8))
    with pytest.raises(InputError, match="size and channels of the data"):
        model.reconstruction_nll(torch.rand(2, 3, 8, 8), torch.zeros(2, 4))
    with pytest.raises(InputError, match="`prior`"):
        Autoencoder(nn.Identity(), nn.Identity(), StandardNormal(4)())
