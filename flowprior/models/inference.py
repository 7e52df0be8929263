"""What a model infers of a batch, and the bound on its likelihood that follows."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from flowprior.priors import Prior
from flowprior.tensors import factorized, sum_event


class Inference(NamedTuple):
    """One draw of all latents of a batch given its examples."""

    z: Tensor  # (N, *event) of the prior; of several layers, the top one's
    kl: Tensor  # (N,) KL(q(z|x) ‖ p(z)) in nats, summed over layers, each given the draws above it
    output: Tensor  # (N, *data), what the likelihood reads


class Bound(NamedTuple):
    """The two terms of -log p(x) ≤ reconstruction + kl, in nats per example, (N,) each."""

    reconstruction: Tensor  # -log p(x|z), the volume of an invertible part of the model included
    kl: Tensor


def kl_to_prior(
    q: Distribution, prior: Prior, z: Tensor, context: Tensor | None, closed_form: bool
) -> Tensor:
    """KL(q ‖ p) (N,) by its closed form where there is one, or always log q(z) - log p(z) at the draw z."""
    if closed_form:
        return prior.kl(q, z, context)
    return q.log_prob(z) - prior.log_prob(z, context)


def kl_to_normal(q: Distribution, p: Distribution, z: Tensor, closed_form: bool) -> Tensor:
    """As `kl_to_prior`, for a factorized normal p of the same event shape."""
    ours, theirs = factorized(q), factorized(p)
    if closed_form and isinstance(ours, Normal) and isinstance(theirs, Normal):
        return sum_event(kl_divergence(ours, theirs), len(q.event_shape))
    return q.log_prob(z) - p.log_prob(z)


def one_each(prior: Prior, count: int, context: Tensor | None) -> Tensor:
    """A draw for each of `count` rows, or for each row of a context, with the gradient of the path where the
    prior has one."""
    draw = prior.rsample if prior.has_rsample else prior.sample
    return draw(count) if context is None else draw(1, context)[0]


def sampled_rows(n: int, context: Tensor | None, size: int) -> list[tuple[int, Tensor | None]]:
    """`n` draws for each row of a context (or `n` in all), in chunks of `size`: counts and contexts."""
    if context is None:
        return [(min(size, n - start), None) for start in range(0, n, size)]
    rows = context.repeat(n, *(1 for _ in context.shape[1:]))
    return [(len(part), part) for part in torch.split(rows, size)]
