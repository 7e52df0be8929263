"""Priors that are a base seen through a map."""

import torch
from torch import Tensor

from flowprior.priors.invertible import InvertiblePrior
from flowprior.priors.prior import Prior
from flowprior.priors.standard_normal import StandardNormal


class BasedPrior(InvertiblePrior):
    """One whose z0 follows a prior of its own: p(z | c) = base(z0) |det dz0/dz|, with z0 = to_base(z; c).

    A subclass sets `base`, which has the event shape of z and no context.
    """

    base: Prior

    @property
    def has_normal_base(self) -> bool:
        """Whether z0 ~ N(0, I): False on a mixture or another prior as the base."""
        return isinstance(self.base, StandardNormal)

    def _draw(self, shape: torch.Size, context: Tensor | None) -> Tensor:
        return self._from_base(self.base._draw(shape, None), context)[0]

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        z0, logabsdet = self._to_base(z, context)
        return self.base._log_prob(z0, None) + logabsdet
