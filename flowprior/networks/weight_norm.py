"""Blocks of weight-normalized convolutions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.bijectors.weight_norm import WeightNormConv2d


class ResidualBlock(nn.Module):
    """h + conv3x3(dropout(elu([h, conv1x1(elu(skip))]))): (N, channels, H, W) -> the same shape.

    Args:
        channels: of h.
        dropout: share of the entries that are dropped in training.
        skip_channels: of the maps (N, skip_channels, H, W) that are merged in; None without.
    """

    def __init__(self, channels: int, dropout: float, skip_channels: int | None = None) -> None:
        super().__init__()
        self.merge = None if skip_channels is None else WeightNormConv2d(skip_channels, channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.convolution = WeightNormConv2d(channels if self.merge is None else 2 * channels, channels)

    def forward(self, maps: Tensor, skip: Tensor | None = None) -> Tensor:
        hidden = functional.elu(maps)
        if self.merge is not None and skip is not None:
            merged = self.merge(functional.elu(skip))
            hidden = torch.cat([hidden, functional.elu(merged)], 1)
        return maps + self.convolution(self.dropout(hidden))


class SubpixelUp(nn.Sequential):
    """conv3x3 to 4 times the channels, then each 4 of them to 2x2 pixels: (N, in, H, W) -> (N, out, 2H, 2W).

    Source: Shi et al. 2016 (sub-pixel convolution), Eq. 3 and 4.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(WeightNormConv2d(in_channels, 4 * out_channels), nn.PixelShuffle(2))
