"""The distribution that a prior returns when called. It imports pyro, so it is imported when first needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from flowprior.priors.divergence import as_posterior, draw
from flowprior.pyro_names import Delta, TorchDistribution
from flowprior.tensors import batch_shape_of, broadcast_batches


class PriorDistribution(TorchDistribution):
    """p(z) or p(z | context): batch shape of the context, event shape of the prior.

    It holds no numbers of its own: every call asks the prior, so it follows the prior's parameters. It works
    in `pyro.sample`, in plates, and in `torch.distributions.kl_divergence`: `kl_divergence(q, p)` is
    `prior.kl(q)`, exact where the prior knows a closed form, otherwise from one draw of q (`prior.kl` takes
    more); `kl_divergence(p, q)` is log p - log q at one draw of p, with the gradient of its path if it has
    one.
    Mean, variance, entropy and the like have no closed form: they raise NotImplementedError.

    Args:
        prior: a `Prior`.
        context: (*batch, C), maps (*batch, K, H, W), or None.
        batch_shape: the batch shape if it is wider than that of the context.
        validate_args: whether `log_prob` refuses NaN and infinity; None takes the default of the process.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        prior: Any,
        context: Tensor | None = None,
        batch_shape: torch.Size | None = None,
        validate_args: bool | None = None,
    ) -> None:
        own = prior.context_shape or torch.Size()
        if batch_shape is None:
            batch_shape = torch.Size() if context is None else context.shape[: context.dim() - len(own)]
        self.prior = prior
        self.context = context if context is None else context.expand(*batch_shape, *own)
        self.has_rsample = prior.has_rsample
        super().__init__(batch_shape, prior.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def __repr__(self) -> str:
        batch, event = tuple(self.batch_shape), tuple(self.event_shape)
        return f"PriorDistribution({type(self.prior).__name__}, batch_shape={batch}, event_shape={event})"

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) in nats, shape: the batch of `value` (*batch, *event) broadcast with batch_shape."""
        batch = batch_shape_of(value, self.event_shape, "value")
        shape = broadcast_batches(batch, self.batch_shape, "value", "distribution")
        if self._validate_args:
            self._validate_sample(value)
        return self.prior.log_prob(value, self.context).expand(shape)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws without gradient, (*sample_shape, *batch_shape, *event_shape)."""
        return self.prior.sample(*self._draws(sample_shape))

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws with the gradient of the path, (*sample_shape, *batch_shape, *event_shape)."""
        return self.prior.rsample(*self._draws(sample_shape))

    @property
    def mean(self) -> Tensor:
        """Raises NotImplementedError, as `mode`, `variance`, `stddev`, `entropy`, `cdf` and the like do."""
        raise self._lacks("mean", "average draws, `sample((1000,)).mean(0)`")

    @property
    def mode(self) -> Tensor:
        raise self._lacks("mode", "compare `log_prob` of draws")

    @property
    def variance(self) -> Tensor:
        raise self._lacks("variance", "take that of draws, `sample((1000,)).var(0)`")

    @property
    def stddev(self) -> Tensor:
        raise self._lacks("stddev", "take that of draws, `sample((1000,)).std(0)`")

    def entropy(self) -> Tensor:
        raise self._lacks("entropy", "average `-log_prob` of draws")

    def perplexity(self) -> Tensor:
        raise self._lacks("perplexity", "take the exponential of the average `-log_prob` of draws")

    def cdf(self, value: Tensor) -> Tensor:
        raise self._lacks("cdf", "count draws, or map to the base by `prior.to_base`")

    def icdf(self, value: Tensor) -> Tensor:
        raise self._lacks("icdf", "map from the base by `prior.from_base`")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        raise self._lacks("enumerate_support", "its support is continuous; draw by `sample`")

    def _lacks(self, name: str, fix: str) -> NotImplementedError:
        return NotImplementedError(f"`{name}` of a {type(self.prior).__name__} has no closed form: {fix}.")

    def expand(
        self, batch_shape: torch.Size | tuple[int, ...], _instance: PriorDistribution | None = None
    ) -> PriorDistribution:
        """The same distribution with a wider batch; draws are independent across it."""
        new = self._get_checked_instance(PriorDistribution, _instance)
        PriorDistribution.__init__(new, self.prior, self.context, torch.Size(batch_shape), False)
        new._validate_args = self._validate_args
        return new

    def _draws(self, sample_shape: torch.Size | tuple[int, ...]) -> tuple[torch.Size, Tensor | None]:
        # The prior puts the context's batch behind the sample shape; without a context we do.
        shape = torch.Size(sample_shape)
        return (shape + self.batch_shape, None) if self.context is None else (shape, self.context)


@register_kl(Distribution, PriorDistribution)
def _kl_to_prior(q: Distribution, p: PriorDistribution) -> Tensor:
    kl = p.prior.kl(q, None, p.context)
    return kl.expand(broadcast_batches(kl.shape, p.batch_shape, "q", "p"))


@register_kl(PriorDistribution, Distribution)
def _kl_from_prior(p: PriorDistribution, q: Distribution) -> Tensor:
    q = as_posterior(q, p.event_shape)
    z = draw(p.expand(broadcast_batches(p.batch_shape, q.batch_shape, "p", "q")), None)
    return p.log_prob(z) - q.log_prob(z)


register_kl(PriorDistribution, PriorDistribution)(_kl_to_prior)
# Pyro has a rule for (Delta, anything) and we have one for (anything, prior): this settles which.
register_kl(Delta, PriorDistribution)(_kl_to_prior)
