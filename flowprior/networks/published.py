"""Convolutional autoencoders of public codes of regularized VAEs, each a plan for one image size."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import nn

from flowprior.checks import check_count, check_one_of
from flowprior.networks.layers import Stack, scaled

Layer = tuple[int, int, int, int]  # channels, kernel, stride, padding


@dataclass(frozen=True)
class Plan:
    """One autoencoder: what its encoder and its decoder are built of.

    Attributes:
        size: of the images, pixels a side.
        down: the encoder's convolutions.
        hidden: widths of fully connected layers behind them; the decoder has them in reverse.
        up: the decoder's transposed convolutions, without the last one's channels, which are the image's; ()
            for the encoder's in reverse.
        norms: batch normalization behind convolutions of the encoder, and of the decoder.
        slope: of leaky ReLU; 0 for ReLU.
        nearest: whether the decoder doubles the side by nearest neighbors, then convolves 3x3 on replicated
            borders, instead of transposed convolutions.
    """

    size: int
    down: tuple[Layer, ...]
    hidden: tuple[int, ...] = ()
    up: tuple[Layer, ...] = ()
    norms: tuple[bool, bool] = (False, False)
    slope: float = 0.0
    nearest: bool = False

    @property
    def side(self) -> int:
        """Pixels a side behind the last convolution."""
        side = self.size
        for _, kernel, stride, padding in self.down:
            side = (side + 2 * padding - kernel) // stride + 1
        return side

    def scaled(self, width: float) -> "Plan":
        """The plan with every count of units multiplied."""
        down, up = (
            tuple((scaled(n, width), kernel, stride, padding) for n, kernel, stride, padding in layers)
            for layers in (self.down, self.up)
        )
        return replace(self, down=down, up=up, hidden=tuple(scaled(n, width) for n in self.hidden))

    def upward(self) -> tuple[Layer, ...]:
        """The decoder's layers but for the last one's channels: `up`, or the encoder's in reverse."""
        if self.up:
            return self.up
        channels = [n for n, *_ in self.down[-2::-1]] + [0]
        mirrored = zip(channels, self.down[::-1], strict=True)
        return tuple((n, kernel, stride, padding) for n, (_, kernel, stride, padding) in mirrored)


_HALF: Layer = (32, 4, 2, 1)
PLANS = {
    # Burgess et al. 2018 for 64 pixels, which disentanglement_lib and dpVAE's `BetaVAE_B` follow.
    "burgess": Plan(64, (_HALF,) * 4, (256, 256)),
    # Kim & Mnih 2018 for 64 pixels; dpVAE's `FactorVAE2`.
    "kim": Plan(64, (_HALF, _HALF, (64, 4, 2, 1), (64, 4, 2, 1), (256, 4, 1, 0))),
    # dpVAE's `BetaVAE_MNIST` and `FactorMNIST`, 28 pixels.
    "dpvae_mnist": Plan(28, (_HALF, (32, 3, 1, 0)) * 2, (256, 256)),
    "dpvae_mnist_factor": Plan(28, (_HALF, (64, 3, 1, 0), (64, 4, 2, 1), (256, 3, 1, 0), (256, 4, 1, 0))),
    # dpVAE's `BetaVAE_SVHN`, 32 pixels; its decoder has no norms, and a plain layer behind each wider one.
    "dpvae_svhn": Plan(
        32,
        (_HALF, (32, 3, 1, 1)) * 2 + ((32, 3, 1, 0), (32, 3, 1, 1)) * 2,
        up=((32, 3, 1, 0), (32, 3, 1, 1)) * 2 + (_HALF, (32, 3, 1, 1)) * 2,
        norms=(True, False),
    ),
    # dpVAE's `BetaVAE_CelebA`, 64 pixels. Its LeakyReLU(True) is a slope of 1, a linear network but for the
    # norms; torch's own slope, which must have been meant, stands here.
    "dpvae_celeba": Plan(
        64,
        ((32, 4, 2, 1), (64, 4, 2, 1), (128, 4, 2, 1), (256, 4, 2, 1), (256, 4, 2, 1)),
        norms=(True, True),
        slope=0.01,
        nearest=True,
    ),
}


class PublishedEncoder(Stack):
    """The encoder of a plan: (N, C, size, size) -> (N, out_features), the numbers that a posterior reads.

    Args:
        channels: of the images.
        out_features: what the posterior asks for, `posterior.out_features(D)`.
        plan: a name in `PLANS`.
        width: multiplies every hidden count; 1.0 is as published.

    Raises:
        InputError: on an unknown plan, or a count or width that is not positive.

    Source: dpVAE's public code (`models/beta_model.py`, `models/factor_model.py`).

    >>> import torch
    >>> PublishedEncoder(1, 4, plan="dpvae_mnist")(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self, channels: int, out_features: int, plan: str = "burgess", *, width: float = 1.0
    ) -> None:
        made = _plan(plan, width)
        layers: list[nn.Module] = []
        before = check_count("channels", channels)
        for after, kernel, stride, padding in made.down:
            convolution = nn.Conv2d(before, after, kernel, stride, padding)
            layers += _followed(convolution, made, made.norms[0])
            before = after
        widths = [before * made.side**2, *made.hidden]
        layers += [nn.Flatten(), *_dense(widths, made)]
        layers.append(nn.Linear(widths[-1], check_count("out_features", out_features)))
        super().__init__("images", (channels, made.size, made.size), layers, initialize=None)


class PublishedDecoder(Stack):
    """The decoder of a plan: (N, in_features) -> (N, C, size, size), before the likelihood's activation.

    Args:
        in_features: latent dimensions D.
        channels, plan, width: as for `PublishedEncoder`, as are the errors.

    >>> import torch
    >>> PublishedDecoder(4, 3, plan="dpvae_celeba")(torch.zeros(2, 4)).shape
    torch.Size([2, 3, 64, 64])
    """

    def __init__(self, in_features: int, channels: int, plan: str = "burgess", *, width: float = 1.0) -> None:
        made = _plan(plan, width)
        before = made.down[-1][0]
        widths = [check_count("in_features", in_features), *made.hidden[::-1], before * made.side**2]
        layers = [*_dense(widths, made), nn.Unflatten(1, (before, made.side, made.side))]
        upward = made.upward()
        last = len(upward) - 1
        for index, (n, kernel, stride, padding) in enumerate(upward):
            after = check_count("channels", channels) if index == last else n
            convolution: nn.Conv2d | nn.ConvTranspose2d
            if made.nearest:
                layers.append(nn.UpsamplingNearest2d(scale_factor=stride))
                convolution = nn.Conv2d(before, after, 3, padding=1, padding_mode="replicate")
            else:
                convolution = nn.ConvTranspose2d(before, after, kernel, stride, padding)
            layers += [convolution] if index == last else _followed(convolution, made, made.norms[1])
            before = after
        super().__init__("latents", (in_features,), layers, initialize=None)


def _plan(name: str, width: float) -> Plan:
    return PLANS[check_one_of("plan", name, PLANS)].scaled(width)


def _activation(plan: Plan) -> nn.Module:
    return nn.LeakyReLU(plan.slope) if plan.slope else nn.ReLU()


def _followed(layer: nn.Conv2d | nn.ConvTranspose2d, plan: Plan, norm: bool) -> Iterable[nn.Module]:
    return [layer, *([nn.BatchNorm2d(layer.out_channels)] if norm else []), _activation(plan)]


def _dense(widths: list[int], plan: Plan) -> list[nn.Module]:
    return [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), _activation(plan))]
