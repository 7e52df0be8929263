"""How probable latents are under a prior."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_finite
from flowprior.errors import InputError
from flowprior.metrics.rows import batches, standard_error


@dataclass(frozen=True)
class LatentNLL:
    """The negative log-likelihood of a set of latents, in nats per latent."""

    mean: float
    standard_error: float  # of the mean; NaN for a single latent
    samples: int
    dimensions: int

    @property
    def bpd(self) -> float:
        """Bits per dimension: mean / (dimensions ln 2)."""
        return self.mean / (self.dimensions * math.log(2))


def latent_nll(
    log_prob: Callable[..., Tensor], z: Tensor, context: Tensor | None = None,
    *, batch_size: int = 4096, device: str | torch.device | None = None,
) -> LatentNLL:  # fmt: skip
    """-E[log p(z | context)] over z (N, *event), in batches, averaged in float64, without gradients.

    `log_prob(z)` or `log_prob(z, context)` gives nats (n,). Each batch is moved to `device` if one is given.

    Raises:
        InputError: if there are no latents, the context does not fit, or a log-likelihood is not finite.

    >>> normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1)
    >>> round(latent_nll(normal.log_prob, torch.zeros(5, 2)).mean, 4)  # log(2 pi)
    1.8379
    """
    values = []
    with torch.inference_mode():
        for inputs in batches("z", z, context, batch_size, device):
            nats = log_prob(*inputs)
            if nats.shape != inputs[0].shape[:1]:
                got = f"`log_prob` gave shape {tuple(nats.shape)} for {len(inputs[0])} latents"
                fix = "reinterpret the event dimensions (torch.distributions.Independent)"
                raise InputError(f"{got} but must give one number for each: {fix}.")
            values.append(-nats.double().cpu())
    nll = torch.cat(values)
    check_finite("log_prob", nll, "check these latents, and the prior")
    return LatentNLL(nll.mean().item(), standard_error(nll), len(nll), math.prod(z.shape[1:]))
