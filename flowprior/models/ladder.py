"""A VAE with latents at several sides of its decoder, inferred in the order in which they are sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowprior.bijectors.weight_norm import WeightNormConv2d, starting_from_data
from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.models.autoencoder import Autoencoder, evaluating
from flowprior.models.flow_posterior import FlowPosterior
from flowprior.models.inference import Inference, kl_to_normal, kl_to_prior, one_each
from flowprior.models.likelihoods import Likelihood
from flowprior.models.posteriors import GaussianPosterior, Posterior
from flowprior.networks.ladder import LadderDecoder, LadderEncoder
from flowprior.priors import Prior
from flowprior.tensors import batch_shape_of, broadcast_batches, numel


class LatentLayer(nn.Module):
    """Latent maps at one side of the decoder: p(z|h), q(z|h, e), and the way of z back into h.

    h are the decoder's maps there, which know all coarser latents, e the encoder's of that side. All three
    start at zero, so that q and p are equal at first and h passes.
    """

    def __init__(
        self, maps: int, features: int, latents: int, side: int, flow: bool, classes: int | None
    ) -> None:
        super().__init__()
        self.event_shape = (latents, side, side)
        self.prior = GaussianPosterior()
        self.posterior: Posterior = FlowPosterior(self.event_shape) if flow else GaussianPosterior()
        numbers = [each.multiplier * latents for each in (self.prior, self.posterior)]
        self.prior_head = WeightNormConv2d(maps, numbers[0], classes=classes, gain=0.0)
        self.posterior_head = WeightNormConv2d(maps + features, numbers[1], classes=classes, gain=0.0)
        self.merge = WeightNormConv2d(latents, maps, classes=classes, gain=0.0)

    def p(self, hidden: Tensor, context: Tensor | None) -> Distribution:
        """p(z|h), a factorized normal."""
        return self.prior(self.prior_head(hidden, context).flatten(1), self.event_shape)

    def q(self, hidden: Tensor, features: Tensor, context: Tensor | None) -> Distribution:
        """q(z|h, e)."""
        both = torch.cat([hidden, features], 1)
        return self.posterior(self.posterior_head(both, context).flatten(1), self.event_shape)

    def into(self, hidden: Tensor, z: Tensor, context: Tensor | None) -> Tensor:
        """h with what z says."""
        return hidden + self.merge(z, context)


class Ladder(Autoencoder):
    """p(x, z) = p(x|z) p(z_L) Π p(z_i | z_j, j > i): the top latent z_L is a vector, the others are maps.

    z_1 is the finest. The decoder starts from z_L; behind each of its first `layers` doublings of the side a
    `LatentLayer` adds maps of `latent_channels`, whose posterior is made there, from the encoder's features
    of that side and the coarser draws: inference and sampling go through the same steps in the same order.
    Lucas et al. count both ways; their z_1 of Appendix A.1 is our z_L.

    `encode` is q(z_L|x), the prior is that of z_L and may be any; `decode` takes the other latents at their
    means. With `layers=0` it is a plain VAE, whose decoder is a GAN's generator.

    Args:
        encoder, decoder: of equal sizes, widths and classes.
        prior: of z_L, a vector of the decoder's `in_features`; conditional on the classes, or not.
        layers: the doublings that are followed by latents; None for all but the last.
        latent_channels: 32 in Lucas et al.
        flow_posteriors: whether the layers' posteriors have an inverse autoregressive step (A.2); that of z_L
            has one where `posterior` is a `FlowPosterior`.
        posterior, likelihood: of z_L, by default Gaussian; as for `Autoencoder`.
        classes: where all parts see one-hot classes (N, classes) as their context.

    Raises:
        InputError: if sizes do not fit, or a count is none.

    Source: Sønderby et al. 2016; Kingma et al. 2016, section 5.3; Lucas et al. 2019, A.1.
    """

    single_latent = False
    initialized: Tensor

    def __init__(
        self,
        encoder: LadderEncoder,
        decoder: LadderDecoder,
        prior: Prior,
        *,
        layers: int | None = None,
        latent_channels: int = 32,
        flow_posteriors: bool = False,
        posterior: Posterior | None = None,
        likelihood: Likelihood | None = None,
        classes: int | None = None,
    ) -> None:
        posterior = GaussianPosterior() if posterior is None else posterior
        super().__init__(encoder, decoder, prior, posterior=posterior, likelihood=likelihood)
        if tuple(prior.event_shape) != (decoder.in_features,):
            raise InputError(
                f"`prior` has event shape {tuple(prior.event_shape)} but the decoder starts from vectors of "
                f"{decoder.in_features}: build both with the same number."
            )
        if prior.context_shape not in (None, classes and torch.Size([classes])):
            raise InputError(
                f"`prior` sees a context {tuple(prior.context_shape or ())} but the ladder's is of {classes} "
                "classes: build it with `context_features` of that number, or without."
            )
        doublings = len(decoder.stages)
        count = doublings - 1 if layers is None else check_count("layers", layers, least=0, most=doublings)
        self.classes, sides = classes, [decoder.side * 2 ** (i + 1) for i in range(count)]
        channels = check_count("latent_channels", latent_channels)
        above = encoder.widths[::-1]  # coarsest first, as the decoder's
        self.layers = nn.ModuleList(
            LatentLayer(decoder.widths[i + 1], above[i + 1], channels, side, flow_posteriors, classes)
            for i, side in enumerate(sides)
        )
        numbers = posterior.out_features(prior.event_shape)
        self.head = WeightNormConv2d(above[0], numbers, decoder.side, classes=classes, gain=0.0, padding=0)
        self.register_buffer("initialized", torch.tensor(0))  # 1 once `initialize` was called

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """(classes,), or None."""
        return None if self.classes is None else (self.classes,)

    def condition(self, context: Tensor | None) -> Tensor | None:
        """One-hot classes (*batch, classes); raises InputError as `check_context`."""
        return None if self.classes is None else self.check_context(context)

    def prior_context(self, condition: Any) -> Tensor | None:
        """The classes, if the prior is conditional."""
        return None if self.prior.context_shape is None else condition

    def parts(self) -> dict[str, list[nn.Module]]:
        """The layers' posteriors learn with the encoder, their priors with the decoder."""
        groups = super().parts()
        groups["encoder"].append(self.head)
        for layer in self.layers:
            groups["encoder"] += [layer.posterior, layer.posterior_head]  # type: ignore[list-item]
            groups["decoder"] += [layer.prior_head, layer.merge]  # type: ignore[list-item]
        return groups

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """q(z_L|x): batch shape (N,), event shape that of the prior."""
        return self._top(self.encoder(x, self.condition(context)), context)

    def _top(self, features: Sequence[Tensor], context: Tensor | None) -> Distribution:
        numbers = self.head(features[0], context).flatten(1)
        return self.posterior(numbers, self.prior.event_shape)

    def infer(self, x: Tensor, context: Tensor | None = None, *, closed_form: bool = True) -> Inference:
        """Top down: z_L ~ q(z_L|x), then each finer z_i ~ q(z_i|x, z_j for j > i); as `Autoencoder.infer`."""
        classes = self.condition(context)
        features = self.encoder(x, classes)
        posterior = self._top(features, classes)
        top = posterior.rsample()
        kl = kl_to_prior(posterior, self.prior, top, self.prior_context(classes), closed_form)

        def draw(layer: Any, hidden: Tensor, index: int) -> Tensor:
            nonlocal kl
            q, p = layer.q(hidden, features[index + 1], classes), layer.p(hidden, classes)
            z = q.rsample()
            kl = kl + kl_to_normal(q, p, z, closed_form)
            return z

        output = self._down(top, classes, draw)
        return Inference(top, kl, output)

    def _down(self, top: Tensor, classes: Tensor | None, draw: Any) -> Tensor:
        """The decoder, with z_i = draw(layer, hidden, index) at each layer."""
        hidden = self.decoder.start(top, classes)  # type: ignore[operator]
        for index, stage in enumerate(self.decoder.stages):  # type: ignore[arg-type]
            hidden = stage(hidden, classes)
            if index < len(self.layers):
                layer: Any = self.layers[index]
                hidden = layer.into(hidden, draw(layer, hidden, index), classes)
        return self.decoder.end(hidden, classes)  # type: ignore[operator]

    def draw_output(self, n: int, context: Tensor | None = None) -> Tensor:
        """`n` draws of all latents from their priors, as `Autoencoder.draw_output`."""
        classes = self.condition(context)
        top = one_each(self.prior, n, self.prior_context(classes))
        return self._down(top, classes, lambda layer, hidden, _: layer.p(hidden, classes).rsample())

    def conditioned_output(self, z: Tensor, condition: Any) -> Tensor:
        """z_L (*batch, D), the other latents at their means, and classes whose batch broadcasts."""
        shape = batch_shape_of(z, self.prior.event_shape)
        classes: Tensor | None = condition
        if classes is not None:
            shape = broadcast_batches(shape, classes.shape[:-1], "z", "context")
            classes = classes.expand(*shape, -1).reshape(numel(shape), -1)
        top = z.expand(*shape, -1).reshape(numel(shape), -1)
        output = self._down(top, classes, lambda layer, hidden, _: layer.p(hidden, classes).mean)
        return output.reshape(*shape, *output.shape[1:])

    def mean_output(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """As `Autoencoder.mean_output`, all posteriors at their means."""
        classes = self.condition(context)
        features = self.encoder(x, classes)
        top = self._top(features, classes).mean
        return self._down(
            top, classes, lambda layer, hidden, index: layer.q(hidden, features[index + 1], classes).mean
        )

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """Start the weight-normalized convolutions from examples, once: a trained model stays as it is."""
        if self.initialized:
            return
        x, context = self.start_batch(batch)
        with evaluating(self), starting_from_data(self):
            self.infer(x, context)
        self.initialized.fill_(1)

    def start_batch(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """ "x" and, where there are classes, "context" of a batch, on the model's device."""
        x = batch["x"].to(self.device, self.prior.dtype)
        return x, None if self.classes is None else batch["context"].to(self.device, self.prior.dtype)
