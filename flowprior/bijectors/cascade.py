"""Steps in a row."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.schedule import Schedule
from flowprior.bijectors.spatial import ByPosition
from flowprior.errors import InputError


class Cascade(Bijector):
    """Steps one after the other: `to_base` calls them in order, `from_base` their inverses in reverse.

    A step is a module on flat tensors: `step(z, context)` and `step.inverse(z0, context)` return the
    mapped (N, D) and its logabsdet (N,).

    With `scheduled`, steps that `Schedule` knows take its fast path, to the same numbers up to rounding. The
    steps themselves are called where it knows one of them not, and while a part of one has a hook. Setting
    `schedule` to None has them called always.

    With `reversible`, the memory of the gradient does not grow with the number of steps (see `Schedule`).

    Raises:
        InputError: if `reversible` is asked for steps that have no schedule, or no gradient in it.
    """

    schedule: Schedule | None

    def __init__(
        self,
        event_shape: int | Sequence[int],
        steps: Sequence[nn.Module],
        context_features: int | Sequence[int] | None = None,
        *,
        start_from_data: bool = False,
        scheduled: bool = False,
        reversible: bool = False,
    ) -> None:
        super().__init__(event_shape, context_features)
        self.steps = nn.ModuleList(steps)
        self.start_from_data = start_from_data
        self.schedule = Schedule.of(self.steps, self.features, reversible) if scheduled else None
        if reversible and (self.schedule is None or not self.schedule.has_own_gradient):
            raise InputError(
                "`reversible` (=True) needs affine couplings on the backend 'nflows', at least two features "
                "and the activation relu, leaky_relu, elu or tanh: change these, or leave it out."
            )
        self.register_load_state_dict_post_hook(_reschedule)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        schedule = self.schedule
        if schedule is not None and schedule.serves(self.steps):
            return schedule.to_base(z, context)
        total = z.new_zeros(z.shape[0])
        for step in self.steps:
            z, logabsdet = step(z, context)
            total = total + logabsdet
        return z, total

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        schedule = self.schedule
        if schedule is not None and schedule.serves(self.steps):
            return schedule.from_base(z0, context)
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
            if isinstance(step, ActNormBase | ByPosition):
                step.initialize(z)
            z, _ = step(z, context)


def _reschedule(cascade: Cascade, incompatible_keys: object) -> None:
    """After a load: masks and permutations may be others now."""
    if cascade.schedule is not None:
        schedule = Schedule.of(cascade.steps, cascade.features, cascade.schedule.reversible)
        cascade.schedule = schedule if schedule is None else schedule.to(cascade._witness.device)
