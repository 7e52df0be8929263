"""The two spaces of dpVAE over one invertible prior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowprior.errors import InputError
from flowprior.priors.prior import InvertiblePrior


class DecoupledPrior(InvertiblePrior):
    """An invertible prior seen as two spaces: the encoder lives in z, sampling in z0.

    Regularizers act on the representation z, samples are drawn in the generation space z0 and mapped over. As
    a prior it is the one it holds, parameter by parameter (Bhalodia et al. 2020, dpVAE, section 3).

    Args:
        prior: a prior with `to_base` and `from_base`, such as a `FlowPrior`.

    Raises:
        InputError: if `prior` is not invertible.

    >>> from flowprior import StandardNormal
    >>> DecoupledPrior(StandardNormal(2)).generation(torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, prior: InvertiblePrior) -> None:
        if not isinstance(prior, InvertiblePrior):
            raise InputError(
                f"`prior` (a {type(prior).__name__}) must be invertible, with `to_base` and `from_base`: for "
                "instance a FlowPrior."
            )
        super().__init__(prior.event_shape, prior.context_features)
        self.prior = prior
        self.has_rsample = prior.has_rsample
        self.to(prior.device, prior.dtype)

    @property
    def has_normal_base(self) -> bool:
        """Whether the generation space is N(0, I)."""
        return self.prior.has_normal_base

    def representation(self, z0: Tensor, context: Tensor | None = None) -> Tensor:
        """Generation to representation space, z0 (*batch, *event) -> z: `from_base` without its volume."""
        return self.from_base(z0, context)[0]

    def generation(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Representation to generation space, z (*batch, *event) -> z0: `to_base` without its volume."""
        return self.to_base(z, context)[0]

    def arguments(self) -> dict[str, Any]:
        return {"prior": self.prior}

    def _draw(self, shape: torch.Size, context: Tensor | None) -> Tensor:
        return self.prior._draw(shape, context)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.prior._log_prob(z, context)

    def _exact_kl(self, q: torch.distributions.Distribution) -> Tensor | None:
        return self.prior._exact_kl(q)

    def _initialize(self, latents: Tensor, context: Tensor | None, seed: int) -> None:
        self.prior.initialize(latents, context, seed=seed)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.prior._to_base(z, context)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.prior._from_base(z0, context)
