"""The autoencoder: an encoder, a decoder, a prior over z, and how their outputs are read."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowprior.errors import InputError
from flowprior.models.likelihoods import GaussianLikelihood, Likelihood
from flowprior.models.posteriors import DeterministicPosterior, Posterior
from flowprior.priors import Prior
from flowprior.tensors import batch_shape_of, numel


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; afterwards every submodule has the mode it had before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class Autoencoder(nn.Module):
    """Encoder and decoder around a latent z whose prior is learned: VAE, GLF, or a plain autoencoder.

    Args:
        encoder: x (N, *data) -> (N, posterior.out_features(prior.event_shape)).
        decoder: (N, D) -> (N, *data) before the likelihood's activation; D counts the event shape's elements.
        prior: over z; its event shape is that of z.
        posterior: reads the encoder's output; deterministic by default, as GLF.
        likelihood: reads the decoder's output; Gaussian of variance one by default.

    Raises:
        InputError: if `prior` is not a `Prior`.

    >>> from flowprior.networks import MLP
    >>> from flowprior.priors import StandardNormal
    >>> model = Autoencoder(MLP(5, 2), MLP(2, 5), StandardNormal(2))
    >>> model.sample(3).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Prior,
        *,
        posterior: Posterior | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(prior, Prior):
            raise InputError(
                f"`prior` (a {type(prior).__name__}) must be a Prior module, such as FlowPrior(20), "
                "not a distribution."
            )
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.posterior = DeterministicPosterior() if posterior is None else posterior
        self.likelihood = GaussianLikelihood() if likelihood is None else likelihood

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x) for x (N, *data): batch shape (N,), event shape that of the prior."""
        return self.posterior(self.encoder(x), self.prior.event_shape)

    def decoder_output(self, z: Tensor) -> Tensor:
        """What the likelihood reads: z (*batch, *event) -> (*batch, *data).

        Raises:
            InputError: if `z` does not end in the prior's event shape.
        """
        batch_shape = batch_shape_of(z, self.prior.event_shape)
        output = self.decoder(z.reshape(numel(batch_shape), numel(self.prior.event_shape)))
        return output.reshape(*batch_shape, *output.shape[1:])

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x|z): z (*batch, *event) -> (*batch, *data); gradients flow.

        Raises:
            InputError: if `z` does not end in the prior's event shape.
        """
        return self.likelihood.mean(self.decoder_output(z))

    def reconstruction_nll(self, x: Tensor, z: Tensor) -> Tensor:
        """-log p(x|z) in nats: x (N, *data), z (N, *event) -> (N,)."""
        return self.likelihood.nll(self.decoder_output(z), x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """x through the posterior's mean and back: (N, *data) -> (N, *data), in the mode the model is in."""
        return self.decode(self.encode(x).mean)

    def codes(self, x: Tensor | Iterable[Tensor], batch_size: int = 512) -> Tensor:
        """The posterior means of a whole data set: x (N, *data), or batches of it -> (N, *event).

        Evaluation mode, no gradients, a chunk at a time: `x` may be on another device than the model, and the
        codes come back on the device of `x`. Images are floats in [0, 1].

        Raises:
            InputError: if `x` is empty, or not of a floating dtype.
        """
        chunks = x.split(check_batch_size(batch_size)) if isinstance(x, Tensor) else x
        with evaluating(self):
            found = [self._chunk_codes(chunk) for chunk in chunks if len(chunk)]
        if not found:
            raise InputError("`x` is empty: give at least one example to encode.")
        return torch.cat(found)

    def _chunk_codes(self, chunk: Tensor) -> Tensor:
        if not chunk.is_floating_point():
            raise InputError(
                f"`x` has dtype {chunk.dtype} but must be float, images in [0, 1]: use `x / 255`."
            )
        return self.encode(chunk.to(self.device)).mean.to(chunk.device)

    def sample(self, n: int, context: Tensor | None = None, batch_size: int = 512) -> Tensor:
        """n mean images of z from the prior, without gradients: (n, *batch, *data).

        Evaluation mode; the decoder sees at most `batch_size` latents at a time.

        Args:
            n: draws, for each row of the context where there is one.
            context: (*batch, C) for a conditional prior.
            batch_size: latents a decoder call.
        """
        with evaluating(self):
            z = self.prior.sample(n, context)
            batch_shape = batch_shape_of(z, self.prior.event_shape)
            chunks = z.reshape(-1, *self.prior.event_shape).split(check_batch_size(batch_size))
            images = torch.cat([self.decode(chunk) for chunk in chunks])
        return images.reshape(*batch_shape, *images.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the encoder's first parameter lives."""
        return next(self.encoder.parameters()).device


def check_batch_size(batch_size: int) -> int:
    """`batch_size`, a positive int.

    Raises:
        InputError: if it is anything else.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"`batch_size` (={batch_size!r}) must be a positive int, such as 512.")
    return batch_size
