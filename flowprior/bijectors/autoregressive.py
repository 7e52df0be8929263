"""The inverse autoregressive step: fast from base to z, as posteriors need it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.recipes import as_widths
from flowprior.bijectors.spatial import context_maps
from flowprior.tensors import numel

LOG_SCALE_LIMIT = 4.0  # of one entry, smoothly


class InverseAutoregressive(Bijector):
    """z = m(z0, c) + exp(s(z0, c)) z0, where m and s of an entry see the entries of z0 before it.

    The identity at first; s is bounded smoothly by ±4. `from_base` is one pass, with log|det dz/dz0| = Σ s.
    `to_base` repeats z0 ← (z - m(z0)) exp(-s(z0)): each pass settles at least one entry more, so that it is
    exact after as many passes as there are entries; without a gradient it stops when nothing changes.

    Over vectors the network is nflows' MADE. Over maps (C, h, w), where a dense one would be too large, it is
    of masked convolutions: pixels in raster order, in each pixel the channels in order, and the context as
    maps of the size of z0.

    Args:
        event_shape: an int, or a tuple such as (32, 8, 8).
        context_features: as for `Bijector`: a vector, or the shape of maps.
        hidden_features: widths of the hidden layers, channels over maps; all alike over vectors.

    Raises:
        InputError: if an argument is none of these.

    Source: Kingma et al. 2016 (IAF), Algorithm 1; Lucas et al. 2019, A.2.

    >>> step = InverseAutoregressive((2, 4, 4), hidden_features=(8,))
    >>> z, logabsdet = step.from_base(torch.zeros(3, 2, 4, 4))
    >>> z.shape, logabsdet.shape
    (torch.Size([3, 2, 4, 4]), torch.Size([3]))
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context_features: int | Sequence[int] | None = None,
        *,
        hidden_features: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__(event_shape, context_features)
        hidden = as_widths(hidden_features)
        self.spatial = len(self.event_shape) == 3
        if self.spatial:
            channels = self.context_shape[0] if self.context_shape else 0
            self.network: nn.Module = MaskedConvolutions(self.event_shape[0], channels, hidden)
        else:
            self.network = _dense(self.features, self.context_shape, hidden)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._affine(z0, context)
        return shift + log_scale.exp() * z0, log_scale.flatten(1).sum(1)

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        z0 = z
        for _ in range(self.features):
            shift, log_scale = self._affine(z0, context)
            before, z0 = z0, (z - shift) * (-log_scale).exp()
            if not torch.is_grad_enabled() and torch.equal(before, z0):
                break
        _, log_scale = self._affine(z0, context)
        return z0, -log_scale.flatten(1).sum(1)

    def _affine(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and log-scale, each (N, *event)."""
        if self.spatial:
            maps = None if context is None else context_maps(context, *self.event_shape[1:])
            shift, raw = self.network(z0, maps).chunk(2, 1)
        else:
            rows = None if context is None else context.flatten(1)
            outputs = self.network(z0.flatten(1), rows)  # (N, 2 D), an entry's two numbers side by side
            shift, raw = (each.reshape(z0.shape) for each in outputs.unflatten(1, (-1, 2)).unbind(2))
        return shift, LOG_SCALE_LIMIT * torch.tanh(raw / LOG_SCALE_LIMIT)


def _dense(features: int, context_shape: torch.Size | None, hidden: tuple[int, ...]) -> nn.Module:
    """nflows' MADE, (N, features) -> (N, 2 features), with outputs that start at zero."""
    from nflows.transforms.made import MADE  # slow to import

    context = None if context_shape is None else numel(context_shape)
    options = {"num_blocks": max(1, len(hidden) - 1), "output_multiplier": 2, "activation": functional.elu}
    network = MADE(features, max(hidden), context, use_residual_blocks=True, **options)
    for parameter in network.final_layer.parameters():
        nn.init.zeros_(parameter)
    return network


class MaskedConvolutions(nn.Module):
    """Convolutions 3x3 whose outputs of a pixel and channel see only what comes before them.

    Maps (N, C, h, w) and context maps (N, K, h, w) or None -> (N, 2 C, h, w), zero at first. Before means: an
    earlier pixel in raster order, or the same pixel and an earlier channel. The context is seen everywhere.
    """

    def __init__(self, channels: int, context_channels: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        given = torch.arange(channels)  # of inputs; a hidden channel of degree d knows the channels below d
        degrees = [given + 1, *(torch.arange(width) % channels for width in hidden), given.repeat(2)]
        self.layers = nn.ModuleList(MaskedConv2d(*pair) for pair in pairwise(degrees))
        self.context = nn.Conv2d(context_channels, hidden[0], 3, padding=1) if context_channels else None
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor, context: Tensor | None = None) -> Tensor:
        hidden = self.layers[0](maps)
        if self.context is not None and context is not None:
            hidden = hidden + self.context(context)
        for layer in self.layers[1:]:
            hidden = layer(functional.elu(hidden))
        return hidden


class MaskedConv2d(nn.Conv2d):
    """Convolution 3x3 that sees earlier pixels whole, and of the same pixel the degrees up to its own."""

    mask: Tensor

    def __init__(self, before: Tensor, after: Tensor) -> None:
        super().__init__(len(before), len(after), 3, padding=1)
        mask = torch.zeros(len(after), len(before), 3, 3)
        mask[:, :, 0] = 1
        mask[:, :, 1, 0] = 1
        mask[:, :, 1, 1] = (before <= after[:, None]).float()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        return functional.conv2d(maps, self.weight * self.mask, self.bias, padding=1)
