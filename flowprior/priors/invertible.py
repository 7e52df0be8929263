"""Priors with two spaces, z and z0."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowprior.bijectors.gate import Invertible
from flowprior.priors.prior import Prior
from flowprior.tensors import without_autocast


class InvertiblePrior(Prior, Invertible):
    """A prior with two spaces, z0 = to_base(z) and z = from_base(z0); z0 ~ base if z ~ p.

    A subclass must implement `_to_base` and `_from_base`.
    """


class BasedPrior(InvertiblePrior):
    """One whose z0 follows a prior of its own: p(z | c) = base(z0) |det dz0/dz|, with z0 = to_base(z; c).

    A subclass sets `base`, which has the event shape of z and no context.
    """

    base: Prior

    @property
    def has_normal_base(self) -> bool:
        """Whether z0 ~ N(0, I): False on a mixture or another prior as the base."""
        return self.base.is_standard_normal

    def _draw(
        self,
        count: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self._from_base(self.base._drawn(count, None, temperature, generator), context)[0]

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        z0, logabsdet = self._to_base(z, context)
        return self.base._log_prob(z0, None) + logabsdet


def _forwarded(hook: str) -> Callable[..., Any]:
    """The hook of that name of the prior that a `HeldPrior` holds."""
    return lambda self, *rows, **options: getattr(self.prior, hook)(*rows, **options)


class HeldPrior(InvertiblePrior):
    """A prior that answers with one that it holds, `prior`, which sees the same rows.

    A subclass may change what the one inside sees of the context, or add questions to be asked of it.
    """

    prior: InvertiblePrior

    def hold(self, prior: InvertiblePrior) -> None:
        """Take `prior` in, with what it can do, its device and its dtype."""
        self.prior = prior
        self.has_density, self.has_rsample = prior.has_density, prior.has_rsample
        self.context_dropout = prior.context_dropout
        self.follow(prior.device, prior.dtype)

    @property
    def has_normal_base(self) -> bool:
        """Whether the z0 of `prior` is N(0, I)."""
        return self.prior.has_normal_base

    def initialize(
        self, latents: Tensor, context: Tensor | None = None, *, seed: int = 0, **options: Any
    ) -> None:
        """As `Prior.initialize`, with the `options` of the prior inside, such as `standardize`."""
        with torch.no_grad(), without_autocast(self._anchor.device.type):
            self.prior._initialize(*self._start_rows(latents, context), seed, **options)

    _seen = _forwarded("_seen")
    _draw = _forwarded("_draw")
    _draw_guided = _forwarded("_draw_guided")
    _log_prob = _forwarded("_log_prob")
    _to_base = _forwarded("_to_base")
    _from_base = _forwarded("_from_base")
    _exact_kl = _forwarded("_exact_kl")
    _conditional_kl = _forwarded("_conditional_kl")
    _initialize = _forwarded("_initialize")
