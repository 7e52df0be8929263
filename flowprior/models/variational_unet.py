"""The Variational U-net: an autoencoder of appearance, all of whose parts see the shape."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder, evaluating
from flowprior.models.likelihoods import LaplaceLikelihood, Likelihood
from flowprior.models.posteriors import Posterior, UnitGaussianPosterior
from flowprior.networks.variational_unet import ShapeBranch
from flowprior.networks.weight_norm import starting_from_data
from flowprior.priors import Prior
from flowprior.priors.prior import broadcast_batches
from flowprior.tensors import batch_shape_of, flat_rows, numel


class VariationalUnet(Autoencoder):
    """p(x|y) = ∫ p(x|y, z) p(z|y) dz with q(z|x, y); the context y is an image, such as a pose or edges.

    z is one flat vector: the coarse latent map (C, s, s), then the fine one (C, 2s, 2s). A `condition` is the
    shape branch's maps of y; the decoder has them as skips, and the prior sees those of the two latent
    scales, flattened, coarse first. The published model has a Gaussian prior in its objective's KL; with a
    flow prior and `Bilevel(beta=0)` it is that of Morrow & Chiu.

    Args:
        shape: y (N, Cy, H, W) -> maps.
        encoder: (x, y) -> (N, posterior.out_features(D)), such as `AppearanceEncoder`.
        decoder: (z (N, D), maps) -> (N, *data) before the likelihood's activation, such as `UnetDecoder`.
        prior: of event shape (D,), unconditional or on the `context_features` of the two maps together.
        posterior: of unit variance by default, as published.
        likelihood: L1 by default.

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
        super().__init__(
            encoder,
            decoder,
            prior,
            posterior=UnitGaussianPosterior() if posterior is None else posterior,
            likelihood=LaplaceLikelihood() if likelihood is None else likelihood,
        )
        self.shape = shape
        features = sum(numel(shape) for shape in shape.scales.context_shapes)
        if prior.context_features not in (None, features):
            raise InputError(
                f"`prior` was built with `context_features` (={prior.context_features}) but the shape branch "
                f"gives it {features}: build it with that, or without."
            )
        self.register_buffer("initialized", torch.tensor(0))  # 1 once `initialize` was called

    @property
    def context_shape(self) -> tuple[int, ...]:
        """(Cy, H, W)."""
        return self.shape.context_shape

    def condition(self, context: Tensor | None) -> tuple[Tensor, ...]:
        """The shape branch's maps of y (*batch, Cy, H, W): (*batch, K, h, w) each, finest to coarsest.

        Raises:
            InputError: if the context is missing or of another shape.
        """
        rows, batch_shape = flat_rows(self.check_context(context), 3)
        maps = self.shape(rows)
        return tuple(each.reshape(*batch_shape, *each.shape[1:]) for each in maps)

    def prior_context(self, condition: Sequence[Tensor]) -> Tensor | None:
        """The maps at the two latent scales, (*batch, context_features); None for an unconditional prior."""
        if self.prior.context_features is None:
            return None
        return torch.cat([maps.flatten(-3) for maps in self.shape.latent_maps(condition)], -1)

    def encoder_inputs(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """x and y.

        Raises:
            InputError: if the context is missing or of another shape.
        """
        return (x, self.check_context(context))

    def conditioned_output(self, z: Tensor, condition: Sequence[Tensor]) -> Tensor:
        """z (*batch, D) and maps whose batch broadcasts against it -> (*batch, *data)."""
        batch_shape = batch_shape_of(z, self.prior.event_shape)
        shape = broadcast_batches(batch_shape, condition[0].shape[:-3], "z", "context")
        maps = [flat_rows(each.expand(*shape, *each.shape[-3:]), 3)[0] for each in condition]
        output = self.decoder(z.expand(*shape, -1).reshape(numel(shape), -1), maps)
        return output.reshape(*shape, *output.shape[1:])

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Start the weight-normalised convolutions from examples, once: a trained model stays as it is.

        Args:
            batch: "x" (N, *data) and "context" (N, Cy, H, W), floats; published: the first four batches.

        Source: Salimans & Kingma 2016, section 3.
        """
        if self.initialized:
            return
        x, context = (batch[name].to(self.device, self.prior.dtype) for name in ("x", "context"))
        with evaluating(self), starting_from_data(self):
            z = self.encode(x, context).sample()
            self.decoder_output(z, context)
        self.initialized.fill_(1)
