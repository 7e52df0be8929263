"""From stored pictures to pictures of one size: crop, resize, gray or color."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from flowprior.bounds import check_memory
from flowprior.checks import check_count, check_one_of
from flowprior.errors import InputError

RESIZE_MODES = ("bicubic", "bilinear", "nearest", "pad", "stretch")
MOST_PIXELS = 2**13  # a side
_CHUNK = 1024  # pictures resized at once, so that a large set needs no second copy of itself


@dataclass(frozen=True)
class Shaping:
    """Center crop to `crop`, then shorter side to `size` and center crop, then to `channels` colors.

    The resize mode matters: it alone can move a Fréchet distance by 6 or more (Parmar et al. 2022,
    clean-fid), so it has a name, and `describe()` is reported with the metrics. "bicubic" and "bilinear" are
    antialiased; "pad" puts the picture in the middle of a black one (MNIST's 28 -> 32); "stretch" makes the
    whole picture square, bilinear and antialiased, and cuts nothing off.

    Args:
        size: side of the square result; None keeps height and width.
        crop: side of the square cut from the center beforehand; None cuts nothing.
        channels: 1 (ITU-R 601 luma) or 3; None keeps what is stored.
        resize: one of `RESIZE_MODES`.

    Raises:
        InputError: on other values, and when called on pictures smaller than the crop or larger than the pad.

    >>> Shaping(size=32, resize="pad")(torch.zeros(5, 1, 28, 28, dtype=torch.uint8)).shape
    torch.Size([5, 1, 32, 32])
    """

    size: int | None = None
    crop: int | None = None
    channels: int | None = None
    resize: str = "bicubic"

    def __post_init__(self) -> None:
        for name, pixels in (("size", self.size), ("crop", self.crop)):
            if pixels is not None:
                check_count(name, pixels, most=MOST_PIXELS, fix="a number of pixels such as 64, or None")
        check_one_of("channels", self.channels, (None, 1, 3), "as stored, gray or RGB")
        check_one_of("resize", self.resize, RESIZE_MODES)

    def describe(self) -> str:
        """The steps in words, for reports."""
        steps = [f"center crop {self.crop}"] if self.crop else []
        steps += [f"{self.resize} to {self.size}"] if self.size else []
        steps += [{1: "gray", 3: "RGB"}[self.channels]] if self.channels else []
        return ", ".join(steps) or "as stored"

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> (N, channels, size, size) uint8."""
        if self._keeps(x.shape):
            return x
        check_memory(
            f"{len(x)} pictures of size {self.size}",
            3 * len(x) * (self.size or 0) ** 2,
            "take a smaller size",
        )
        return torch.cat([self._recolor(self._resize(self._crop(part))) for part in x.split(_CHUNK)])

    def _keeps(self, shape: torch.Size) -> bool:
        channels, height, width = shape[1:]
        square = height == width or (self.crop is None and self.size is None)
        same_size = self.crop in (None, height) and self.size in (None, height)
        return square and same_size and self.channels in (None, channels)

    def _crop(self, x: Tensor) -> Tensor:
        if self.crop is None:
            return x
        if self.crop > min(x.shape[-2:]):
            pixels = f"{x.shape[-2]} x {x.shape[-1]} pixels"
            raise InputError(
                f"`crop` (={self.crop}) is larger than the pictures, which are {pixels}: pass less."
            )
        return center(x, self.crop)

    def _resize(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.size is None or (height, width) == (self.size, self.size):
            return x
        if self.resize == "pad":
            if max(height, width) > self.size:
                wrong = f"cannot shrink pictures of {height} x {width} pixels to `size` (={self.size})"
                raise InputError(f"`resize` (='pad') {wrong}: pass resize='bicubic'.")
            top, left = (self.size - height) // 2, (self.size - width) // 2
            return F.pad(x, (left, self.size - width - left, top, self.size - height - top))
        if self.resize == "stretch":
            return F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        target = [round(side * self.size / min(height, width)) for side in (height, width)]
        if self.resize == "nearest":
            return center(F.interpolate(x, target, mode="nearest-exact"), self.size)
        return center(F.interpolate(x, target, mode=self.resize, antialias=True), self.size)

    def _recolor(self, x: Tensor) -> Tensor:
        if self.channels in (None, x.shape[1]):
            return x
        return x.expand(-1, 3, -1, -1) if self.channels == 3 else luma(x).round().to(torch.uint8)


def luma(rgb: Tensor) -> Tensor:
    """Gray levels by ITU-R 601: (N, 3, H, W) -> (N, 1, H, W), float."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=rgb.device)[:, None, None]
    return (rgb * weights).sum(1, keepdim=True)


def center(x: Tensor, side: int) -> Tensor:
    """The central `side` x `side` pixels of (..., H, W)."""
    top, left = (x.shape[-2] - side) // 2, (x.shape[-1] - side) // 2
    return x[..., top : top + side, left : left + side]
