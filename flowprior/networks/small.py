"""A small convolutional autoencoder for 8x8 images, such as scikit-learn's digits."""

from torch import nn

from flowprior.checks import check_count
from flowprior.networks.layers import Stack, normalized, scaled

CHANNELS, HIDDEN = (32, 64), 256


class SmallEncoder(Stack):
    """conv 3x3 - 32, conv 4x4/2 - 64 BN, FC 256 BN, FC: (N, channels, 8, 8) -> (N, out_features).

    Args:
        channels: color channels.
        out_features: what the posterior asks for, `posterior.out_features(D)`.
        width: multiplies every hidden count.

    Raises:
        InputError: on a count or width that is not positive.

    >>> import torch
    >>> SmallEncoder(1, 8)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, channels: int, out_features: int, *, width: float = 1.0) -> None:
        first, second, hidden = (scaled(count, width) for count in (*CHANNELS, HIDDEN))
        layers = [
            nn.Conv2d(check_count("channels", channels), first, 3, padding=1),
            nn.LeakyReLU(0.2),
            *normalized(nn.Conv2d(first, second, 4, stride=2, padding=1, bias=False), nn.LeakyReLU(0.2)),
            nn.Flatten(),
            *normalized(nn.Linear(second * 16, hidden, bias=False), nn.LeakyReLU(0.2)),
            nn.Linear(hidden, check_count("out_features", out_features)),
        ]
        super().__init__("images", (channels, 8, 8), layers)


class SmallDecoder(Stack):
    """FC 256 BN, FC 64·16 BN, deconv 4x4/2 - 32 BN, conv 3x3, ReLU: (N, in_features) -> (N, channels, 8, 8).

    Args:
        in_features: latent dimensions D.
        channels, width: as for `SmallEncoder`, as are the errors.

    >>> import torch
    >>> SmallDecoder(8, 1)(torch.zeros(2, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, in_features: int, channels: int, *, width: float = 1.0) -> None:
        first, second, hidden = (scaled(count, width) for count in (*CHANNELS, HIDDEN))
        layers = [
            *normalized(nn.Linear(check_count("in_features", in_features), hidden, bias=False), nn.ReLU()),
            *normalized(nn.Linear(hidden, second * 16, bias=False), nn.ReLU()),
            nn.Unflatten(1, (second, 4, 4)),
            *normalized(nn.ConvTranspose2d(second, first, 4, stride=2, padding=1, bias=False), nn.ReLU()),
            nn.Conv2d(first, check_count("channels", channels), 3, padding=1),
        ]
        super().__init__("latents", (in_features,), layers)
