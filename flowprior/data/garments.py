"""Edge maps and silhouettes of gray pictures: conditions that can be recovered from any output."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from flowprior.checks import check_images
from flowprior.data.shaping import luma
from flowprior.tensors import as_input

STRONG, WEAK = 0.25, 0.10  # of the largest slope that a step from 0 to 1 has
FOREGROUND = 0.08  # gray level above which a pixel is a garment's
_CHUNK = 1024


def edges(images: Tensor) -> Tensor:
    """Thin edges: the ridges of the Sobel slope that hang together with a strong one; (N, 1, H, W), 0 or 255.

    The slope |∇| is that of Sobel's two filters on gray levels in [0, 1], divided by 4 so that a step from
    black to white has slope 1. A pixel is kept where its slope is the largest along the gradient (rounded to
    45°) and above `WEAK`, if a chain of such pixels joins it to one above `STRONG`.

    `images` are (N, C, H, W) with C 1 or 3, uint8 or floats in [0, 1]; others raise an InputError.

    Source: Canny 1986, without smoothing.

    >>> step = torch.zeros(1, 1, 5, 6)
    >>> step[..., 3:] = 1.0
    >>> edges(step)[0, 0, 2].tolist()
    [0, 0, 0, 255, 0, 0]
    """
    return _chunked(_edges, images)


def silhouette(images: Tensor) -> Tensor:
    """The foreground, gray above `FOREGROUND`, with its holes filled; (N, 1, H, W), 0 or 255.

    A hole is dark, and no path over direct dark neighbors joins it to the border. Images are as for `edges`.
    """
    return _chunked(_silhouette, images)


def _chunked(operator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    check_images("images", images)
    parts = (as_input(part).float() for part in images.split(_CHUNK))
    gray = (part if part.shape[1] == 1 else luma(part) for part in parts)
    return torch.cat([operator(part).to(torch.uint8) * 255 for part in gray])


def _edges(gray: Tensor) -> Tensor:
    around = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    right, down = around[..., 2:] - around[..., :-2], around[..., 2:, :] - around[..., :-2, :]
    right = (right[..., :-2, :] + 2 * right[..., 1:-1, :] + right[..., 2:, :]) / 4
    down = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 4
    size = torch.hypot(right, down)
    ridge = _is_ridge(size, torch.atan2(down, right))
    return _grown((size > STRONG) & ridge, (size > WEAK) & ridge, diagonal=True)


def _is_ridge(size: Tensor, angle: Tensor) -> Tensor:
    """Where the slope is no smaller than ahead and greater than behind, along the gradient."""
    around = F.pad(size, (1, 1, 1, 1))
    height, width = size.shape[2:]
    octant = (angle / (torch.pi / 4)).round().long() % 4
    ridge = torch.zeros_like(size, dtype=torch.bool)
    for direction, (down, right) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = around[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        behind = around[..., 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        ridge |= (octant == direction) & (size > ahead) & (size >= behind)
    return ridge


def _silhouette(gray: Tensor) -> Tensor:
    dark = F.pad(gray <= FOREGROUND, (1, 1, 1, 1), value=True)
    border = torch.zeros_like(dark)
    border[..., 0, :] = True
    return ~_grown(border, dark, diagonal=False)[..., 1:-1, 1:-1]


def _grown(seed: Tensor, within: Tensor, *, diagonal: bool) -> Tensor:
    """The parts of `within` that touch `seed`, over direct neighbors or over diagonal ones too."""
    grown = seed & within
    while True:
        wider = grown.clone()
        wider[..., 1:] |= grown[..., :-1]
        wider[..., :-1] |= grown[..., 1:]
        column = wider.clone() if diagonal else grown
        wider[..., 1:, :] |= column[..., :-1, :]
        wider[..., :-1, :] |= column[..., 1:, :]
        wider &= within
        if torch.equal(wider, grown):
            return grown
        grown = wider
