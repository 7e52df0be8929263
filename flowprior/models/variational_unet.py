"""The Variational U-net: an autoencoder of appearance, all of whose parts see the shape."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowprior.bijectors.weight_norm import starting_from_data
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder, evaluating
from flowprior.models.likelihoods import LaplaceLikelihood, Likelihood
from flowprior.models.posteriors import Posterior, UnitGaussianPosterior
from flowprior.networks.variational_unet import ShapeBranch
from flowprior.priors import Prior
from flowprior.tensors import batch_shape_of, broadcast_batches, flat_rows, numel


class Condition(NamedTuple):
    """y (*batch, Cy, H, W) and the shape branch's maps of it, (*batch, K, h, w) each, finest to coarsest."""

    context: Tensor
    maps: tuple[Tensor, ...]


class VariationalUnet(Autoencoder):
    """p(x|y) = ∫ p(x|y, z) p(z|y) dz with q(z|x, y); the context y is an image, such as a pose or edges.

    z is one flat vector: the coarse latent map (C, s, s), then the fine one (C, 2s, 2s). The decoder has the
    shape branch's maps of y as skips, and the prior sees those of the two latent scales, flattened, coarse
    first. Published with a Gaussian prior; with a flow prior and `Bilevel(beta=0)` it is Morrow & Chiu's.

    A prior that learns from codes which nothing regularizes wants other maps than the decoder does: an
    `EmbeddedPrior` sees y itself, through a network of its own such as `ShapeEmbedding`.

    Args:
        shape: y (N, Cy, H, W) -> maps.
        encoder: (x, y) -> (N, posterior.out_features(D)), such as `AppearanceEncoder`.
        decoder: (z (N, D), maps) -> (N, *data) before the likelihood's activation, such as `UnetDecoder`.
        prior: of event shape (D,), unconditional, on the `context_features` of the two maps together, or on
            those (Cy, H, W) of y itself.
        posterior, likelihood: by default of unit variance, as published, and L1.

    Raises:
        InputError: if the prior is for contexts of another size.

    Source: Esser, Sutter & Ommer 2018, Eq. 5 and section 3; Morrow & Chiu, section 7, Eq. 17.
    """

    initialized: Tensor

    def __init__(
        self,
        shape: ShapeBranch,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Prior,
        *,
        posterior: Posterior | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        posterior = UnitGaussianPosterior() if posterior is None else posterior
        likelihood = LaplaceLikelihood() if likelihood is None else likelihood
        super().__init__(encoder, decoder, prior, posterior=posterior, likelihood=likelihood)
        self.shape = shape
        features = sum(numel(maps) for maps in shape.scales.context_shapes)
        if prior.context_features not in (None, features, shape.context_shape):
            raise InputError(
                f"`prior` was built with `context_features` (={prior.context_features}) but the shape branch "
                f"gives it {features}: build it with that, with {shape.context_shape} to see the condition "
                "itself, or without."
            )
        self.register_buffer("initialized", torch.tensor(0))  # 1 once `initialize` was called

    @property
    def context_shape(self) -> tuple[int, ...]:
        """(Cy, H, W)."""
        return self.shape.context_shape

    def condition(self, context: Tensor | None) -> Condition:
        """y (*batch, Cy, H, W) and the shape branch's maps of it; raises InputError as `check_context`."""
        context = self.check_context(context)
        rows, batch_shape = flat_rows(context, 3)
        maps = tuple(each.reshape(*batch_shape, *each.shape[1:]) for each in self.shape(rows))
        return Condition(context, maps)

    def prior_context(self, condition: Condition) -> Tensor | None:
        """The maps at the latent scales (*batch, context_features), or y, or None, as the prior was built."""
        if self.prior.context_features is None:
            return None
        if self.prior.context_shape == self.context_shape:
            return condition.context
        return self.shape.latent_context(condition.maps)

    def encoder_inputs(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """x and y; raises InputError as `check_context`."""
        return (x, self.check_context(context))

    def conditioned_output(self, z: Tensor, condition: Condition) -> Tensor:
        """z (*batch, D) and a condition whose batch broadcasts against it -> (*batch, *data)."""
        batch_shape = batch_shape_of(z, self.prior.event_shape)
        shape = broadcast_batches(batch_shape, condition.context.shape[:-3], "z", "context")
        maps = [flat_rows(each.expand(*shape, *each.shape[-3:]), 3)[0] for each in condition.maps]
        output = self.decoder(z.expand(*shape, -1).reshape(numel(shape), -1), maps)
        return output.reshape(*shape, *output.shape[1:])

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Start the weight-normalized convolutions from examples, once: a trained model stays as it is.

        "x" (N, *data) and "context" (N, Cy, H, W) are floats; published: the first four batches.

        Source: Salimans & Kingma 2016, section 3.
        """
        if self.initialized:
            return
        x, context = (batch[name].to(self.device, self.prior.dtype) for name in ("x", "context"))
        with evaluating(self), starting_from_data(self):
            z = self.encode(x, context).sample()
            self.decoder_output(z, context)
            if self.prior.context_shape == self.context_shape:
                self.prior.sample(1, context)  # an embedding of the prior's own
        self.initialized.fill_(1)
