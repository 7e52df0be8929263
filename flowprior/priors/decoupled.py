"""The two spaces of dpVAE over one invertible prior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowprior.errors import InputError
from flowprior.latent import least_supported, lerp, traverse
from flowprior.metrics.aggregate import AggregatePosterior
from flowprior.metrics.leakage import Leakage, leakage
from flowprior.priors.invertible import HeldPrior, InvertiblePrior


class DecoupledPrior(HeldPrior):
    """An invertible prior seen as two spaces: the encoder lives in z, sampling in z0.

    Regularizers act on the representation z, samples are drawn in the generation space z0 and mapped over. As
    a prior it is the one it holds, parameter by parameter (Bhalodia et al. 2020, dpVAE, section 4.2).

    Raises:
        InputError: if `prior` is not invertible (has no `to_base` and `from_base`, as a `FlowPrior` has).

    >>> from flowprior import StandardNormal
    >>> DecoupledPrior(StandardNormal(2)).generation(torch.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, prior: InvertiblePrior) -> None:
        if not isinstance(prior, InvertiblePrior):
            name = type(prior).__name__
            raise InputError(f"`prior` (a {name}) must be invertible, with `to_base`, such as a FlowPrior.")
        super().__init__(prior.event_shape, prior.context_features, prior.classes)
        self.hold(prior)

    def representation(self, z0: Tensor, context: Tensor | None = None) -> Tensor:
        """Generation to representation space, z0 (*batch, *event) -> z: `from_base` without its volume."""
        return self.from_base(z0, context)[0]

    def generation(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Representation to generation space, z (*batch, *event) -> z0: `to_base` without its volume."""
        return self.to_base(z, context)[0]

    @torch.no_grad()
    def log_base(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """log p0(g(z)), the base density at z0 = g(z), without the volume: (*batch, *event) -> (*batch,)."""
        return self.log_prob(z, context) - self.to_base(z, context)[1]

    def low_posterior(self, aggregate: AggregatePosterior, n: int, draws: int) -> tuple[Tensor, Tensor]:
        """The n of `draws` samples z of the prior with the least aggregate posterior: they lie in pockets.

        Returns:
            z (n, *event) and log q(z) (n,), ascending (dpVAE, section 4.1; its code keeps a fifth of draws).

        Raises:
            InputError: as `least_supported`, or if the prior is conditional.
        """
        return least_supported(self.sample, aggregate.log_prob, n, draws)

    def high_posterior(self, aggregate: AggregatePosterior, n: int, draws: int) -> tuple[Tensor, Tensor]:
        """The n of `draws` samples z of the aggregate posterior with the least base density: they leak.

        As `low_posterior`, with log p0(g(z)) (`log_base`) in place of log q(z) (dpVAE, section 4.1).
        """
        return least_supported(lambda count: self._own(aggregate.sample(count)), self.log_base, n, draws)

    @torch.no_grad()
    def leakage(
        self,
        aggregate: AggregatePosterior,
        thresholds: Sequence[float],
        samples: int = 5000,
        as_printed: bool = False,
    ) -> Leakage:
        """The curve LS(τ) of `metrics.leakage` from `samples` draws of the aggregate posterior.

        Args:
            thresholds: τ, nats of log p0(g(z)), such as `normal_thresholds`.
            as_printed: divide by the base density at g(z), as Eq. 6 prints, and not by p(z).

        Raises:
            InputError: if the prior is conditional, or a density is not finite at a draw.
        """
        z = self._own(aggregate.sample(samples))
        return leakage(aggregate.log_prob(z), self.log_prob(z), thresholds, self.log_base(z), as_printed)

    def traverse(self, z: Tensor, coordinates: Sequence[int], values: Tensor) -> Tensor:
        """z where each of `coordinates` of z0 = g(z) in turn takes each of `values`: (C, V, N, *event).

        Raises:
            InputError: as `latent.traverse`, or if the base is not N(0, I).
        """
        if not self.has_normal_base:
            raise InputError("`traverse` needs a base N(0, I): build the prior with base='normal'.")
        return traverse(self.from_base, self.generation(z), coordinates, values)

    @torch.no_grad()
    def path(self, start: Tensor, end: Tensor, steps: int) -> Tensor:
        """The straight line from g(start) to g(end), mapped to z: (N, *event) twice -> (steps, N, *event).

        It bends around pockets, which the straight line in z crosses (dpVAE, Fig. 5).

        Raises:
            InputError: if there are fewer than 2 steps, or as `latent.lerp`.
        """
        if steps < 2:
            raise InputError(f"`steps` (={steps}) must be at least 2, the two ends.")
        weights = torch.linspace(0, 1, steps, device=self.device, dtype=self.dtype)
        return self.representation(lerp(self.generation(start), self.generation(end), weights))

    def arguments(self) -> dict[str, Any]:
        return {"prior": self.prior}

    def _own(self, z: Tensor) -> Tensor:
        return z.to(self.device, self.dtype)
