"""Bits per dimension against the truth, and classifiers that learn on samples or on data."""

import math

import numpy as np
import pytest
import torch

from flowprior.data import Source
from flowprior.errors import InputError
from flowprior.evaluation import measure
from flowprior.experiments.image_models import ladder, partially_invertible
from flowprior.models import Autoencoder
from flowprior.networks import MLP
from flowprior.priors import StandardNormal


def source(tmp_path) -> Source:
    """Three classes, told apart by which third of the rows is bright."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    images = torch.randint(60, (240, 1, 16, 16), generator=generator)
    for row, label in enumerate(labels):
        images[row, :, 5 * label : 5 * label + 5] += 180
    arrays = {"images": images.to(torch.uint8).numpy(), "labels": labels.numpy()}

    np.savez(tmp_path / "bands.npz", **arrays)
    return Source(str(tmp_path / "bands.npz"))


def model(classes: int | None = None):
    torch.manual_seed(0)

    def inner():
        return ladder(16, 1, StandardNormal, features=3, width=0.03, latent_channels=2, classes=classes)

    return partially_invertible(16, 1, inner).eval()


def test_bits_are_those_of_the_bound_and_importance_sampling_lowers_them(tmp_path) -> None:
    data, built = source(tmp_path), model()
    measured = measure(built, data, ("bpd", "iw_bpd"), importance_samples=20)
    torch.manual_seed(0)
    x = data.test().x.float() / 255
    bits = torch.stack([-built.log_bound(x).mean() for _ in range(50)]) / (256 * math.log(2)) + 8
    assert measured.values["bpd"] == pytest.approx(bits.mean().item(), abs=5 * bits.std().item() + 1e-4)
    assert measured.values["iw_bpd"] < measured.values["bpd"]
    assert measured.values["iw_bpd"] == pytest.approx(measured.values["bpd"], abs=0.1)
    facts = measured.facts["bpd"]
    assert facts["reconstruction"] + facts["kl"] == pytest.approx(measured.values["bpd"])


def test_bits_are_refused_to_a_density_of_continuous_pixels(tmp_path) -> None:
    plain = Autoencoder(MLP(256, 2), MLP(2, 256), StandardNormal(2))
    with pytest.raises(InputError, match="'bpd' needs"):
        measure(plain, source(tmp_path), ("bpd",))
    with pytest.raises(InputError, match="'iw_nll' needs a model that is encoder, draw and decoder"):
        measure(model(), source(tmp_path), ("iw_nll",))


def test_gan_train_and_gan_test_tell_a_model_that_draws_its_classes_from_one_that_does_not(tmp_path) -> None:
    data, built = source(tmp_path), model(3)
    x, label = data.train().x.float() / 255, data.train().label

    def drawing(shift: int):
        def rsample(n, context=None, train_flow=True):
            rows = [(label == int(each)).nonzero().flatten() for each in (context.argmax(1) + shift) % 3]
            return torch.stack([x[own[torch.randint(len(own), ())]] for own in rows])

        return rsample

    values = []
    for shift in (0, 1):
        built.rsample = drawing(shift)
        values.append(measure(built, data, ("gan_train", "gan_test"), count=120).values)
    assert values[0]["gan_train"] > 0.9
    assert values[0]["gan_test"] > 0.9
    assert values[1]["gan_train"] < 0.1
    assert values[1]["gan_test"] < 0.1
