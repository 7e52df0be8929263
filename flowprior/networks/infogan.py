"""The InfoGAN autoencoder of Lucic et al., on which GLF and its baselines are compared.

Encoder: conv 4x4/2 - 64, conv 4x4/2 - 128 BN, FC 1024 BN, leaky ReLU 0.2, FC out. Decoder: FC 1024 BN,
FC 128·(H/4)² BN, deconv 4x4/2 - 64 BN, deconv 4x4/2 - C, ReLU; the sigmoid belongs to the likelihood.

Sources: Chen et al. 2016 (InfoGAN), appendix C; Lucic et al. 2018; GLF, section 4 and appendix A (InfoGAN's
generator as decoder, the encoder symmetric to it); Dai & Wipf 2019 (spectral norm).
"""

from collections.abc import Iterable
from itertools import pairwise

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normalized

from flowprior.checks import check_count, check_one_of
from flowprior.networks.layers import Stack, normalized, scaled

STAGES = {28: 2, 32: 2, 64: 3, 128: 4, 256: 5}  # image size -> stride-2 convolutions, down to 7 or 8 pixels
BASE_CHANNELS, CHANNEL_CAP, HIDDEN = 64, 512, 1024


def stage_channels(size: int, width: float) -> list[int]:
    """Channels after each stride-2 stage, 64, 128, ... up to 512, times `width`; raises InputError on a
    `size` that there is no InfoGAN network for."""
    check_one_of("size", size, STAGES, "resize the images")
    return [scaled(min(BASE_CHANNELS * 2**stage, CHANNEL_CAP), width) for stage in range(STAGES[size])]


def normalize_spectrally(layers: Iterable[nn.Module]) -> None:
    """Give every linear and (transposed) convolutional layer a weight of spectral norm one."""
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            spectrally_normalized(layer)


class InfoGANEncoder(Stack):
    """Images to the numbers a posterior reads: (N, channels, size, size) -> (N, out_features).

    Layers before a batch norm carry no bias, which the norm would remove again.

    Args:
        channels: color channels, 1 or 3.
        size: 28 or 32 as in the papers; 64, 128, 256 add a stage per doubling.
        out_features: what the posterior asks for, `posterior.out_features(D)`.
        width: multiplies every hidden count; 1.0 is the papers' size, 0.25 a quarter of it.
        spectral_norm: on every layer, as Dai & Wipf's code does.
        momentum: of the batch norms, in torch's meaning. The TF code's "decay 0.999" is 0.001 here, whose
            statistics lag by epochs: in budgets of some thousand steps, evaluation needs torch's 0.1.

    Raises:
        InputError: on a size there is no network for, or a count or width that is not positive.

    >>> import torch
    >>> InfoGANEncoder(1, 28, 20, width=0.25)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 20])
    """

    def __init__(
        self,
        channels: int,
        size: int,
        out_features: int,
        *,
        width: float = 1.0,
        spectral_norm: bool = False,
        momentum: float = 0.1,
    ) -> None:
        stages = stage_channels(size, width)
        hidden, side = scaled(HIDDEN, width), size // 2 ** len(stages)
        first = nn.Conv2d(check_count("channels", channels), stages[0], 4, stride=2, padding=1)
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
        for pair in pairwise(stages):
            convolution = nn.Conv2d(*pair, 4, stride=2, padding=1, bias=False)
            layers += normalized(convolution, nn.LeakyReLU(0.2), momentum)
        flat = nn.Linear(stages[-1] * side**2, hidden, bias=False)
        layers += [nn.Flatten(), *normalized(flat, nn.LeakyReLU(0.2), momentum)]
        layers.append(nn.Linear(hidden, check_count("out_features", out_features)))
        super().__init__("images", (channels, size, size), layers)
        if spectral_norm:
            normalize_spectrally(self.layers)


class InfoGANDecoder(Stack):
    """Latents to images before the likelihood's activation: (N, in_features) -> (N, channels, size, size).

    Args:
        in_features: latent dimensions D.
        channels, size, width, spectral_norm, momentum: as for `InfoGANEncoder`, as are the errors.

    >>> import torch
    >>> InfoGANDecoder(64, 3, 32, width=0.25)(torch.zeros(2, 64)).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        size: int,
        *,
        width: float = 1.0,
        spectral_norm: bool = False,
        momentum: float = 0.1,
    ) -> None:
        stages = stage_channels(size, width)[::-1]
        hidden, side = scaled(HIDDEN, width), size // 2 ** len(stages)
        first = nn.Linear(check_count("in_features", in_features), hidden, bias=False)
        layers = [
            *normalized(first, nn.ReLU(), momentum),
            *normalized(nn.Linear(hidden, stages[0] * side**2, bias=False), nn.ReLU(), momentum),
            nn.Unflatten(1, (stages[0], side, side)),
        ]
        for pair in pairwise(stages):
            deconvolution = nn.ConvTranspose2d(*pair, 4, stride=2, padding=1, bias=False)
            layers += normalized(deconvolution, nn.ReLU(), momentum)
        channels = check_count("channels", channels)
        layers.append(nn.ConvTranspose2d(stages[-1], channels, 4, stride=2, padding=1))
        super().__init__("latents", (in_features,), layers)
        if spectral_norm:
            normalize_spectrally(self.layers)
