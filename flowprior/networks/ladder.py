"""The convolutional pair of SNGAN's shape for ladders: weight norm, ELU, no batch norm, classes if wanted.

Plain: the decoder is a dense layer to 4x4 (to 7x7 for sides that are not powers of two, at most), then
transposed convolutions 4x4 of stride 2 and ELU that double the side and halve the channels, conv 3x3. The
encoder is its mirror image: conv 3x3, then convolutions 4x4 of stride 2. Residual (Lucas et al. 2019, Table
6): conv 3x3 - 16, blocks of 32, 64, 128 and 256 channels, the last three of which change the side.

Sources: Miyato et al. 2018 (SNGAN), Table 3; Lucas et al. 2019, A.4 and Table 6.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from flowprior.bijectors.weight_norm import WeightNormConv2d, WeightNormUp2d
from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.networks.layers import check_input, scaled

BASE_CHANNELS, CHANNEL_CAP, LEAST_SIDE = 64, 512, 4
RESIDUAL_START, RESIDUAL_CHANNELS = 16, 32
SIDES = (16, 28, 32, 48, 64, 96, 128)


def halvings(size: int) -> int:
    """How often a side halves down to 4 to 7 pixels; raises InputError on a side that does not.

    >>> [size // 2 ** halvings(size) for size in (16, 28, 32, 48, 64, 96)]
    [4, 7, 4, 6, 4, 6]
    """
    count = 0
    while size % 2 == 0 and size // 2 >= LEAST_SIDE:
        size, count = size // 2, count + 1
    if count == 0 or size >= 2 * LEAST_SIDE:
        known = ", ".join(map(str, SIDES))
        raise InputError(f"`size` must halve down to 4 to 7 pixels, as {known} do: resize the images.")
    return count


def ladder_channels(size: int, width: float, residual: bool) -> list[int]:
    """Channels at each side, finest first: 64, 128, ... to 512, or 32, 64, ... to 256, times `width`."""
    first, cap = (RESIDUAL_CHANNELS, CHANNEL_CAP // 2) if residual else (BASE_CHANNELS, CHANNEL_CAP)
    return [scaled(min(first * 2**scale, cap), width) for scale in range(halvings(size) + 1)]


class Block(nn.Module):
    """A layer that keeps, halves or doubles the side: a convolution and ELU, or a residual block.

    Plain: ELU of a convolution, 3x3, 4x4 of stride 2 or its transpose. Residual: conv3x3(elu(conv3x3(elu h)))
    plus a convolution 1x1 of h, h averaged down or repeated up.
    """

    def __init__(
        self, before: int, after: int, change: int, residual: bool, classes: int | None = None
    ) -> None:
        super().__init__()
        self.residual, self.change = residual, change
        if residual:
            self.first = WeightNormConv2d(before, after, classes=classes)
            self.second = WeightNormConv2d(after, after, classes=classes)
            self.shortcut = WeightNormConv2d(before, after, 1, classes=classes)
        elif change > 0:
            self.first = WeightNormUp2d(before, after, classes=classes)
        elif change < 0:
            self.first = WeightNormConv2d(before, after, 4, 2, classes=classes, padding=1)
        else:
            self.first = WeightNormConv2d(before, after, classes=classes)

    def forward(self, maps: Tensor, context: Tensor | None = None) -> Tensor:
        """(N, before, H, W) -> (N, after, H', W')."""
        if not self.residual:
            return functional.elu(self.first(maps, context))
        if self.change > 0:
            maps = functional.interpolate(maps, scale_factor=2, mode="nearest")
        elif self.change < 0:
            maps = functional.avg_pool2d(maps, 2)
        hidden = self.first(functional.elu(maps), context)
        return self.second(functional.elu(hidden), context) + self.shortcut(maps, context)


class LadderEncoder(nn.Module):
    """Images to their features at every side: (N, channels, size, size) -> list of maps, coarsest first.

    Args:
        channels, size: of the images; sides that halve down to 4 to 7 pixels, such as 16, 28, 32, 48, 64, 96.
        width: multiplies all channels; 1.0 is SNGAN's size.
        residual: blocks as in Table 6.
        classes: gains and biases of classes, one-hot (N, classes) then goes along.

    Raises:
        InputError: on another size, or a count or width that is not positive.

    >>> import torch
    >>> maps = LadderEncoder(3, 32, width=0.0625)(torch.zeros(2, 3, 32, 32))
    >>> [tuple(each.shape[1:]) for each in maps]
    [(32, 4, 4), (16, 8, 8), (8, 16, 16), (4, 32, 32)]
    """

    def __init__(
        self, channels: int, size: int, *, width: float = 1.0, residual: bool = False,
        classes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = ladder_channels(size, width, residual)
        self.data_shape, self.widths = (check_count("channels", channels), size, size), widths
        blocks = [Block(a, b, -1, residual, classes) for a, b in pairwise(widths)]
        start = scaled(RESIDUAL_START, width) if residual else channels
        self.start = WeightNormConv2d(channels, start, classes=classes) if residual else None
        self.blocks = nn.ModuleList([Block(start, widths[0], 0, residual, classes), *blocks])

    def forward(self, x: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """Raises InputError on images of another shape."""
        hidden = check_input("x", x, self.data_shape)
        if self.start is not None:
            hidden = self.start(hidden, context)
        maps: list[Tensor] = []
        for block in self.blocks:
            hidden = block(hidden, context)
            maps.insert(0, hidden)
        return maps


class LadderDecoder(nn.Module):
    """The top-down half: `start`, then `stages` that double the side, `end`; a ladder puts latents between.

    Called as a network it is (N, in_features) -> (N, channels, size, size) without latents in between.

    Args:
        in_features: entries of the top latent.
        channels, size, width, residual, classes: as for `LadderEncoder`, as are the errors.

    >>> import torch
    >>> LadderDecoder(8, 3, 32, width=0.0625)(torch.zeros(2, 8)).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self, in_features: int, channels: int, size: int, *, width: float = 1.0, residual: bool = False,
        classes: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = ladder_channels(size, width, residual)[::-1]
        self.in_features, self.side = check_count("in_features", in_features), size // 2 ** halvings(size)
        self.widths, self.residual = widths, residual
        self.dense = WeightNormConv2d(in_features, widths[0] * self.side**2, 1, classes=classes)
        ups: list[nn.Module] = [Block(a, b, 1, residual, classes) for a, b in pairwise(widths)]
        if residual:  # the last block of Table 6 keeps the side
            ups[-1] = Residuals([ups[-1], Block(widths[-1], widths[-1], 0, True, classes)])
        self.stages = nn.ModuleList(ups)
        self.last = WeightNormConv2d(widths[-1], check_count("channels", channels), classes=classes)

    def start(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The top latent (N, in_features) -> the coarsest maps (N, C, side, side)."""
        check_input("z", z, (self.in_features,))
        maps = self.dense(z[:, :, None, None], context).reshape(len(z), -1, self.side, self.side)
        return maps if self.residual else functional.elu(maps)

    def end(self, maps: Tensor, context: Tensor | None = None) -> Tensor:
        """The finest maps -> what the likelihood reads."""
        return self.last(functional.elu(maps) if self.residual else maps, context)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        maps = self.start(z, context)
        for stage in self.stages:
            maps = stage(maps, context)
        return self.end(maps, context)


class Residuals(nn.Module):
    """Blocks in a row, all of which see the context."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: Tensor, context: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            maps = block(maps, context)
        return maps
