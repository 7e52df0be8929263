"""Reconstruction errors and latent likelihoods against their closed forms."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from flowprior.errors import InputError
from flowprior.metrics import latent_nll, reconstruction_error


def test_errors_are_means_over_all_images_whatever_the_batches():
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (11, 3, 4, 5), dtype=torch.uint8, generator=generator)
    x = stored.double() / 255
    back = (0.8 * x + 0.1).float()
    found = reconstruction_error(stored, lambda batch: 0.8 * batch + 0.1, batch_size=4)
    error = (back.double() - x).square()
    assert found.mse == pytest.approx(error.mean().item(), rel=1e-5)
    assert found.squared_error == pytest.approx(error.sum((1, 2, 3)).mean().item(), rel=1e-5)
    assert found.psnr == pytest.approx((-10 * error.mean((1, 2, 3)).log10()).mean().item(), rel=1e-5)
    assert found.images == 11


def test_perfect_images_count_100_db():
    found = reconstruction_error(torch.rand(3, 1, 4, 4), torch.clone)
    assert (found.mse, found.psnr) == (0.0, pytest.approx(100.0))


def test_wrong_reconstructions_are_named():
    with pytest.raises(InputError, match=r"shape \(2, 1, 4, 3\) for images of shape \(2, 1, 4, 4\)"):
        reconstruction_error(torch.rand(2, 1, 4, 4), lambda x: x[..., :3])
    with pytest.raises(InputError, match="N > 0"):
        reconstruction_error(torch.rand(0, 1, 4, 4), torch.clone)


def test_nll_of_gaussian_latents():
    z = torch.randn(1000, 2, 3, generator=torch.Generator().manual_seed(0))
    prior = Independent(Normal(torch.zeros(2, 3), 2.0), 2)
    found = latent_nll(prior.log_prob, z, batch_size=300)
    nats = (0.5 * z.double().square() / 4 + math.log(2) + 0.5 * math.log(2 * math.pi)).sum((1, 2))
    assert found.mean == pytest.approx(nats.mean().item(), rel=1e-6)
    assert found.standard_error == pytest.approx(nats.std().item() / math.sqrt(1000), rel=1e-5)
    assert found.bpd == pytest.approx(nats.mean().item() / 6 / math.log(2), rel=1e-6)
    assert (found.samples, found.dimensions) == (1000, 6)


def test_context_goes_along_row_by_row():
    context = torch.arange(10.0)[:, None]
    z = context + 1

    def log_prob(z: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return Independent(Normal(context, 1.0), 1).log_prob(z)

    found = latent_nll(log_prob, z, context, batch_size=3)
    assert found.mean == pytest.approx(0.5 + 0.5 * math.log(2 * math.pi), rel=1e-6)
    assert found.standard_error == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputError, match="each of the 10 rows"):
        latent_nll(log_prob, z, context[:4])


def test_wrong_latents_are_named():
    prior = Normal(torch.zeros(3), 1.0, validate_args=False)
    with pytest.raises(InputError, match=r"shape \(5, 3\) for 5 latents"):
        latent_nll(prior.log_prob, torch.zeros(5, 3))
    joined = Independent(prior, 1, validate_args=False)
    z = torch.zeros(5, 3)
    z[1, 2] = torch.nan
    with pytest.raises(InputError, match="`log_prob` holds NaN or infinity in 1 of 5 rows"):
        latent_nll(joined.log_prob, z)
    with pytest.raises(InputError, match="N > 0"):
        latent_nll(joined.log_prob, torch.zeros(0, 3))
