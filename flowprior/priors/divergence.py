"""What a KL divergence asks of a posterior, whatever the prior."""

import sys

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from flowprior.errors import InputError
from flowprior.tensors import factorized


def as_posterior(q: Distribution, event_shape: torch.Size) -> Distribution:
    """q in full precision, with trailing batch dimensions moved into its event where the event lacks them."""
    if not isinstance(q, Distribution):
        name = type(q).__name__
        raise InputError(f"`q` (a {name}) must be a distribution of torch, such as Normal(mean, std).")
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


def draw(q: Distribution, samples: int | None) -> Tensor:
    """Draws of q with their gradient, (samples, *batch, *event), or one without the first dimension."""
    shape = torch.Size() if samples is None else torch.Size([samples])
    if q.has_rsample:
        return q.rsample(shape)
    if torch.is_grad_enabled():
        raise InputError(
            f"`q` (a {type(q).__name__}) has no reparameterized draws, so the gradient of its KL would be "
            "wrong: use a posterior with `rsample`, or ask for the value alone under torch.no_grad()."
        )
    return q.sample(shape)


def point_of(q: Distribution) -> Tensor | None:
    """The point that all mass of q is at, if it is pyro's Delta."""
    pyro = sys.modules.get("pyro.distributions")  # whoever holds a Delta has imported it
    base = factorized(q)
    return base.v if pyro is not None and isinstance(base, pyro.Delta) else None
