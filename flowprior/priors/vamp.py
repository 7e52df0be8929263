"""VampPrior: the mixture of an encoder's posteriors at learned pseudo-inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.priors.prior import Prior
from flowprior.tensors import as_event_shape, factorized


class VampPrior(Prior):
    """p(z) = 1/K Σ_k q(z | u_k), with K pseudo-inputs u_k in [0, 1] that are learned beside the model.

    The optimal prior of an ELBO is the aggregate posterior, of which this is a mixture with few components.
    q is the encoder of the `Autoencoder` that the prior is part of: the model hands itself over, and on its
    own the prior has nothing to encode with. Batch norms of the encoder see pseudo-inputs with their running
    statistics, so that the batch's are those of data alone.

    Args:
        features: the event shape of z, an int or a tuple.
        data_shape: of an x, such as (1, 28, 28).
        components: K.

    Raises:
        InputError: if an argument is none of these; on use outside an autoencoder, or in one with point
            posteriors.

    Source: Tomczak & Welling 2018, Eq. 9: K = 500, and u a clipped linear layer, here a sigmoid.

    >>> from flowprior.models import Autoencoder, GaussianPosterior
    >>> from flowprior.networks import MLP
    >>> model = Autoencoder(MLP(6, 4), MLP(2, 6), VampPrior(2, 6, 10), posterior=GaussianPosterior())
    >>> model.prior.log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    has_rsample = False  # a pick among components has no path gradient

    def __init__(
        self, features: int | Sequence[int], data_shape: int | Sequence[int], components: int = 500
    ) -> None:
        super().__init__(features)
        self.data_shape = as_event_shape(data_shape)
        self.components = check_count("components", components)
        self.pseudo_inputs = nn.Parameter(torch.randn(components, *self.data_shape))  # logits of u
        self._encode: Callable[[Tensor], Distribution] | None = None
        self._encoder: list[nn.Module] = []  # in a list: it is the model's, not a part of the prior

    def arguments(self) -> dict[str, Any]:
        shape = list(self.data_shape)
        return super().arguments() | {"data_shape": shape, "components": self.components}

    def join(self, encode: Callable[[Tensor], Distribution], encoder: nn.Module) -> None:
        self._encode, self._encoder = encode, [encoder]

    def _components(self) -> Distribution:
        """q(z | u_k), batch shape (K,)."""
        if self._encode is None:
            raise InputError(
                "VampPrior needs an encoder: make it the prior of an Autoencoder before it is asked for "
                "densities or draws."
            )
        norms = [m for m in self._encoder[0].modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        modes = [norm.training for norm in norms]
        for norm in norms:
            norm.eval()
        try:
            q = self._encode(self.pseudo_inputs.sigmoid())
        finally:
            for norm, mode in zip(norms, modes, strict=True):
                norm.training = mode
        if not isinstance(factorized(q), Normal):
            raise InputError("VampPrior mixes Gaussians: build the autoencoder with GaussianPosterior().")
        return q

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        each = self._components().log_prob(z.unsqueeze(1))  # (N, K)
        return each.logsumexp(1) - math.log(self.components)

    def _draw(
        self,
        count: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        q = self._components()
        home = self.device if generator is None else generator.device
        index = torch.randint(self.components, (count,), generator=generator, device=home).to(self.device)
        noise = self._noise(count, *self.event_shape, generator=generator)
        return q.mean[index] + temperature * q.stddev[index] * noise
