"""The residual autoencoder of Dai & Wipf's public code, on which Morrow & Chiu measure disentanglement.

Encoder: conv 3x3, then `scales` residual blocks with a stride-2 conv 3x3 between them that doubles the
channels, mean over the pixels, a fully connected block of 512, FC out. Decoder: FC to 2x2, then for each
doubling of the side a stride-2 deconv 3x3 and a block, conv 3x3; the sigmoid belongs to the likelihood.
Glorot uniform weights and zero biases, the defaults of the published code.

Sources: Dai & Wipf 2019, and the network "Resnet" of its code with the README's --num-scale 4 --base-dim 32
(latent 128, Adam 1e-4 halved every 40 of 100 epochs); Morrow & Chiu, appendix B (depth 4).
"""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from flowprior.checks import check_count
from flowprior.networks.layers import Stack, check_size, scaled

BASE_CHANNELS, CHANNEL_CAP, HIDDEN, SCALES = 32, 1024, 512, 4
DECODER_SIDE = 2  # pixels a side where the decoder begins


class ResNetEncoder(Stack):
    """Images to the numbers a posterior reads: (N, channels, size, size) -> (N, out_features).

    Args:
        channels: color channels, 1 or 3.
        size: 32, 64, 128 or 256; the mean over the pixels makes the parameters the same for all.
        out_features: what the posterior asks for, `posterior.out_features(D)`.
        base_channels: at full size, doubled from scale to scale.
        scales: blocks, at sides of size, size / 2, ...
        width: multiplies every hidden count; 1.0 is the published size.
        momentum: of the batch norms, in torch's meaning; the code's "decay 0.999" is 0.001.

    Raises:
        InputError: on a size there is no network for, or a count or width that is not positive.

    >>> import torch
    >>> ResNetEncoder(3, 32, 128, width=0.125)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 128])
    """

    def __init__(
        self,
        channels: int,
        size: int,
        out_features: int,
        *,
        base_channels: int = BASE_CHANNELS,
        scales: int = SCALES,
        width: float = 1.0,
        momentum: float = 0.1,
    ) -> None:
        check_size(size)
        first, hidden = check_count("base_channels", base_channels), scaled(HIDDEN, width)
        check_count("scales", scales, most=size.bit_length() - 1, fix="each halves the side")
        widths = [scaled(first * 2**scale, width) for scale in range(scales)]
        start = nn.Conv2d(check_count("channels", channels), widths[0], 3, padding=1)
        layers: list[nn.Module] = [start, ResidualBlock(widths[0], momentum)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), ResidualBlock(after, momentum)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), DenseBlock(widths[-1], hidden)]
        layers.append(nn.Linear(hidden, check_count("out_features", out_features)))
        super().__init__("images", (channels, size, size), layers, nn.init.xavier_uniform_)


class ResNetDecoder(Stack):
    """Latents to images before the likelihood's activation: (N, in_features) -> (N, channels, size, size).

    Args:
        in_features: latent dimensions D.
        base_channels: at full size, doubled towards 2x2 up to 1024.
        channels, size, width, momentum: as for `ResNetEncoder`, as are the errors.

    >>> import torch
    >>> ResNetDecoder(128, 3, 32, width=0.125)(torch.zeros(2, 128)).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        size: int,
        *,
        base_channels: int = BASE_CHANNELS,
        width: float = 1.0,
        momentum: float = 0.1,
    ) -> None:
        doublings = check_size(size).bit_length() - DECODER_SIDE.bit_length()
        first = check_count("base_channels", base_channels)
        widths = [scaled(min(first * 2**scale, CHANNEL_CAP), width) for scale in range(doublings, -1, -1)]
        start = nn.Linear(check_count("in_features", in_features), widths[0] * DECODER_SIDE**2)
        layers: list[nn.Module] = [start, nn.Unflatten(1, (widths[0], DECODER_SIDE, DECODER_SIDE))]
        for before, after in pairwise(widths):
            up = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
            layers += [up, ResidualBlock(after, momentum)]
        layers.append(nn.Conv2d(widths[-1], check_count("channels", channels), 3, padding=1))
        super().__init__("latents", (in_features,), layers, nn.init.xavier_uniform_)


class ResidualBlock(nn.Module):
    """Twice BN, ReLU, conv 3x3, plus a conv 3x3 of the input: (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        convolution = partial(nn.Conv2d, channels, channels, 3, padding=1)
        norm = partial(nn.BatchNorm2d, channels, momentum=momentum)
        self.layers = nn.Sequential(norm(), nn.ReLU(), convolution(), norm(), nn.ReLU(), convolution())
        self.shortcut = convolution()

    def forward(self, maps: Tensor) -> Tensor:
        return self.layers(maps) + self.shortcut(maps)


class DenseBlock(nn.Module):
    """Twice ReLU, FC, plus an FC of the input: (N, features) -> (N, hidden)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        first, second = nn.Linear(features, hidden), nn.Linear(hidden, hidden)
        self.layers = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)
        self.shortcut = nn.Linear(features, hidden)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.layers(vectors) + self.shortcut(vectors)
