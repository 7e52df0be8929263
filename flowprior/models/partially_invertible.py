"""A VAE of features f(x) of an invertible f: pixels that are dependent given z, with a likelihood of x."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowprior.bijectors import Bijector, Pixels
from flowprior.bijectors.image import LEVELS
from flowprior.bijectors.weight_norm import starting_from_data
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder, evaluating
from flowprior.models.inference import Bound, Inference
from flowprior.models.likelihoods import Likelihood
from flowprior.models.posteriors import Posterior
from flowprior.priors import Prior


class PartiallyInvertible(Autoencoder):
    """log p(x) ≥ E_q[log p(f(x)|z)] - KL(q(z|f(x)) ‖ p(z)) + log|det df/dx|, the piVAE; without f the VAE.

    `model` encodes and decodes y = f(x) in place of x. x = f⁻¹(y) with y ~ p(y|z): `sample` and `reconstruct`
    draw the likelihood's noise in feature space, before f⁻¹ (Appendix E), so that an adversary that sees
    samples has a gradient for its variance.

    Stored images are dequantized by `pixels`, with fresh noise each time, and carried to the real line before
    f; the volume counts, so that `log_bound` is in nats on the scale of x in [0, 1], whatever the scaling.
    Without `pixels` x is taken as continuous.

    Args:
        model: any autoencoder of y, such as a `Ladder`.
        f: a bijector of the event shape of x; None for the identity.
        pixels: for images; None for continuous data.
        noise: whether samples and reconstructions have the likelihood's noise; without it f⁻¹ takes the mean
            of y, as a GAN's generator has it.

    Raises:
        InputError: if f and pixels are of two event shapes.

    Source: Lucas et al. 2019, Eq. 4 to 6, section 4.1 and Appendix E.
    """

    single_latent = False
    initialized: Tensor

    def __init__(
        self,
        model: Autoencoder,
        f: Bijector | None = None,
        pixels: Pixels | None = None,
        *,
        noise: bool = True,
    ) -> None:
        nn.Module.__init__(self)  # encoder, decoder, prior and the rest are those of the inner model
        if f is not None and pixels is not None and f.event_shape != pixels.event_shape:
            shapes = f"{tuple(f.event_shape)} and `pixels` {tuple(pixels.event_shape)}"
            raise InputError(f"`f` has event shape {shapes}: build both for the data.")
        self.model, self.f, self.pixels, self.noise = model, f, pixels, noise
        self.register_buffer("initialized", torch.tensor(0))  # 1 once `initialize` was called

    # What stands for the inner model's own.

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """Reads y."""
        return self.model.encoder

    @property
    def decoder(self) -> nn.Module:  # type: ignore[override]
        """Gives what the likelihood of y reads."""
        return self.model.decoder

    @property
    def prior(self) -> Prior:  # type: ignore[override]
        """Of z, or of the top latent."""
        return self.model.prior

    @property
    def posterior(self) -> Posterior:  # type: ignore[override]
        """q(z|y)."""
        return self.model.posterior

    @property
    def likelihood(self) -> Likelihood:  # type: ignore[override]
        """p(y|z), in feature space."""
        return self.model.likelihood

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """That of the inner model."""
        return self.model.context_shape

    def condition(self, context: Tensor | None) -> Any:
        """As the inner model's."""
        return self.model.condition(context)

    def prior_context(self, condition: Any) -> Tensor | None:
        """As the inner model's."""
        return self.model.prior_context(condition)

    def conditioned_output(self, z: Tensor, condition: Any) -> Tensor:
        """What the likelihood of y reads."""
        return self.model.conditioned_output(z, condition)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The inner model's, and "flow", which the likelihood alone trains."""
        return self.model.parts() | ({} if self.f is None else {"flow": [self.f]})

    @property
    def levels(self) -> int | None:  # type: ignore[override]
        """256 with pixels."""
        return None if self.pixels is None else LEVELS

    # Between x and y.

    def dequantized(self, x: Tensor) -> Tensor:
        """Stored images with fresh noise within their levels; continuous data as it is."""
        return x if self.pixels is None else self.pixels.dequantize(x)

    def features(self, x: Tensor, noise: bool = True) -> tuple[Tensor, Tensor]:
        """y = f(x) (N, *data) and log|det dy/dx| (N,); without noise stored pixels are in the middle of their
        bins."""
        y, volume = x, x.new_zeros(len(x))
        if self.pixels is not None:
            y, volume = self.pixels.to_base(self.pixels.dequantize(x, noise))
        if self.f is None:
            return y, volume
        y, logabsdet = self.f.to_base(y)
        return y, volume + logabsdet

    def images(self, y: Tensor, train_flow: bool = True) -> Tensor:
        """x = f⁻¹(y): (N, *data) -> (N, *data), dequantized if there are pixels.

        With `train_flow=False` the gradient passes through f⁻¹ to y, not into the parameters of f.
        """
        if self.f is not None and train_flow:
            y, _ = self.f.from_base(y)
        elif self.f is not None:
            held = {name: each.detach() for name, each in self.f.named_parameters()}
            y, _ = torch.func.functional_call(_Inverse(self.f), {f"f.{n}": t for n, t in held.items()}, (y,))
        return y if self.pixels is None else self.pixels.from_base(y)[0]

    def _spread(self, output: Tensor) -> Tensor:
        """y ~ p(y|z), or its mean without noise."""
        return self.likelihood.sample(output) if self.noise else self.likelihood.mean(output)

    # The contract.

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """q(z|f(x)), stored pixels in the middle of their bins."""
        return self.model.encode(self.features(x, noise=False)[0], context)

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """f⁻¹ of the mean of p(y|z), images in [0, 1]: z (*batch, *event) -> (*batch, *data)."""
        return self._in_range(self.images(self.model.decode(z, context)))

    def infer(self, x: Tensor, context: Tensor | None = None, *, closed_form: bool = True) -> Inference:
        """That of y = f(x) by the inner model; the output is in feature space."""
        return self.model.infer(self.features(x)[0], context, closed_form=closed_form)

    def bound(self, x: Tensor, context: Tensor | None = None, *, closed_form: bool = True) -> Bound:
        """The inner model's bound on y, the volume of f counted to the reconstruction."""
        y, volume = self.features(x)
        reconstruction, kl = self.model.bound(y, context, closed_form=closed_form)
        return Bound(reconstruction - volume, kl)

    def reconstruction_nll(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """-log p(x|z) in nats: x (N, *data), z (N, *event) -> (N,)."""
        y, volume = self.features(x)
        return self.model.reconstruction_nll(y, z, context) - volume

    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x through the posteriors' means and back, with the noise of p(y|z): (N, *data) -> (N, *data)."""
        y, _ = self.features(x, noise=False)
        return self._in_range(self.images(self._spread(self.model.mean_output(y, context))))

    def _sample(self, n: int, context: Tensor | None, size: int, draw: Callable[..., Tensor]) -> Tensor:
        return self._in_range(super()._sample(n, context, size, draw))

    def _in_range(self, x: Tensor) -> Tensor:
        """What can be shown of images: a density on the real line reaches beyond [0, 1]."""
        return x if self.pixels is None else x.clamp(0, 1)

    def draw_output(self, n: int, context: Tensor | None = None) -> Tensor:
        """As the inner model's, in feature space."""
        return self.model.draw_output(n, context)

    def rsample(self, n: int, context: Tensor | None = None, train_flow: bool = True) -> Tensor:
        """`n` samples (n, *data) with the gradient of their path, into f too unless `train_flow` is false."""
        return self.images(self._spread(self.model.draw_output(n, context)), train_flow)

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Start f and the inner model from examples "x" (N, *data), once."""
        if self.initialized:
            return
        x = batch["x"].to(self.device, self.prior.dtype)
        if self.f is not None:
            y = x if self.pixels is None else self.pixels.to_base(self.pixels.dequantize(x))[0]
            with evaluating(self), starting_from_data(self.f):
                self.f.initialize(y)
        with evaluating(self):
            self.model.initialize({**batch, "x": self.features(x)[0]})
        self.initialized.fill_(1)


class _Inverse(nn.Module):
    """`from_base` of a bijector as a call."""

    def __init__(self, f: Bijector) -> None:
        super().__init__()
        self.f = f

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.f.from_base(y)
