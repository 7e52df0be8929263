"""What flows over maps (C, h, w) are built of: context maps at their size, and actnorms by channel."""

from einops import rearrange, repeat
from torch import Tensor, nn

from flowprior.bijectors.actnorm import ActNormBase


def context_maps(context: Tensor, height: int, width: int) -> Tensor:
    """A context, vectors (N, C) or maps (N, K, H, W), as maps (N, C or K, height, width).

    A vector stands at every position. Larger maps are averaged over the cells of the new grid, smaller ones
    repeated.

    >>> import torch
    >>> context_maps(torch.arange(4.0).reshape(1, 1, 2, 2), 1, 1).tolist()
    [[[[1.5]]]]
    """
    if context.dim() == 2:
        return repeat(context, "n c -> n c h w", h=height, w=width)
    if context.shape[2:] == (height, width):
        return context
    if context.shape[2] >= height and context.shape[3] >= width:
        return nn.functional.adaptive_avg_pool2d(context, (height, width))
    return nn.functional.interpolate(context, (height, width), mode="nearest")


class ByPosition(nn.Module):
    """An actnorm of C channels, the same at each position of maps (N, C, h, w)."""

    def __init__(self, actnorm: ActNormBase) -> None:
        super().__init__()
        self.actnorm = actnorm

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mapped, logabsdet = self.actnorm(_positions(z))
        return _maps(mapped, z), logabsdet.reshape(z.shape[0], z.shape[2] * z.shape[3]).sum(1)

    def inverse(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mapped, logabsdet = self.actnorm.inverse(_positions(z0))  # type: ignore[operator]
        return _maps(mapped, z0), logabsdet.reshape(z0.shape[0], z0.shape[2] * z0.shape[3]).sum(1)

    def initialize(self, z: Tensor) -> None:
        """Standardize each channel of z (N, C, h, w), once; as for any actnorm."""
        self.actnorm.initialize(_positions(z))


def _positions(maps: Tensor) -> Tensor:
    return rearrange(maps, "n c h w -> (n h w) c")


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    _, _, height, width = like.shape
    return rearrange(rows, "(n h w) c -> n c h w", h=height, w=width)
