"""Steps in a row, with the halves of couplings kept apart between them."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.conditioner import Network
from flowprior.bijectors.permutation import Permutation
from flowprior.bijectors.reversible import through_inverse
from flowprior.bijectors.spatial import ByPosition, context_maps
from flowprior.errors import InputError

Halves = tuple[Tensor, Tensor]


class Splitting(nn.Module):
    """A step that reads some features and changes the others: what a chain needs to keep the two apart.

    The halves are the features that it keeps and changes, the one with feature 0 first, so that couplings
    that swap the roles of two halves can follow each other without putting them together in between.

    A subclass has the buffers of nflows' coupling transform, `identity_features` and `transform_features`,
    and calls `note_mask` when they are there and after each load. In maps (N, C, h, w) they count columns of
    the flattened maps, `size` = h w for each channel.
    """

    identity_features: Tensor
    transform_features: Tensor
    size: int = 1

    def note_mask(self, incompatible_keys: object = None) -> None:
        """Read the mask from its buffers, as a load may have changed it."""
        if self.transform_features.is_meta:
            return
        self.flipped = 0 in self.transform_features.tolist()  # it is the first half that changes
        first, second = self._order()
        self.widths = len(first), len(second)
        self.first = tuple(first.tolist())
        self.contiguous = self.first == tuple(range(len(self.first)))

    def split(self, value: Tensor) -> Halves:
        """(N, D) or maps -> the two halves."""
        if self.contiguous:
            return value.split_with_sizes(self.widths, 1)  # type: ignore[return-value]
        first, second = self._order()
        return value.index_select(1, first), value.index_select(1, second)

    def join(self, halves: Halves) -> Tensor:
        """What undoes `split`."""
        joined = torch.cat(halves, dim=1)
        return joined if self.contiguous else joined.index_select(1, torch.cat(self._order()).argsort())

    def couple(self, halves: Halves, context: Tensor | None, to_base: bool) -> tuple[Halves, Tensor]:
        """The halves after this step, and its log-scales (N, ...), whose sum is the log-determinant."""
        first, second = halves
        if self.flipped:
            mapped, log_scale = self.change(second, first, context, to_base)
            return (mapped, second), log_scale
        mapped, log_scale = self.change(first, second, context, to_base)
        return (first, mapped), log_scale

    @abstractmethod
    def change(
        self, kept: Tensor, changed: Tensor, context: Tensor | None, to_base: bool
    ) -> tuple[Tensor, Tensor]:
        """The half that changes, mapped, and the log-scales of that direction."""

    def _order(self) -> Halves:
        kept, changed = self.identity_features, self.transform_features
        if self.size > 1:
            kept, changed = kept[:: self.size] // self.size, changed[:: self.size] // self.size
        return (changed, kept) if self.flipped else (kept, changed)


class Chain(Bijector):
    """Steps one after the other: `to_base` calls them in order, `from_base` their inverses in reverse.

    A step is a module: `step(z, context)` and `step.inverse(z0, context)` return the mapped (N, D) and its
    logabsdet (N,). Without `spatial` both z and context are flattened for them; with it they are maps
    (N, C, h, w), the context at the size of z.

    With `reversible` the gradient keeps no activations: the backward pass computes them again, from the
    results through the inverses, so that its memory does not grow with the number of steps.
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        steps: Sequence[nn.Module],
        context_features: int | Sequence[int] | None = None,
        *,
        start_from_data: bool = False,
        spatial: bool = False,
        reversible: bool = False,
    ) -> None:
        super().__init__(event_shape, context_features)
        self.steps = nn.ModuleList(steps)
        self.start_from_data, self.spatial, self.reversible = start_from_data, spatial, reversible

    def forward(self, value: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        """Either direction on what the steps see."""
        return self.run(list(self.steps), value, context, to_base)

    def run(
        self, steps: Sequence[Any], value: Tensor, context: Tensor | None, to_base: bool
    ) -> tuple[Tensor, Tensor]:
        """These steps in one direction: the mapped value and its logabsdet (N,)."""
        totals: list[Tensor] = []
        log_scales: list[Tensor] = []
        apart: Splitting | None = None  # the coupling whose halves the features are in
        halves: Halves = (value, value)
        for step in steps if to_base else reversed(steps):
            if isinstance(step, Splitting):
                if apart is None or apart.first != step.first:
                    halves, apart = step.split(value if apart is None else apart.join(halves)), step
                halves, log_scale = step.couple(halves, context, to_base)
                log_scales.append(log_scale)
                continue
            if apart is not None:
                value, apart = apart.join(halves), None
            if isinstance(step, Permutation):
                value = step.reorder(value, to_base)
            else:
                value, logabsdet = (step if to_base else step.inverse)(value, context)
                totals.append(logabsdet)
        if log_scales:
            totals.append(torch.cat(log_scales, dim=1).flatten(1).sum(1))
        total = sum(totals[1:], start=totals[0]) if totals else value.new_zeros(value.shape[0])
        return value if apart is None else apart.join(halves), total

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._either(z, context, True)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._either(z0, context, False)

    def _either(self, value: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        rows, context = self._as_steps_see(value, context)
        if self.reversible and torch.is_grad_enabled():
            mapped, logabsdet = through_inverse(self, rows, context, to_base)
        else:
            mapped, logabsdet = self.run(self.steps, rows, context, to_base)  # type: ignore[arg-type]
        return mapped if mapped.dim() == value.dim() else mapped.reshape(value.shape), logabsdet

    def _as_steps_see(self, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.spatial:
            return value, None if context is None else context_maps(context, *self.event_shape[1:])
        return value.flatten(1), None if context is None else context.flatten(1)

    @torch.no_grad()
    def reset(self, *, started: bool = False) -> None:
        """Make every step the identity (by a sigmoid scale, a constant factor) by its last layers.

        `started` keeps actnorms that start from data from doing so.
        """
        for module in self.modules():
            if isinstance(module, Network):
                module.reset()
            elif isinstance(module, ActNormBase):
                module.log_scale.zero_()
                module.shift.zero_()
                module.initialized.fill_(started)

    @torch.no_grad()
    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Standardize the activations that reach each actnorm, for recipes that start from data.

        Raises:
            InputError: as `to_base`, and if `z` has no rows.
        """
        if not self.start_from_data:
            return
        rows, context, batch = self._enter("z", z, context)
        if rows.shape[0] == 0:
            raise InputError(f"`z` has batch shape {tuple(batch)}: pass at least one z to start from.")
        rows, context = self._as_steps_see(rows, context)
        for step in self.steps:
            if isinstance(step, ActNormBase | ByPosition):
                step.initialize(rows)
            rows, _ = self.run([step], rows, context, True)
