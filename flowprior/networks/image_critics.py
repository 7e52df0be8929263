"""Critics of images: SNGAN's convolutional one and a residual one, with a projection of classes."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.networks.ladder import RESIDUAL_START, halvings, ladder_channels
from flowprior.networks.layers import check_input, scaled

SLOPE = 0.2


class ImageCritic(nn.Module):
    """How real an image is, log D / (1 - D): images (N, channels, size, size) -> (N,).

    Plain: conv 3x3 - 64, then for each halving conv 4x4 of stride 2 and conv 3x3, leaky ReLU of slope 0.2, a
    dense layer. Residual: conv 3x3 - 16, blocks of 32, 64, 128, 256 with ReLU, mean over the pixels, a dense
    layer. There is no normalization, and every layer has a second derivative, as a gradient penalty needs.

    The projection adds <e(y), φ(x)> for a class y, with φ the features before the dense layer.

    Args:
        channels, size: of the images.
        width: multiplies all channels. "Large D" of Lucas et al. is not specified; ours is `width=2.0`.
        residual: Table 6.
        classes: for the projection of one-hot classes (N, classes).

    Raises:
        InputError: on a size that does not halve down to 4 to 7 pixels, or a count that is not positive.

    Source: Miyato et al. 2018 (SNGAN), Table 3; Lucas et al. 2019, Table 6; Miyato & Koyama 2018, Eq. 6.

    >>> import torch
    >>> ImageCritic(3, 32, width=0.0625)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2])
    """

    def __init__(
        self, channels: int, size: int, *, width: float = 1.0, residual: bool = False,
        classes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.data_shape = (check_count("channels", channels), size, size)
        widths = ladder_channels(size, width, residual)
        if residual:
            first = scaled(RESIDUAL_START, width)
            blocks: list[nn.Module] = [nn.Conv2d(channels, first, 3, padding=1)]
            pairs = [(first, widths[0]), *pairwise(widths)]
            blocks += [CriticBlock(*pair, down=index > 0) for index, pair in enumerate(pairs)]
            blocks += [nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
            features = widths[-1]
        else:
            blocks = [nn.Conv2d(channels, widths[0], 3, padding=1), nn.LeakyReLU(SLOPE)]
            for before, after in pairwise(widths):
                blocks += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(SLOPE)]
                blocks += [nn.Conv2d(after, after, 3, padding=1), nn.LeakyReLU(SLOPE)]
            features = widths[-1] * (size // 2 ** halvings(size)) ** 2
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(features, 1)
        self.classes = None if classes is None else nn.Linear(classes, features, bias=False)
        for layer in self.body.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.0 if residual else SLOPE)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=features**-0.5)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Raises InputError on images of another shape, or where classes are missing."""
        features = self.body(check_input("x", x, self.data_shape))
        logits = self.head(features).squeeze(1)
        if self.classes is None:
            return logits
        if context is None:
            raise InputError("`context` is missing: this critic is for classes, one-hot (N, classes).")
        return logits + (self.classes(context) * features).sum(1)


class CriticBlock(nn.Module):
    """conv3x3(relu(conv3x3(relu h))), averaged down if asked for, plus conv1x1 of h: (N, C, H, W) -> maps."""

    def __init__(self, before: int, after: int, down: bool) -> None:
        super().__init__()
        first, second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.layers = nn.Sequential(nn.ReLU(), first, nn.ReLU(), second)
        self.shortcut, self.down = nn.Conv2d(before, after, 1), down

    def forward(self, maps: Tensor) -> Tensor:
        total = self.layers(maps) + self.shortcut(maps)
        return functional.avg_pool2d(total, 2) if self.down else total
