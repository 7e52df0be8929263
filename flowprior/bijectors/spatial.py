"""What flows over maps (C, h, w) are built of: convolutional networks, context maps, steps by channel."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flowprior.bijectors.actnorm import ActNormBase
from flowprior.bijectors.conditioner import ACTIVATIONS, start

if TYPE_CHECKING:
    from flowprior.bijectors.recipes import Recipe


def context_maps(context: Tensor, context_shape: Sequence[int], height: int, width: int) -> Tensor:
    """A context (N, C), of vectors (C,) or maps (K, H, W) flattened, as maps (N, C or K, height, width).

    A vector stands at every position. Larger maps are averaged over the cells of the new grid, smaller ones
    repeated.

    >>> context_maps(torch.arange(4.0)[None], (1, 2, 2), 1, 1).tolist()
    [[[[1.5]]]]
    """
    if len(context_shape) == 1:
        return context[:, :, None, None].expand(-1, -1, height, width)
    maps = context.unflatten(1, tuple(context_shape))  # (N, K, H, W)
    if maps.shape[2:] == (height, width):
        return maps
    if maps.shape[2] >= height and maps.shape[3] >= width:
        return nn.functional.adaptive_avg_pool2d(maps, (height, width))
    return nn.functional.interpolate(maps, (height, width), mode="nearest")


def convolutions(
    in_channels: int, out_channels: int, hidden_features: Sequence[int], activation: str = "elu"
) -> nn.Sequential:
    """Convolutions 3x3 - 1x1 - ... - 3x3 of these hidden channels, (N, in, h, w) -> (N, out, h, w)."""
    widths = [in_channels, *hidden_features, out_channels]
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        size = 3 if index in (0, len(widths) - 2) else 1
        layers += [nn.Conv2d(before, after, size, padding=size // 2), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


class MapNetwork(nn.Module):
    """Convolutional network from the unchanged channels and the context to a coupling's parameters.

    (N, in_channels h w), (N, C) or None -> (N, out_channels h w), all flat as in a coupling of vectors.

    Args:
        in_channels, out_channels: of the unchanged maps and of the outputs.
        size: (h, w).
        hidden_features: channels of the hidden layers.
        context_shape: (C,) or (K, H, W) as for `context_maps`; None without a context.
        recipe: for activation and first weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: Sequence[int],
        hidden_features: tuple[int, ...],
        context_shape: torch.Size | None,
        recipe: "Recipe",
    ) -> None:
        super().__init__()
        self.in_channels, self.context_shape = in_channels, context_shape
        self.height, self.width = size
        channels = in_channels + (0 if context_shape is None else context_shape[0])
        self.layers = convolutions(channels, out_channels, hidden_features, recipe.activation)
        start([layer for layer in self.layers if isinstance(layer, nn.Conv2d)], recipe)

    def forward(self, unchanged: Tensor, context: Tensor | None = None) -> Tensor:
        maps = unchanged.unflatten(1, (self.in_channels, self.height, self.width))
        if context is not None and self.context_shape is not None:
            maps = torch.cat((maps, context_maps(context, self.context_shape, self.height, self.width)), 1)
        return self.layers(maps).flatten(1)


class ByPosition(nn.Module):
    """An actnorm of C channels, the same at each position of maps (N, C h w)."""

    def __init__(self, actnorm: ActNormBase) -> None:
        super().__init__()
        self.actnorm = actnorm
        self.channels = len(actnorm.shift)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mapped, logabsdet = self.actnorm(self._rows(z))
        return self._maps(mapped, len(z)), logabsdet.reshape(len(z), -1).sum(1)

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mapped, logabsdet = self.actnorm.inverse(self._rows(z0))  # type: ignore[operator]
        return self._maps(mapped, len(z0)), logabsdet.reshape(len(z0), -1).sum(1)

    def initialize(self, z: Tensor) -> None:
        """Standardize each channel of z (N, C h w), once; as for any actnorm."""
        self.actnorm.initialize(self._rows(z))

    def _rows(self, z: Tensor) -> Tensor:
        return z.unflatten(1, (self.channels, -1)).transpose(1, 2).flatten(0, 1)  # (N h w, C)

    def _maps(self, rows: Tensor, count: int) -> Tensor:
        return rows.unflatten(0, (count, -1)).transpose(1, 2).flatten(1)  # (N, C h w)
