"""N(0, I), the prior of the plain VAE."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal

from flowprior.priors.invertible import InvertiblePrior
from flowprior.tensors import factorized, sum_event


class StandardNormal(InvertiblePrior):
    """p(z) = N(z; 0, I), with the closed-form KL for Gaussian posteriors.

    KL(N(m, diag s²) || N(0, I)) = ½ Σ (m² + s² - 1 - log s²)   (Kingma & Welling 2014, Appendix B). Its base
    space is z itself.

    Args:
        features: the event shape, an int or a tuple such as `(4, 8, 8)`.

    >>> prior = StandardNormal(2)
    >>> prior.kl(Normal(torch.ones(3, 2), torch.ones(3, 2)))
    tensor([1., 1., 1.])
    """

    is_standard_normal = True

    has_normal_base = True

    def __init__(self, features: int | Sequence[int]) -> None:
        super().__init__(features)

    def _draw(
        self,
        count: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return temperature * self._noise(count, *self.event_shape, generator=generator)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        squares = sum_event(z.square(), len(self.event_shape))
        return torch.rsub(squares, -0.5 * math.log(2 * math.pi) * self.event_shape.numel(), alpha=0.5)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z, z.new_zeros(z.shape[0])

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z0, z0.new_zeros(z0.shape[0])

    def _exact_kl(self, q: Distribution) -> Tensor | None:
        if isinstance(q, MultivariateNormal):
            factor, mean = q.scale_tril, q.loc  # (*batch, D, D), (*batch, D)
            log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            second_moment = factor.square().sum((-2, -1)) + mean.square().sum(-1)
            return 0.5 * (second_moment - mean.shape[-1] - log_det)
        q = factorized(q)
        if isinstance(q, Normal):
            return normal_kl(q.loc, q.scale, len(self.event_shape))
        return None


def normal_kl(offset: Tensor, scale: Tensor, event_dims: int) -> Tensor:
    """KL(N(m + offset, diag scale²) || N(m, I)), (*batch, *event) twice -> (*batch,)."""
    return sum_event(0.5 * (offset.square() + scale.square() - 1) - scale.log(), event_dims)
