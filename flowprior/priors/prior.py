"""The contract of every prior: what a subclass must implement, and all that follows from it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from flowprior.checks import check_finite
from flowprior.errors import InputError
from flowprior.priors.compiled import Compiled
from flowprior.priors.divergence import as_posterior, draw, point_of
from flowprior.priors.export import Exported
from flowprior.priors.pretrained import Saved
from flowprior.priors.sampled import Sampled
from flowprior.tensors import batch_shape_of, broadcast_batches, factorized, without_autocast


class Prior(Exported, Compiled, Sampled, Saved):
    """A module that, called with a context or without one, returns a distribution over z.

    A subclass must implement `_draw`; with a density also `_log_prob`; with a data-dependent start
    `_initialize`; and `arguments`. The public methods check shapes and context once, broadcast the batch of
    `z` against that of `context`, cast half precision up to the dtype of the prior and leave autocast, so
    that the hooks see rows in full precision. NaN flows through: the training loop reports it.

    Args:
        features: the event shape, an int or a tuple such as `(4, 8, 8)`.
        context_features, classes: as for `Gate`.
    """

    kind = "prior"
    fitted: Any = None  # what `fit` says of a prior that it chose
    is_standard_normal: bool = False  # whether z ~ N(0, I) itself

    def __init__(
        self,
        features: int | Sequence[int],
        context_features: int | Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(features, context_features, classes)

    @property
    def has_normal_base(self) -> bool:
        """Whether z0 ~ N(0, I), as slerp and traversals need."""
        return False

    def arguments(self) -> dict[str, Any]:
        """The constructor's keyword arguments, ready for JSON; a nested prior may stand as itself."""
        features = self.event_shape[0] if len(self.event_shape) == 1 else list(self.event_shape)
        return {"features": features}

    # The hooks: rows z (N, *event), context (N, *context_shape) or None, both of the prior's dtype.

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        name = type(self).__name__
        raise InputError(
            f"{name} has no density, only samples: use `sample` or an objective that needs no log_prob."
        )

    def _log_bound(self, z: Tensor, context: Tensor | None) -> Tensor:
        """A lower bound of log p(z), (N,), in expectation: where there is a density, itself."""
        return self._log_prob(z, context)

    def _exact_kl(self, q: Distribution) -> Tensor | None:
        """KL(q || p) where a closed form exists."""
        return None

    def _conditional_kl(self, q: Normal, z: Tensor, context: Tensor | None) -> Tensor | None:
        """An estimate of KL(q || p(. | context)) with less noise than log q(z) - log p(z | context) has.

        For a prior that is closed-form in each part of z given those before, taken from the draws z; else
        None. q is factorized, its mean and scale rows like z.
        """
        return None

    def _initialize(self, latents: Tensor, context: Tensor | None, seed: int) -> None:
        """Start from rows; nothing to do for most priors."""

    def join(self, encode: Callable[[Tensor], Distribution], encoder: nn.Module) -> None:
        """Called by the autoencoder that the prior becomes part of, with its `encode` and its encoder; most
        priors need neither."""

    # What follows from them.

    def forward(self, context: Tensor | None = None) -> Distribution:
        """The distribution p(z) or p(z | context), a `PriorDistribution` with the batch shape of `context`.

        >>> from flowprior import StandardNormal
        >>> StandardNormal(2)().sample((3,)).shape
        torch.Size([3, 2])
        """
        from flowprior.priors.distribution import PriorDistribution  # it needs pyro, which is slow to import

        batch = self._context_batch(context)
        return PriorDistribution(self, None if context is None else self._in_dtype(context), batch)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(z | context) in nats: z (*batch, *event), context (*batch, C) -> (*batch,).

        The batches of `z` and of `context` broadcast. Here and elsewhere context maps are (*batch, K, H, W).
        Where z holds infinity log p is -inf, without a gradient; where it holds NaN, NaN.

        Raises:
            InputError: if a shape does not fit, or a context is missing or not wanted.
        """
        return self._per_row(self._log_prob, z, context)

    def log_bound(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """A lower bound of `log_prob` in expectation, which is what such a prior learns by.

        log p(z) itself for priors with a density; for a `VariationalPrior` the ELBO of one draw. Shapes and
        errors as `log_prob`.
        """
        return self._per_row(self._log_bound, z, context)

    def _per_row(
        self, hook: Callable[[Tensor, Tensor | None], Tensor], z: Tensor, context: Tensor | None
    ) -> Tensor:
        with without_autocast(self._anchor.device.type):
            rows, context, batch = self._enter("z", z, context)
            infinite = rows.flatten(1).abs().amax(1) == math.inf
            if torch.is_grad_enabled():  # computed at 0, so that no gradient is NaN for it
                rows = rows.masked_fill(infinite.reshape(-1, *(1 for _ in self.event_shape)), 0.0)
            values = hook(rows, context).masked_fill(infinite, -math.inf)
        return values if len(batch) == 1 else values.reshape(batch)

    def kl(
        self,
        q: Distribution,
        z: Tensor | None = None,
        context: Tensor | None = None,
        *,
        samples: int | None = None,
    ) -> Tensor:
        """KL(q || p) = E_q[log q(z) - log p(z | context)], per example (*batch,).

        Exact where a closed form exists; otherwise the estimate from one draw `z` ~ q (reparameterized; drawn
        here if it is not given), with the closed form of each part given the parts before where there is one.
        A point mass (pyro's Delta) has no entropy: that term is dropped, and -log p(z) is returned.

        Args:
            q: a distribution with this event shape; a factorized one without, such as `Normal(loc, scale)`
                of (*batch, *event), is read as independent over the event.
            z: draws of q, (*batch, *event); a leading dimension beyond q's batch is kept: average over it.
            context: (*batch, C).
            samples: how many draws to average over where `z` is not given; None for a single one.

        Raises:
            InputError: if the shapes do not fit, or q cannot be drawn from with gradient.
        """
        q = as_posterior(q, self.event_shape)
        shape = q.batch_shape
        if z is not None:
            shape = broadcast_batches(batch_shape_of(z, self.event_shape), shape, "z", "q")
        shape = broadcast_batches(shape, self._context_batch(context), "q", "context")
        with without_autocast(self._anchor.device.type):
            exact = self._exact_kl(q)
            if exact is not None:
                return exact.expand(shape)
            point = point_of(q)
            if point is not None:  # a point mass: its entropy is dropped
                return -self.log_prob(point if z is None else z, context).expand(shape)
            averaged = z is None and samples is not None
            z = draw(q, samples) if z is None else z
            kl = self._estimate(q, z, context)
            return (kl.mean(0) if averaged else kl).expand(shape)

    def _estimate(self, q: Distribution, z: Tensor, context: Tensor | None) -> Tensor:
        """The estimate of the KL at draws z (*batch, *event) of q."""
        rows, seen, batch = self._enter("z", z, context)
        base = factorized(q)
        if isinstance(base, Normal):
            like = batch + self.event_shape
            loc, scale = (each.expand(like).reshape(rows.shape) for each in (base.loc, base.scale))
            kl = self._conditional_kl(Normal(loc, scale, validate_args=False), rows, seen)
            if kl is not None:
                return kl.reshape(batch)
        return q.log_prob(z) - self._log_prob(rows, seen).reshape(batch)

    def initialize(self, latents: Tensor, context: Tensor | None = None, *, seed: int = 0) -> None:
        """Start the prior, in place, from latents (N, *event) with context (N, C), if it has such a start.

        Raises:
            InputError: as `check_latents`.
        """
        with torch.no_grad(), without_autocast(self._anchor.device.type):
            self._initialize(*self._start_rows(latents, context), seed)

    def check_latents(self, latents: Tensor, context: Tensor | None) -> None:
        """Refuse latents (N, *event) and context (N, C) that this prior cannot start from.

        Raises:
            InputError: if a shape does not fit, there are too few rows, or one holds NaN or infinity.
        """
        if len(batch_shape_of(latents, self.event_shape, "latents")) != 1:
            shape, event = tuple(latents.shape), tuple(self.event_shape)
            raise InputError(
                f"`latents` has shape {shape} but must be rows, (N, *event) with event shape {event}."
            )
        if len(latents) < 2:
            raise InputError(f"`latents` has {len(latents)} row(s), too few to start from: give at least 2.")
        check_finite("latents", latents, "drop those rows or mend what made them")
        own = self._context_batch(context)
        if context is not None:
            if own != latents.shape[:1]:
                raise InputError(
                    f"`context` has batch shape {tuple(own)} but must hold one row for each of the "
                    f"{len(latents)} rows of `latents`: {(len(latents), *(self.context_shape or ()))}."
                )
            check_finite("context", context, "drop those rows or mend what made them")

    def _start_rows(self, latents: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Checked rows of both as the hooks take them."""
        self.check_latents(latents, context)
        rows, _ = self._read(None if context is None else context.to(self.device))
        return latents.to(self.device, self.dtype), rows
