"""The Variational U-net of Esser et al.: a U-net from shape to image, with appearance in two latent maps.

Three networks share a layout (`UnetScales`): the shape branch goes down over the condition, the appearance
encoder down over image and condition and up to both latent scales, the decoder up from the shape's maps.

Source: Esser, Sutter & Ommer 2018 (A Variational U-Net for Conditional Appearance and Shape Generation),
section 3 and its public code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from flowprior.bijectors.weight_norm import WeightNormConv2d
from flowprior.checks import check_count, check_number, check_rows
from flowprior.errors import InputError
from flowprior.networks.layers import check_input, check_size
from flowprior.networks.weight_norm import ResidualBlock, SubpixelUp

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class UnetScales:
    """What the three networks share: the sides, widths and blocks of their scales. Defaults as published.

    Args:
        size: pixels a side of image and condition: 32, 64, 128 or 256.
        filters, max_filters: channels at full size, doubled from scale to scale up to the largest count.
        blocks: residual blocks a scale.
        bottleneck: pixels a side of the coarsest scale, a power of two up to half the size.
        dropout: in every residual block.

    Raises:
        InputError: if a value is out of range.

    >>> UnetScales(64, filters=8, max_filters=32).widths
    (8, 16, 32, 32, 32)
    >>> UnetScales(64, filters=8, max_filters=32).latent_shapes(16)
    ((16, 4, 4), (16, 8, 8))
    """

    size: int
    filters: int = 32
    max_filters: int = 128
    blocks: int = 2
    bottleneck: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_size(self.size)
        check_count("blocks", self.blocks, most=1000)
        check_count("max_filters", self.max_filters, least=check_count("filters", self.filters))
        side = check_count("bottleneck", self.bottleneck, most=self.size // 2)
        if side & (side - 1):
            raise InputError(f"`bottleneck` (={side!r}) must be a power of two, such as 4.")
        check_number("dropout", self.dropout, least=0, below=1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each scale, finest to coarsest."""
        count = (self.size // self.bottleneck).bit_length()
        return tuple(min(self.filters * 2**scale, self.max_filters) for scale in range(count))

    @property
    def context_shapes(self) -> tuple[Shape, Shape]:
        """The shape branch's maps at the two latent scales, coarse first."""
        side = self.bottleneck
        return (self.widths[-1], side, side), (self.widths[-2], 2 * side, 2 * side)

    def latent_shapes(self, channels: int) -> tuple[Shape, Shape]:
        """The shapes of the two latent maps, coarse first."""
        side = self.bottleneck
        return (channels, side, side), (channels, 2 * side, 2 * side)


class DownPath(nn.Module):
    """A map of every residual block on the way down: (N, in_channels, size, size) -> blocks a scale, finest
    to coarsest; between the scales a convolution of stride 2."""

    def __init__(self, in_channels: int, scales: UnetScales) -> None:
        super().__init__()
        widths = scales.widths
        self.start = WeightNormConv2d(in_channels, widths[0], 1)
        count = self.count = scales.blocks
        self.blocks = nn.ModuleList(ResidualBlock(w, scales.dropout) for w in widths for _ in range(count))
        self.down = nn.ModuleList(WeightNormConv2d(*pair, stride=2) for pair in pairwise(widths))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps: list[Tensor] = []
        for scale, before in enumerate([self.start, *self.down]):
            hidden = before(maps[-1] if scale else images)
            for block in self.blocks[scale * self.count : (scale + 1) * self.count]:
                hidden = block(hidden)
                maps.append(hidden)
        return tuple(maps)


class ShapeBranch(nn.Module):
    """The condition's maps: (N, context_channels, size, size) -> `blocks` maps a scale, finest to coarsest.

    >>> branch = ShapeBranch(1, UnetScales(32, filters=4, max_filters=8, blocks=1))
    >>> [tuple(maps.shape[1:]) for maps in branch(torch.zeros(2, 1, 32, 32))]
    [(4, 32, 32), (8, 16, 16), (8, 8, 8), (8, 4, 4)]
    """

    def __init__(self, context_channels: int, scales: UnetScales) -> None:
        super().__init__()
        self.scales = scales
        self.context_shape = (check_count("context_channels", context_channels), scales.size, scales.size)
        self.path = DownPath(context_channels, scales)

    def forward(self, context: Tensor) -> tuple[Tensor, ...]:
        """(N, context_channels, size, size) -> the maps; raises InputError on another shape."""
        return self.path(check_input("context", context, self.context_shape))

    def latent_maps(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The maps that a prior sees, `scales.context_shapes`: coarse first, the last of a scale."""
        return maps[-1], maps[-1 - self.scales.blocks]

    def latent_context(self, maps: Sequence[Tensor]) -> Tensor:
        """The latent scales' maps, each (*batch, K, h, w), as one vector (*batch, C), coarse first."""
        return torch.cat([each.flatten(-3) for each in self.latent_maps(maps)], -1)


class ShapeEmbedding(nn.Module):
    """A shape branch for a prior alone: (N, context_channels, size, size) -> its maps at the two latent
    scales as one vector, coarse first.

    >>> branch = ShapeBranch(1, UnetScales(32, filters=4, max_filters=8, blocks=1))
    >>> ShapeEmbedding(branch)(torch.zeros(2, 1, 32, 32)).shape  # 8 · 16 + 8 · 64
    torch.Size([2, 640])
    """

    def __init__(self, branch: ShapeBranch) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, context: Tensor) -> Tensor:
        """(N, context_channels, size, size) -> (N, C)."""
        return self.branch.latent_context(self.branch(context))


class AppearanceEncoder(nn.Module):
    """q(z|x, y): image (N, channels, size, size) and condition -> (N, multiplier · D), coarse map first.

    It goes down over both to the bottleneck, reads the coarse map there, goes up once with a skip and reads
    the fine one. The published code feeds the coarse z that it has drawn into the posterior of the fine one;
    here it is the coarse mean, so that the posterior factorizes.

    Args:
        channels, context_channels: of image and condition.
        latent_channels: C of the latent maps (C, s, s) and (C, 2s, 2s), of D entries together.
        scales: sides, widths and blocks.
        multiplier: numbers a latent entry, the posterior's `multiplier`: 1 for means alone. All first
            numbers stand before all second ones, as posteriors read them.

    Raises:
        InputError: on a count that is not positive.

    >>> encoder = AppearanceEncoder(3, 1, 2, UnetScales(32, filters=4, max_filters=8, blocks=1))
    >>> encoder(torch.zeros(5, 3, 32, 32), torch.zeros(5, 1, 32, 32)).shape  # 2 · 16 + 2 · 64
    torch.Size([5, 160])
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        latent_channels: int,
        scales: UnetScales,
        *,
        multiplier: int = 1,
    ) -> None:
        super().__init__()
        size, dropout, (fine, coarse) = scales.size, scales.dropout, scales.widths[-2:]
        self.data_shape = (check_count("channels", channels), size, size)
        self.context_shape = (check_count("context_channels", context_channels), size, size)
        self.multiplier = check_count("multiplier", multiplier)
        numbers = multiplier * check_count("latent_channels", latent_channels)
        self.count, reads = scales.blocks, max(1, scales.blocks // 2)  # blocks before a map is read
        self.path = DownPath(channels + context_channels, scales)
        self.start = WeightNormConv2d(coarse, coarse, 1)
        self.coarse_blocks = nn.ModuleList(ResidualBlock(coarse, dropout, coarse) for _ in range(reads))
        self.coarse_read = WeightNormConv2d(coarse, numbers)
        self.feedback = ResidualBlock(coarse, dropout, coarse + latent_channels)
        self.up = SubpixelUp(coarse, fine)
        self.fine_blocks = nn.ModuleList(ResidualBlock(fine, dropout, fine) for _ in range(reads))
        self.fine_read = WeightNormConv2d(fine, numbers)

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        """Images and condition -> (N, multiplier · D); raises InputError on other shapes, or two N."""
        check_input("images", images, self.data_shape)
        check_input("context", context, self.context_shape)
        check_rows("context", context, len(images), "images")
        maps = self.path(torch.cat([images, context], 1))[::-1]  # coarsest first
        hidden = self.start(maps[0])
        for block, skip in zip(self.coarse_blocks, maps, strict=False):
            hidden = block(hidden, skip)
        coarse = self.coarse_read(hidden).chunk(self.multiplier, 1)
        skip = maps[min(len(self.coarse_blocks), self.count - 1)]  # the scale's next map, or its only one
        hidden = self.up(self.feedback(hidden, torch.cat([skip, coarse[0]], 1)))
        for block, skip in zip(self.fine_blocks, maps[self.count :], strict=False):
            hidden = block(hidden, skip)
        fine = self.fine_read(hidden).chunk(self.multiplier, 1)
        return torch.cat([part.flatten(1) for pair in zip(coarse, fine, strict=True) for part in pair], 1)


class UnetDecoder(nn.Module):
    """Latents and the shape branch's maps to an image before the likelihood's activation.

    From the coarsest map up; every residual block takes the map of its twin in the shape branch as a skip.
    The coarse latent map is merged in at the bottleneck, the fine one at the next scale, each after half of
    the scale's blocks.

    Args:
        channels: of the image.
        latent_channels: C of the latent maps (C, s, s) and (C, 2s, 2s).
        scales: sides, widths and blocks, those of the shape branch.

    Raises:
        InputError: on a count that is not positive.

    >>> scales = UnetScales(32, filters=4, max_filters=8, blocks=1)
    >>> maps = ShapeBranch(1, scales)(torch.zeros(5, 1, 32, 32))
    >>> UnetDecoder(3, 2, scales)(torch.zeros(5, 160), maps).shape
    torch.Size([5, 3, 32, 32])
    """

    def __init__(self, channels: int, latent_channels: int, scales: UnetScales) -> None:
        super().__init__()
        self.latent_shapes = scales.latent_shapes(check_count("latent_channels", latent_channels))
        self.sizes = [c * h * w for c, h, w in self.latent_shapes]
        widths = scales.widths[::-1]
        self.start = WeightNormConv2d(widths[0], widths[0], 1)
        count = self.count = scales.blocks
        self.blocks = nn.ModuleList(ResidualBlock(w, scales.dropout, w) for w in widths for _ in range(count))
        self.merges = nn.ModuleList(WeightNormConv2d(w + latent_channels, w, 1) for w in widths[:2])
        self.up = nn.ModuleList(SubpixelUp(*pair) for pair in pairwise(widths))
        self.end = WeightNormConv2d(widths[-1], check_count("channels", channels))

    def forward(self, latents: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(N, D), the shape branch's maps -> (N, channels, size, size); raises InputError on another D."""
        check_input("latents", latents, (sum(self.sizes),))
        parts = latents.split(self.sizes, 1)
        hidden = maps[-1]
        for index, (block, skip) in enumerate(zip(self.blocks, maps[::-1], strict=True)):  # coarsest first
            scale, position = divmod(index, self.count)
            if position == 0:
                hidden = self.up[scale - 1](hidden) if scale else self.start(hidden)
            if scale < len(parts) and position == self.count // 2:
                z = parts[scale].unflatten(1, self.latent_shapes[scale])
                hidden = self.merges[scale](torch.cat([hidden, z], 1))
            hidden = block(hidden, skip)
        return self.end(hidden)
