"""Steps in a row."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.bijector import Bijector
from flowprior.errors import InputError


class Cascade(Bijector):
    """Steps one after the other: `to_base` calls them in order, `from_base` their inverses in reverse.

    A step is a module on flat tensors: `step(z, context)` and `step.inverse(z0, context)` return the
    mapped (N, D) and its logabsdet (N,).
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        steps: Sequence[nn.Module],
        context_features: int | None = None,
        *,
        start_from_data: bool = False,
    ) -> None:
        super().__init__(event_shape, context_features)
        self.steps = nn.ModuleList(steps)
        self.start_from_data = start_from_data

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(z.shape[0])
        for step in self.steps:
            z, logabsdet = step(z, context)
            total = total + logabsdet
        return z, total

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        total = z0.new_zeros(z0.shape[0])
        for step in reversed(self.steps):
            z0, logabsdet = step.inverse(z0, context)  # type: ignore[operator]
            total = total + logabsdet
        return z0, total

    @torch.no_grad()
    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Standardize the activations that reach each actnorm, for recipes that start from data.

        Raises:
            InputError: as `to_base`, and if `z` has no rows.
        """
        if not self.start_from_data:
            return
        z, context, batch = self._flatten("z", z, context)
        if z.shape[0] == 0:
            raise InputError(f"`z` has batch shape {tuple(batch)}: pass at least one z to start from.")
        for step in self.steps:
            if isinstance(step, ActNormBase):
                step.initialize(z)
            z, _ = step(z, context)
