"""A Gaussian of unit variance whose mean is learned from the context: the prior of the Variational U-net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.distributions import Normal

from flowprior.bijectors.conditioner import convolutions
from flowprior.bijectors.recipes import as_widths
from flowprior.bijectors.spatial import context_maps
from flowprior.errors import InputError
from flowprior.priors.invertible import BasedPrior
from flowprior.priors.standard_normal import StandardNormal, normal_kl
from flowprior.tensors import numel


class GaussianPrior(BasedPrior):
    """p(z | c) = N(z; m(c), I), or, in groups, the product over g of N(z_g; m_g(c, z_<g), I).

    z0 = z - m, so that every log-determinant is 0. Over maps (C, h, w) with context maps m is a convolutional
    network (3x3 - 1x1 - 3x3) of the context at the size of the event; anything else is read flat, by a fully
    connected one. Both start at zero.

    With `groups=4` the maps are split into the four positions of each 2x2 cell (space to depth), and the
    mean of a group sees the groups before it beside the context: one pass for `log_prob`, four for a draw.
    KL(N(m_q, s²) || p) = E_q Σ ½ [(m_q - m_g(c, z_<g))² + s² - 1 - log s²], where only z_<g is drawn.

    Args:
        features: the event shape, an int or a tuple such as `(4, 8, 8)`.
        context_features: the width of the context, or the shape (K, H, W) of context maps.
        hidden_features: widths (or channels) of the hidden layers.
        groups: 1, or 4 for maps of even sides with context maps.

    Raises:
        InputError: if an argument is none of these, or there is no context.

    Source: Esser et al. 2018 (Variational U-net), whose published prior has four groups on its finer scale.

    >>> prior = GaussianPrior((2, 4, 4), (3, 8, 8), hidden_features=(8,), groups=4)
    >>> prior.log_prob(torch.zeros(5, 2, 4, 4), torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        features: int | Sequence[int],
        context_features: int | Sequence[int],
        *,
        hidden_features: Sequence[int] = (64, 64),
        groups: int = 1,
    ) -> None:
        super().__init__(features, context_features)
        if self.context_shape is None:
            raise InputError(
                "`context_features` (=None) must be the width or shape of the context: without one, build "
                "StandardNormal."
            )
        self.spatial = len(self.event_shape) == 3 and len(self.context_shape) == 3
        if groups not in (1, 4) or isinstance(groups, bool):
            raise InputError(f"`groups` (={groups!r}) must be 1 or 4.")
        if groups == 4 and (not self.spatial or any(side % 2 for side in self.event_shape[1:])):
            raise InputError(
                "`groups` (=4) needs maps (C, h, w) of even sides and context maps (K, H, W), but `features` "
                f"is {tuple(self.event_shape)} and `context_features` {self.context_features}: leave it out."
            )
        self.groups, self.hidden_features = groups, as_widths(hidden_features)
        self.base = StandardNormal(self.event_shape)
        self.means = nn.ModuleList([self._network(group) for group in range(groups)])

    def arguments(self) -> dict[str, Any]:
        return super().arguments() | {
            "context_features": self.context_features,
            "hidden_features": self.hidden_features,
            "groups": self.groups,
        }

    def _network(self, group: int) -> nn.Module:
        """The mean of a group, with a last layer of zeros."""
        shape = cast(torch.Size, self.context_shape)
        if self.spatial:
            channels = self.event_shape[0]
            layers = convolutions(shape[0] * self.groups + channels * group, channels, self.hidden_features)
        else:
            widths = [numel(shape), *self.hidden_features, numel(self.event_shape)]
            steps = [step for pair in pairwise(widths) for step in (nn.Linear(*pair), nn.ELU())]
            layers = nn.Sequential(*steps[:-1])
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)
        return layers

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return z - self._mean(z, context), z.new_zeros(z.shape[0])

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.groups == 1:
            return z0 + self._mean(z0, context), z0.new_zeros(z0.shape[0])
        seen, parts = self._context(context), list[Tensor]()
        for mean, own in zip(self.means, apart(z0), strict=True):
            parts.append(own + mean(torch.cat((seen, *parts), 1)))
        return together(parts), z0.new_zeros(z0.shape[0])

    def _conditional_kl(self, q: Normal, z: Tensor, context: Tensor | None) -> Tensor | None:
        return normal_kl(q.loc - self._mean(z, context), q.scale, len(self.event_shape))

    def _mean(self, z: Tensor, context: Tensor | None) -> Tensor:
        """m(c, z) like z (N, *event), where each group has read the groups of z before it."""
        seen = self._context(context)
        if self.groups == 1:
            return self.means[0](seen).reshape(z.shape)
        parts = apart(z)
        return together([mean(torch.cat((seen, *parts[:g]), 1)) for g, mean in enumerate(self.means)])

    def _context(self, context: Tensor | None) -> Tensor:
        """What the means read: (N, C), or maps at the size of a group."""
        context = cast(Tensor, context)
        if not self.spatial:
            return context.flatten(1)
        maps = context_maps(context, *self.event_shape[1:])
        return maps if self.groups == 1 else torch.cat(apart(maps), 1)


def apart(maps: Tensor) -> list[Tensor]:
    """Space to depth: (N, C, h, w) -> the four positions of each 2x2 cell, each (N, C, h/2, w/2)."""
    return list(rearrange(maps, "n c (h i) (w j) -> (i j) n c h w", i=2, j=2))


def together(parts: Sequence[Tensor]) -> Tensor:
    """Depth to space, what undoes `apart`."""
    return rearrange(list(parts), "(i j) n c h w -> n c (h i) (w j)", i=2, j=2)
