"""Priors over latent maps at several scales, the finer ones conditioned on the coarser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from flowprior.errors import InputError
from flowprior.priors.flow import FlowPrior
from flowprior.priors.invertible import InvertiblePrior
from flowprior.tensors import factorized, numel


class HierarchicalPrior(InvertiblePrior):
    """p(z | c) = p(z_1 | c_1) p(z_2 | c_2, z_1) p(z_3 | c_3, z_1, z_2) ...

    z is one vector: the maps of each scale flattened, the coarsest first. So are the context and z0. The
    prior of a finer scale sees its own context maps and behind them, on further channels, the maps z of every
    coarser scale, repeated to its size.

    Args:
        priors: one invertible prior a scale, the coarsest first. The i-th has event shape (C_i, h_i, w_i);
            from the second on its sides are multiples of those before, and its `context_features` are
            (K_i + C_1 + ... + C_(i-1), h_i, w_i) for K_i context maps of its own, which may be none. The
            context of the coarsest may be maps of any size, a vector or none.

    Raises:
        InputError: if a prior is not invertible or its shapes do not fit those before it.

    Source: the two latent scales of Esser et al. 2018 (Variational U-net).

    >>> coarse = FlowPrior((2, 2, 2), recipe="spatial", transforms=2, context_features=(3, 2, 2))
    >>> fine = FlowPrior((2, 4, 4), recipe="spatial", transforms=2, context_features=(3 + 2, 4, 4))
    >>> prior = HierarchicalPrior([coarse, fine])
    >>> prior.event_shape, prior.context_features
    (torch.Size([40]), 60)
    """

    def __init__(self, priors: Sequence[InvertiblePrior]) -> None:
        priors = list(priors)
        contexts = _own_contexts(priors)
        super().__init__(sum(numel(prior.event_shape) for prior in priors), sum(contexts) or None)
        self.priors = nn.ModuleList(priors)
        self.sizes = [numel(prior.event_shape) for prior in priors]
        self.context_sizes = contexts
        self.has_density = all(prior.has_density for prior in priors)
        self.has_rsample = all(prior.has_rsample for prior in priors)
        self.to(priors[0].device, priors[0].dtype)

    @property
    def has_normal_base(self) -> bool:
        """Whether the z0 of every scale is N(0, I)."""
        return all(prior.has_normal_base for prior in self._children())

    def arguments(self) -> dict[str, Any]:
        return {"priors": list(self._children())}

    def split(self, z: Tensor) -> list[Tensor]:
        """z or z0 (*batch, D) as the maps of each scale, (*batch, C_i, h_i, w_i)."""
        parts = z.split(self.sizes, -1)
        return [
            part.unflatten(-1, tuple(prior.event_shape))
            for part, prior in zip(parts, self._children(), strict=True)
        ]

    def _draw(self, shape: torch.Size, context: Tensor | None) -> Tensor:
        parts: list[Tensor] = []
        for index, prior in enumerate(self._children()):
            parts.append(prior._draw(shape, self._context(index, context, parts)))
        return _joined(parts)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self._total([prior._log_prob(part, seen) for prior, part, seen in self._given(z, context)])

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mapped = [prior._to_base(part, seen) for prior, part, seen in self._given(z, context)]
        return _joined([z0 for z0, _ in mapped]), self._total([logabsdet for _, logabsdet in mapped])

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        parts: list[Tensor] = []
        volumes: list[Tensor] = []
        for index, (prior, part) in enumerate(zip(self._children(), self.split(z0), strict=True)):
            z, logabsdet = prior._from_base(part, self._context(index, context, parts))
            parts.append(z)
            volumes.append(logabsdet)
        return _joined(parts), self._total(volumes)

    def _conditional_kl(self, q: Distribution, z: Tensor, context: Tensor | None) -> Tensor | None:
        q = factorized(q)
        if not isinstance(q, Normal):
            return None
        terms: list[Tensor] = []
        for (prior, part, seen), loc, scale in zip(
            self._given(z, context), self.split(q.loc), self.split(q.scale), strict=True
        ):
            own = Independent(Normal(loc, scale, validate_args=False), 3, validate_args=False)
            exact = prior._exact_kl(own)
            kl = prior._conditional_kl(own, part, seen) if exact is None else exact
            if kl is None:
                return None
            terms.append(kl)
        return self._total(terms)

    def _initialize(self, latents: Tensor, context: Tensor | None, seed: int) -> None:
        for prior, part, seen in self._given(latents, context):
            # A full whitening would mix the positions of the maps.
            options = {"standardize": "diagonal"} if isinstance(prior, FlowPrior) else {}
            prior.initialize(part, prior._as_given(seen), seed=seed, **options)

    def _given(
        self, z: Tensor, context: Tensor | None
    ) -> list[tuple[InvertiblePrior, Tensor, Tensor | None]]:
        """For each scale: its prior, its part of z, and the context that the prior sees, flat."""
        parts = self.split(z)
        return [
            (prior, parts[index], self._context(index, context, parts[:index]))
            for index, prior in enumerate(self._children())
        ]

    def _context(self, index: int, context: Tensor | None, coarser: Sequence[Tensor]) -> Tensor | None:
        """What the prior of scale `index` sees, (*batch, C): its own context, then the coarser z."""
        seen: list[Tensor] = []
        if context is not None and self.context_sizes[index]:
            seen.append(context.split(self.context_sizes, -1)[index])
        _, height, width = self._children()[index].event_shape
        for maps in coarser:
            larger = maps.repeat_interleave(height // maps.shape[-2], -2)
            seen.append(larger.repeat_interleave(width // maps.shape[-1], -1).flatten(-3))
        return torch.cat(seen, -1) if seen else None

    def _children(self) -> list[InvertiblePrior]:
        return list(self.priors)  # type: ignore[arg-type]

    @staticmethod
    def _total(terms: Sequence[Tensor]) -> Tensor:
        """The sum of a term (*batch,) for each scale."""
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """What undoes `HierarchicalPrior.split`."""
    return torch.cat([part.flatten(-3) for part in parts], -1)


def _own_contexts(priors: Sequence[InvertiblePrior]) -> list[int]:
    """Elements of the context of each scale that is its own, once all shapes are known to fit."""
    if not priors:
        raise InputError("`priors` (=[]) must hold an invertible prior for each scale, the coarsest first.")
    found: list[int] = []
    channels, sides = 0, torch.Size((1, 1))
    for index, prior in enumerate(priors):
        name = f"`priors[{index}]`"
        if not isinstance(prior, InvertiblePrior):
            raise InputError(
                f"{name} (a {type(prior).__name__}) must be invertible, with `to_base` and `from_base`: for "
                "instance a FlowPrior or a GaussianPrior."
            )
        event, context = prior.event_shape, prior.context_shape
        if len(event) != 3 or event[1] % sides[0] or event[2] % sides[1]:
            raise InputError(
                f"{name} has event shape {tuple(event)} but must have maps (C, h, w) whose sides are "
                f"multiples of {tuple(sides)}, those of the scale before."
            )
        total = 0 if context is None else numel(context)
        if index > 0:
            if context is None or len(context) != 3 or context[1:] != event[1:] or context[0] < channels:
                raise InputError(
                    f"{name} has `context_features` (={prior.context_features}) but must see the "
                    f"{channels} channels of the coarser scales behind K >= 0 of its own, as in "
                    f"({channels} + K, {event[1]}, {event[2]})."
                )
            total -= channels * numel(event[1:])
        found.append(total)
        channels, sides = channels + event[0], torch.Size(event[1:])
    return found
