"""The autoencoder: an encoder, a decoder, a prior over z, and how their outputs are read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.models.inference import Bound, Inference, kl_to_prior, one_each, sampled_rows
from flowprior.models.likelihoods import GaussianLikelihood, Likelihood
from flowprior.models.posteriors import DeterministicPosterior, Posterior, normal_moments
from flowprior.priors import Prior
from flowprior.tensors import batch_shape_of, flat_rows, numel

Rows = Tensor | Iterable[Tensor]  # of a data set, whole or in batches


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

    With a conditional prior every method takes the context along, but encoder and decoder do not see it; a
    model whose networks do, such as `VariationalUnet`, overrides the hooks below.

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

    single_latent: bool = True  # whether encoder, one draw and decoder are all of `infer`
    levels: int | None = None  # of stored values whose probability the likelihood bounds; None for a density

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
            kind = type(prior).__name__
            raise InputError(f"`prior` (a {kind}) must be a Prior module, such as FlowPrior(20).")
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.posterior = DeterministicPosterior() if posterior is None else posterior
        self.likelihood = GaussianLikelihood() if likelihood is None else likelihood
        prior.join(self.encode, encoder)

    # What a model with networks of its own for the context overrides; here only the prior sees a context.

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """The shape of one context: here what the prior wants, (C,); None if there is none."""
        return self.prior.context_shape

    @property
    def conditional(self) -> bool:
        """Whether every method wants a context."""
        return self.context_shape is not None

    def condition(self, context: Tensor | None) -> Any:
        """What decoder and prior share of a context (*batch, *context_shape), once a batch: here itself."""
        return context

    def prior_context(self, condition: Any) -> Tensor | None:
        """What the prior sees of a `condition`: here all of it."""
        return condition

    def encoder_inputs(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        """What the encoder is called with: here x (N, *data) alone."""
        return (x,)

    def conditioned_output(self, z: Tensor, condition: Any) -> Tensor:
        """`decoder_output` of a `condition` that is computed already."""
        batch_shape = batch_shape_of(z, self.prior.event_shape)
        output = self.decoder(z.reshape(numel(batch_shape), numel(self.prior.event_shape)))
        return output.reshape(*batch_shape, *output.shape[1:])

    def initialize(self, batch: Mapping[str, Tensor]) -> None:
        """The data-dependent start of networks from "x" (N, *data) and a conditional "context": here none."""

    def parts(self) -> dict[str, list[nn.Module]]:
        """What learns, by the group that an adversarial objective trains it in; the likelihood apart."""
        return {"encoder": [self.encoder, self.posterior], "decoder": [self.decoder], "prior": [self.prior]}

    # What a model with latents of its own at several places overrides.

    def infer(self, x: Tensor, context: Tensor | None = None, *, closed_form: bool = True) -> Inference:
        """z ~ q(z|x) of x (N, *data), reparameterized, its KL and what the likelihood reads.

        `closed_form=False` takes log q(z) - log p(z) at the draw, as importance weights need it.
        """
        condition = self.condition(context)
        posterior = self.encode(x, context)
        z = posterior.rsample()  # (N, *event)
        kl = kl_to_prior(posterior, self.prior, z, self.prior_context(condition), closed_form)
        return Inference(z, kl, self.conditioned_output(z, condition))

    def bound(self, x: Tensor, context: Tensor | None = None, *, closed_form: bool = True) -> Bound:
        """The terms of -log p(x) ≤ E_q[-log p(x|z)] + KL, from one draw, for x (N, *data); as `infer`."""
        _, kl, output = self.infer(x, context, closed_form=closed_form)
        return Bound(self.likelihood.nll(output, x), kl)

    def log_bound(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """A draw of the lower bound on log p(x) in nats: x (N, *data) -> (N,)."""
        return -sum(self.bound(x, context))  # type: ignore[return-value]

    def draw_output(self, n: int, context: Tensor | None = None) -> Tensor:
        """What the likelihood reads of `n` draws of the prior, (n, *data), with the gradient of their path.

        With a context (n, *context_shape) each draw has its own.
        """
        condition = self.condition(context)
        return self.conditioned_output(one_each(self.prior, n, self.prior_context(condition)), condition)

    def dequantized(self, x: Tensor) -> Tensor:
        """x (N, *data) as the likelihood sees it: here itself."""
        return x

    def rsample(self, n: int, context: Tensor | None = None, train_flow: bool = True) -> Tensor:
        """`n` generated examples (n, *data), shapes as `draw_output`, with the gradient of their path: here
        the means of p(x|z). `train_flow` is for models with an invertible part."""
        return self.likelihood.mean(self.draw_output(n, context))

    # What follows from it.

    def encode(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """q(z|x) or q(z|x, context) for x (N, *data): batch shape (N,), event shape that of the prior."""
        return self.posterior(self.encoder(*self.encoder_inputs(x, context)), self.prior.event_shape)

    def decoder_output(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """What the likelihood reads: z (*batch, *event) -> (*batch, *data); raises InputError on other z."""
        return self.conditioned_output(z, self.condition(context))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean of p(x|z) or p(x|z, context), with gradients; shapes and errors as `decoder_output`."""
        return self.likelihood.mean(self.decoder_output(z, context))

    def reconstruction_nll(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Tensor:
        """-log p(x|z) in nats: x (N, *data), z (N, *event) -> (N,)."""
        return self.likelihood.nll(self.decoder_output(z, context), x)

    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x through the posterior's mean and back: (N, *data) -> (N, *data), in the mode the model is in."""
        return self.likelihood.mean(self.mean_output(x, context))

    def mean_output(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """What the likelihood reads of x through the posterior's mean: (N, *data) -> (N, *data)."""
        return self.decoder_output(self.encode(x, context).mean, context)

    def codes(self, x: Rows, context: Rows | None = None, batch_size: int = 512) -> Tensor:
        """The posterior means of a whole data set: x (N, *data), or batches of it -> (N, *event).

        Evaluation mode, no gradients, a chunk at a time; the codes come back on the device of `x`, whatever
        the model's. Images are floats in [0, 1]. A context comes as `x` does, whole or in the same batches.
        Raises InputError if `x` is empty, or not of a floating dtype, or the context has other rows.
        """
        return self._over_chunks(x, context, batch_size, lambda q: (q.mean,))[0]

    def code_distributions(
        self, x: Rows, context: Rows | None = None, batch_size: int = 512
    ) -> tuple[Tensor, Tensor | None]:
        """`codes`, and the posteriors' standard deviations (N, *event); None for point posteriors.

        Raises InputError as `codes`, and if the posterior is neither a point nor a factorized Gaussian.
        """
        if self.posterior.deterministic:
            return self.codes(x, context, batch_size), None
        mean, std = self._over_chunks(x, context, batch_size, normal_moments)
        return mean, std

    def _over_chunks(
        self, x: Rows, context: Rows | None, size: int, read: Callable[[Distribution], tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """What `read` takes from the posteriors of a data set, each (N, *event)."""
        if context is not None and isinstance(x, Tensor) != isinstance(context, Tensor):
            raise InputError(
                "`x` and `context` must come the same way: both as tensors, or both as batches of them."
            )
        size = check_count("batch_size", size)
        chunks = x.split(size) if isinstance(x, Tensor) else x
        contexts = context.split(size) if isinstance(context, Tensor) else context
        pairs = zip(chunks, contexts, strict=True) if contexts is not None else zip(chunks, repeat(None))
        with evaluating(self):
            posteriors = ((x.device, self._chunk_posterior(x, context)) for x, context in pairs if len(x))
            chunked = [[part.to(device) for part in read(q)] for device, q in posteriors]
        if not chunked:
            raise InputError("`x` is empty: give at least one example to encode.")
        return [torch.cat(parts) for parts in zip(*chunked, strict=True)]

    def _chunk_posterior(self, chunk: Tensor, context: Tensor | None) -> Distribution:
        if not chunk.is_floating_point():
            raise InputError(f"`x` has dtype {chunk.dtype} but must be float, images in [0, 1]: use x / 255.")
        context = None if context is None else context.to(self.device)
        return self.encode(chunk.to(self.device), context)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        batch_size: int = 512,
        *,
        temperature: float = 1.0,
        truncate: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n mean images of z from the prior, without gradients and in evaluation mode: (n, *batch, *data).

        Args:
            n: draws, for each row of the context where there is one.
            context: (*batch, *context_shape) for a conditional model.
            batch_size: latents a decoder call, at most.
            temperature, truncate, generator: of the latents, as `Prior.sample` has them.

        Raises:
            InputError: if a context is missing, not wanted or of another shape; as `Prior.sample`.
        """
        if not self.single_latent and (temperature != 1 or truncate is not None or generator is not None):
            name = type(self).__name__
            raise InputError(
                f"`temperature`, `truncate` and `generator` are of models with a single latent, and {name} "
                "has several: leave them out."
            )
        draw = partial(self.prior.sample, temperature=temperature, truncate=truncate, generator=generator)
        size = check_count("batch_size", batch_size)
        with evaluating(self):
            if context is None or self.context_shape is None:
                return self._sample(n, context, size, draw)
            rows, batch_shape = flat_rows(self.check_context(context), len(self.context_shape))
            parts = [self._sample(n, part, size, draw) for part in rows.split(max(1, size // max(1, n)))]
            images = torch.cat(parts, 1)  # (n, rows, *data)
            return images.reshape(n, *batch_shape, *images.shape[2:])

    def _sample(self, n: int, context: Tensor | None, size: int, draw: Callable[..., Tensor]) -> Tensor:
        if not self.single_latent:
            parts = [self.rsample(count, each) for count, each in sampled_rows(n, context, size)]
            images = torch.cat(parts)
            return images if context is None else images.unflatten(0, (n, len(context)))
        condition = self.condition(context)
        seen = self.prior_context(condition)
        rows = 1 if context is None else len(context)
        shape = (n,) if context is None or seen is not None else (n, rows)
        z = draw(shape, seen)  # (n, *event) or (n, rows, *event)
        outputs = [self.conditioned_output(part, condition) for part in z.split(max(1, size // rows))]
        return self.likelihood.mean(torch.cat(outputs))

    def check_context(self, context: Tensor | None) -> Tensor:
        """`context` (*batch, *context_shape); raises InputError if it is missing or of another shape."""
        shape = self.context_shape or ()
        wanted = ", ".join(map(str, shape))
        if context is None:
            raise InputError(
                f"`context` is missing: this {type(self).__name__} is conditional and needs a tensor of "
                f"shape (*batch, {wanted})."
            )
        if context.dtype == torch.uint8:
            raise InputError("`context` is of torch.uint8 but images are floats in [0, 1]: divide by 255.")
        if context.shape[context.dim() - len(shape) :] != shape:
            raise InputError(
                f"`context` has shape {tuple(context.shape)} but this {type(self).__name__} reads "
                f"(*batch, {wanted}): give it the conditions that it was built for."
            )
        return context

    @property
    def device(self) -> torch.device:
        """Where the encoder's first parameter lives."""
        return next(self.encoder.parameters()).device
