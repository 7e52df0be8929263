"""KL divergences from a posterior to a prior, exact or by sampling. Imports pyro: to be imported lazily."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from flowprior.errors import InputError
from flowprior.priors.prior import Prior, broadcast_batches
from flowprior.pyro_names import Delta
from flowprior.tensors import batch_shape_of, factorized


def estimate_kl(
    q: Distribution, prior: Prior, z: Tensor | None, context: Tensor | None, samples: int | None = None
) -> Tensor:
    """KL(q || prior) per example: exact where it can be, else a mean over draws of q.

    Args:
        q: the posterior, batch shape (*batch,).
        prior: the prior; its own closed form is asked first.
        z: draws of q (*batch, *event), or None to draw here.
        context: what the prior is given, (*batch, C) or maps (*batch, K, H, W).
        samples: draws to average over if `z` is None; None for a single one.

    Returns:
        (*batch,), broadcast over the batches of q, z and context.
    """
    if not isinstance(q, Distribution):
        raise InputError(
            f"`q` (a {type(q).__name__}) must be a distribution of torch, such as Normal(mean, std)."
        )
    q = _over_event(q, prior.event_shape)
    shape = q.batch_shape
    if z is not None:
        shape = broadcast_batches(batch_shape_of(z, prior.event_shape), shape, "z", "q")
    rows = prior._check_context(context)
    if rows is not None:
        shape = broadcast_batches(shape, rows.shape[:-1], "q", "context")
    with torch.autocast(prior.device.type, enabled=False):
        exact = prior._exact_kl(q)
        if exact is not None:
            return exact.expand(shape)
        point = _point_of(q)
        if point is not None:  # a point mass: its entropy is dropped
            return -prior.log_prob(point if z is None else z, context).expand(shape)
        if z is None:
            kl = _at(q, prior, _draw(q, samples), context)
            return (kl if samples is None else kl.mean(0)).expand(shape)
        return _at(q, prior, z, context).expand(shape)


def _at(q: Distribution, prior: Prior, z: Tensor, context: Tensor | None) -> Tensor:
    """The estimate at draws z (*batch, *event) of q."""
    kl = prior._conditional_kl(q, *prior._prepare(z, context))
    return q.log_prob(z) - prior.log_prob(z, context) if kl is None else kl


def _draw(q: Distribution, samples: int | None) -> Tensor:
    shape = torch.Size() if samples is None else torch.Size([samples])
    if q.has_rsample:
        return q.rsample(shape)
    if torch.is_grad_enabled():
        raise InputError(
            f"`q` (a {type(q).__name__}) has no reparameterised draws, so the gradient of its KL would be "
            "wrong: use a posterior with `rsample`, or ask for the value alone under torch.no_grad()."
        )
    return q.sample(shape)


def _over_event(q: Distribution, event_shape: torch.Size) -> Distribution:
    """q in full precision, with trailing batch dimensions moved into its event where the event lacks them."""
    base, event_dims = factorized(q), len(q.event_shape)
    full = q.batch_shape + q.event_shape
    lacking = len(event_shape) - event_dims
    if lacking < 0 or full[len(full) - len(event_shape) :] != event_shape or len(full) < len(event_shape):
        raise InputError(
            f"`q` has batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)} but must "
            f"end in the event shape {tuple(event_shape)} of the prior."
        )
    if isinstance(base, Normal):
        # Rebuilt without validation, so that NaN reaches the loop, which names its source.
        dtype = torch.promote_types(base.loc.dtype, torch.float32)
        base = Normal(base.loc.to(dtype), base.scale.to(dtype), validate_args=False)
        return Independent(base, len(event_shape), validate_args=False)
    return Independent(q, lacking, validate_args=False) if lacking else q


def _point_of(q: Distribution) -> Tensor | None:
    """Where the mass of q lies, if that is one point."""
    base = factorized(q)
    return base.v if isinstance(base, Delta) else None
