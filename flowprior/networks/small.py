"""A small convolutional autoencoder for 8x8 images, such as scikit-learn's digits."""

from torch import Tensor, nn

from flowprior.checks import check_count
from flowprior.networks.layers import check_input, initialize_weights, scaled

CHANNELS, HIDDEN = (32, 64), 256


class SmallEncoder(nn.Module):
    """conv 3x3 - 32, conv 4x4/2 - 64 BN, FC 256 BN, FC: (N, channels, 8, 8) -> (N, out_features).

    Args:
        channels: colour channels.
        out_features: what the posterior asks for, `posterior.out_features(D)`.
        width: multiplies every hidden count.

    Raises:
        InputError: on a count or width that is not positive.

    >>> import torch
    >>> SmallEncoder(1, 8)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, channels: int, out_features: int, *, width: float = 1.0) -> None:
        super().__init__()
        first, second, hidden = (scaled(count, width) for count in (*CHANNELS, HIDDEN))
        self.data_shape = (channels, 8, 8)
        self.layers = nn.Sequential(
            nn.Conv2d(check_count("channels", channels), first, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(first, second, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(second * 16, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, check_count("out_features", out_features)),
        )
        initialize_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, 8, 8) -> (N, out_features).

        Raises:
            InputError: if the input has another shape.
        """
        return self.layers(check_input("images", images, self.data_shape))


class SmallDecoder(nn.Module):
    """FC 256 BN, FC 64·16 BN, deconv 4x4/2 - 32 BN, conv 3x3, ReLU: (N, in_features) -> (N, channels, 8, 8).

    Args:
        in_features: latent dimensions D.
        channels: colour channels.
        width: multiplies every hidden count.

    Raises:
        InputError: on a count or width that is not positive.

    >>> import torch
    >>> SmallDecoder(8, 1)(torch.zeros(2, 8)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, in_features: int, channels: int, *, width: float = 1.0) -> None:
        super().__init__()
        first, second, hidden = (scaled(count, width) for count in (*CHANNELS, HIDDEN))
        self.in_features = in_features
        self.layers = nn.Sequential(
            nn.Linear(check_count("in_features", in_features), hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, second * 16, bias=False),
            nn.BatchNorm1d(second * 16),
            nn.ReLU(),
            nn.Unflatten(1, (second, 4, 4)),
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, check_count("channels", channels), 3, padding=1),
        )
        initialize_weights(self)

    def forward(self, latents: Tensor) -> Tensor:
        """(N, in_features) -> (N, channels, 8, 8).

        Raises:
            InputError: if the input has another shape.
        """
        return self.layers(check_input("latents", latents, (self.in_features,)))
