"""Priors over latent maps at several scales, the finer ones conditioned on the coarser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import repeat
from torch import Tensor, nn
from torch.distributions import Normal

from flowprior.errors import InputError
from flowprior.priors.flow import FlowPrior
from flowprior.priors.invertible import InvertiblePrior
from flowprior.tensors import numel


class HierarchicalPrior(InvertiblePrior):
    """p(z | c) = p(z_1 | c_1) p(z_2 | c_2, z_1) p(z_3 | c_3, z_1, z_2) ...

    z is one vector: the maps of each scale flattened, the coarsest first; so are the context and z0. A finer
    scale sees its context maps and, on further channels, the z of all coarser ones, repeated to its size.

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
        contexts = _own_contexts(priors)
        sizes = [numel(prior.event_shape) for prior in priors]
        super().__init__(sum(sizes), sum(contexts) or None)
        self.priors = nn.ModuleList(priors)
        self.sizes, self.context_sizes = sizes, contexts
        self.has_density = all(prior.has_density for prior in priors)
        self.has_rsample = all(prior.has_rsample for prior in priors)
        for prior in priors:  # a full whitening would mix the positions of the maps
            if isinstance(prior, FlowPrior) and prior.standardize == "full":
                prior.standardize_by("diagonal")
        self.follow(priors[0].device, priors[0].dtype)

    @property
    def has_normal_base(self) -> bool:
        """Whether the z0 of every scale is N(0, I)."""
        return all(prior.has_normal_base for prior in self._children())

    def arguments(self) -> dict[str, Any]:
        return {"priors": list(self._children())}

    def split(self, z: Tensor) -> list[Tensor]:
        """z or z0 (*batch, D) as the maps of each scale, (*batch, C_i, h_i, w_i)."""
        parts = zip(z.split(self.sizes, -1), self._children(), strict=True)
        return [part.unflatten(-1, tuple(prior.event_shape)) for part, prior in parts]

    def _draw(
        self,
        count: int,
        context: Tensor | None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        parts: list[Tensor] = []
        for prior, own in zip(self._children(), self._own_maps(context), strict=True):
            parts.append(prior._drawn(count, self._given(prior, own, parts), temperature, generator))
        return _joined(parts)

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return _total([prior._log_prob(part, seen) for prior, part, seen in self._scales(z, context)])

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mapped = [prior._to_base(part, seen) for prior, part, seen in self._scales(z, context)]
        return _joined([z0 for z0, _ in mapped]), _total([logabsdet for _, logabsdet in mapped])

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        parts, volumes = list[Tensor](), list[Tensor]()
        for prior, part, own in zip(self._children(), self.split(z0), self._own_maps(context), strict=True):
            z, logabsdet = prior._from_base(part, self._given(prior, own, parts))
            parts.append(z)
            volumes.append(logabsdet)
        return _joined(parts), _total(volumes)

    def _conditional_kl(self, q: Normal, z: Tensor, context: Tensor | None) -> Tensor | None:
        terms: list[Tensor] = []
        scales = zip(self._scales(z, context), self.split(q.loc), self.split(q.scale), strict=True)
        for (prior, part, seen), loc, scale in scales:
            own = Normal(loc, scale, validate_args=False)
            kl = prior._exact_kl(own)
            kl = prior._conditional_kl(own, part, seen) if kl is None else kl
            if kl is None:
                return None
            terms.append(kl)
        return _total(terms)

    def _initialize(self, latents: Tensor, context: Tensor | None, seed: int) -> None:
        for prior, part, seen in self._scales(latents, context):
            prior._initialize(part, seen, seed)

    def _scales(
        self, z: Tensor, context: Tensor | None
    ) -> Iterator[tuple[InvertiblePrior, Tensor, Tensor | None]]:
        """For each scale its prior, its part of z, and the context that its hooks see."""
        parts = self.split(z)
        scales = zip(self._children(), self._own_maps(context), strict=True)
        for index, (prior, own) in enumerate(scales):
            yield prior, parts[index], self._given(prior, own, parts[:index])

    def _own_maps(self, context: Tensor | None) -> list[Tensor | None]:
        """Rows (N, C) as the context of each scale that is its own, None where there is none."""
        if context is None:
            return [None] * len(self.priors)
        sizes = zip(context.split(self.context_sizes, 1), self._children(), strict=True)
        return [
            own.unflatten(1, (-1, *(prior.context_shape or ())[1:])) if own.shape[1] else None
            for own, prior in sizes
        ]

    def _given(self, prior: InvertiblePrior, own: Tensor | None, coarser: Sequence[Tensor]) -> Tensor | None:
        """What the hooks of a scale's prior see: its own context, then the coarser z repeated to its size."""
        _, height, width = prior.event_shape
        seen = [] if own is None else [own]
        seen += [
            repeat(maps, "n c h w -> n c (h i) (w j)", i=height // maps.shape[2], j=width // maps.shape[3])
            for maps in coarser
        ]
        return prior._seen(torch.cat(seen, 1) if len(seen) > 1 else seen[0]) if seen else None

    def _children(self) -> list[InvertiblePrior]:
        return list(self.priors)  # type: ignore[arg-type]


def _total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of a term (N,) for each scale."""
    return torch.stack(list(terms)).sum(0)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """What undoes `HierarchicalPrior.split`."""
    return torch.cat([part.flatten(-3) for part in parts], -1)


def _own_contexts(priors: Sequence[InvertiblePrior]) -> list[int]:
    """Elements of the context of each scale that is its own, once all shapes are known to fit."""
    if not priors:
        raise InputError("`priors` (=[]) must hold an invertible prior for each scale, the coarsest first.")
    own: list[int] = []
    channels, sides = 0, torch.Size((1, 1))
    for index, prior in enumerate(priors):
        name = f"`priors[{index}]`"
        if not isinstance(prior, InvertiblePrior):
            kind = type(prior).__name__
            raise InputError(f"{name} (a {kind}) must be invertible, with `to_base`, such as a FlowPrior.")
        if prior.classes is not None:
            raise InputError(
                f"{name} has `classes` (={prior.classes}) but the context of a hierarchy is one vector "
                "of numbers: build it with `context_features` and give labels one-hot."
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
        own.append(total)
        channels, sides = channels + event[0], torch.Size(event[1:])
    return own
