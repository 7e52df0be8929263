"""Weight-normalized convolutions that start from data, and the residual blocks made of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

DIRECTION_STD = 0.05  # of the first directions; only their angles matter
LEAST_VARIANCE = 1e-8  # an output that varies less over the first batches is only centered


class WeightNormConv2d(nn.Module):
    """Convolution by g v / ‖v‖ for each output channel: (N, in, H, W) -> (N, out, H / stride, W / stride).

    Inside `starting_from_data` it sets gain g and bias b by what it is run on, so that each output channel
    has mean 0 and variance 1 over examples and pixels: g = 1 / std(v * x / ‖v‖), b = -g mean(v * x / ‖v‖).

    Source: Salimans & Kingma 2016 (weight normalization), Eq. 2, 5 and 6, per channel as in section 3.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.gain = nn.Parameter(torch.ones(out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.stride, self.padding = stride, kernel // 2
        nn.init.normal_(self.direction, std=DIRECTION_STD)

    def forward(self, maps: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.direction, dim=(1, 2, 3), keepdim=True)  # (out, 1, 1, 1)
        weight = self.direction * (self.gain[:, None, None, None] / norm)
        # Channels last: with the few channels of fine scales two to four times as fast on a CPU.
        maps = maps.contiguous(memory_format=torch.channels_last)
        return functional.conv2d(maps, weight, self.bias, self.stride, self.padding)


@contextmanager
def starting_from_data(network: nn.Module) -> Iterator[None]:
    """Inside, every `WeightNormConv2d` of `network` that is run is initialized by what comes out, so that
    those behind it see its outputs as they will be."""
    convolutions = (module for module in network.modules() if isinstance(module, WeightNormConv2d))
    hooks = [convolution.register_forward_hook(_start) for convolution in convolutions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _start(module: WeightNormConv2d, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Gain and bias from what comes out on the first batches, (N, out, H, W), returned as it is with them."""
    variance, mean = torch.var_mean(output, (0, 2, 3), correction=0)
    scale = torch.where(variance > LEAST_VARIANCE, variance.rsqrt(), 1.0)
    module.gain.mul_(scale)
    module.bias.sub_(mean).mul_(scale)
    return (output - mean[:, None, None]) * scale[:, None, None]


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
