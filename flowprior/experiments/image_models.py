"""Builders of models of images that only configs need: ladders, and invertible layers around a model."""

from collections.abc import Callable
from typing import Any

from flowprior.bijectors import Bijector, Pixels
from flowprior.models import Autoencoder, FlowPosterior, Ladder, Likelihood, PartiallyInvertible
from flowprior.networks import LadderDecoder, LadderEncoder
from flowprior.priors import Prior


def ladder(
    size: int,
    channels: int,
    prior: Callable[..., Prior],
    features: int = 128,
    width: float = 1.0,
    decoder_width: float | None = None,
    residual: bool = False,
    layers: int | None = None,
    latent_channels: int = 32,
    flow_posteriors: bool = False,
    classes: int | None = None,
    likelihood: Likelihood | None = None,
) -> Ladder:
    """A ladder whose parts agree on sizes and classes.

    Args:
        prior: takes `features`, the entries of the top latent.
        width, decoder_width: of both networks, or of the decoder where it differs.
        flow_posteriors: of every latent, the top one too.
        size, channels, residual, classes: as for `LadderEncoder`.
        layers, latent_channels, likelihood: as for `Ladder`.
    """
    options: dict[str, Any] = {"residual": residual, "classes": classes}
    return Ladder(
        LadderEncoder(channels, size, width=width, **options),
        LadderDecoder(features, channels, size, width=decoder_width or width, **options),
        prior(features=features),
        layers=layers,
        latent_channels=latent_channels,
        flow_posteriors=flow_posteriors,
        posterior=FlowPosterior(features) if flow_posteriors else None,
        likelihood=likelihood,
        classes=classes,
    )


def partially_invertible(
    size: int,
    channels: int,
    model: Callable[..., Autoencoder],
    f: Callable[..., Bijector] | None = None,
    transform: str = "scale",
    noise: bool = True,
) -> PartiallyInvertible:
    """A `PartiallyInvertible` of images whose parts agree on the size.

    Args:
        model: makes the model of y.
        f: takes `event_shape`, such as `MultiScale`; None for the VAE.
        transform: of the `Pixels`.
        noise: as for `PartiallyInvertible`.
    """
    shape = (channels, size, size)
    flow = None if f is None else f(event_shape=shape)
    return PartiallyInvertible(model(), flow, Pixels(shape, transform), noise=noise)
