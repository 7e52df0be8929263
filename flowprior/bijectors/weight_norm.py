"""Weight-normalized convolutions that start from data, for classes if wanted."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError

DIRECTION_STD = 0.05  # of the first directions; only their angles matter
LEAST_VARIANCE = 1e-8  # an output that varies less over the first batches is only centered


class WeightNormConv2d(nn.Module):
    """Convolution by g v / ‖v‖ for each output channel: (N, in, H, W) -> (N, out, H / stride, W / stride).

    Inside `starting_from_data` it sets gain g and bias b by what it is run on, so that each output channel
    has mean 0 and variance 1 over examples and pixels: g = 1 / std(v * x / ‖v‖), b = -g mean(v * x / ‖v‖).

    Args:
        in_channels, out_channels, kernel, stride: as for `nn.Conv2d`.
        padding: of the sides, by default half a kernel.
        classes: then gain and bias are those of a class, and calls take one-hot classes (N, classes).
        gain: the first one; 0 for outputs that start, and from data stay, at 0.

    Source: Salimans & Kingma 2016 (weight normalization), Eq. 2, 5 and 6, per channel as in section 3; Lucas
    et al. 2019, Eq. 8 (gains and biases of a class).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1,
        *, classes: int | None = None, gain: float = 1.0, padding: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.direction = nn.Parameter(torch.empty(self._shape(in_channels, out_channels, kernel)))
        of_classes = () if classes is None else (classes,)
        self.gain = nn.Parameter(torch.full((*of_classes, out_channels), gain))
        self.bias = nn.Parameter(torch.zeros(*of_classes, out_channels))
        self.stride, self.classes = stride, classes
        self.padding = kernel // 2 if padding is None else padding
        nn.init.normal_(self.direction, std=DIRECTION_STD)

    @staticmethod
    def _shape(in_channels: int, out_channels: int, kernel: int) -> tuple[int, ...]:
        return (out_channels, in_channels, kernel, kernel)

    def forward(self, maps: Tensor, context: Tensor | None = None) -> Tensor:
        norm = torch.linalg.vector_norm(self.direction, dim=(1, 2, 3), keepdim=True)  # (out, 1, 1, 1)
        # Channels last: with the few channels of fine scales two to four times as fast on a CPU.
        maps = maps.contiguous(memory_format=torch.channels_last)
        if self.classes is None:
            weight = self.direction * (self.gain[:, None, None, None] / norm)
            return self._convolve(maps, weight, self.bias)
        if context is None:
            raise InputError(f"`context` is missing: this convolution is for {self.classes} classes.")
        gain, bias = ((context @ each)[:, :, None, None] for each in (self.gain, self.bias))
        return self._convolve(maps, self.direction / norm, None) * gain + bias

    def _convolve(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(maps, weight, bias, self.stride, self.padding)


class WeightNormUp2d(WeightNormConv2d):
    """Transposed convolution 4x4 of stride 2 by g v / ‖v‖: (N, in, H, W) -> (N, out, 2H, 2W).

    Arguments as for `WeightNormConv2d`; ‖v‖ is over the 16 weights of each pair of channels' inputs that
    reach an output channel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, classes: int | None = None) -> None:
        super().__init__(in_channels, out_channels, 4, 2, classes=classes)

    def _convolve(self, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv_transpose2d(maps, weight.transpose(0, 1), bias, 2, 1)


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
def _start(module: WeightNormConv2d, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Gain and bias from what comes out on the first batches, (N, out, H, W), returned as it is with them."""
    variance, mean = torch.var_mean(output, (0, 2, 3), correction=0)
    scale = torch.where(variance > LEAST_VARIANCE, variance.rsqrt(), 1.0)
    module.gain.mul_(scale)
    module.bias.sub_(mean).mul_(scale)
    return (output - mean[:, None, None]) * scale[:, None, None]
