"""Sheets of images, pixel by pixel: samples, reconstructions, interpolations, neighbors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowprior.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

_LINE = 2  # pixels between two images
_GAP = 12  # pixels between two groups of images
_TILE = 56  # images are enlarged by a whole factor until they have about this many pixels a side
_MARGIN = 6  # white pixels around a sheet
_BAND_TEXT = 16  # pixels for the text above a group
_INK = (60, 60, 60)


def image_grid(images: Tensor, columns: int | None = None, *, title: str | None = None) -> Image.Image:
    """Images in a grid, row by row, as nearly square as may be.

    Args:
        images: (N, C, H, W), floats in [0, 1] (others are clipped) or uint8; C is 1 or 3.
        columns: images in a row.
        title: a line above the grid.

    Returns:
        A Pillow image; `.save("grid.png")` writes it, `numpy.asarray` gives (height, width, 3) uint8.

    Raises:
        InputError: on another shape, or fewer than 1 column.

    >>> image_grid(torch.rand(6, 1, 28, 28), columns=3).size
    (184, 126)
    """
    tiles = as_tiles(images)
    columns = _columns(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    blank = tiles.new_full((rows * columns - len(tiles), *tiles.shape[1:]), 255)
    return draw_sheet(torch.cat([tiles, blank]).view(rows, columns, *tiles.shape[1:]), title=title)


def reconstruction_pairs(
    x: Tensor, reconstruction: Tensor, columns: int | None = None, *, title: str | None = None
) -> Image.Image:
    """Each image above its reconstruction, in bands: two (N, C, H, W) as in `image_grid`.

    Raises:
        InputError: if the shapes differ, or as `image_grid`.
    """
    if x.shape != reconstruction.shape:
        raise InputError(
            f"`x` has shape {tuple(x.shape)} and `reconstruction` {tuple(reconstruction.shape)} but both "
            "must have the same: pass the images that were reconstructed."
        )
    tiles = torch.stack([as_tiles(x), as_tiles(reconstruction)])  # (2, N, 3, H, W)
    columns = _columns(columns, tiles.shape[1])
    bands = math.ceil(tiles.shape[1] / columns)
    blank = tiles.new_full((2, bands * columns - tiles.shape[1], *tiles.shape[2:]), 255)
    bands_of_rows = torch.cat([tiles, blank], 1).unflatten(1, (bands, columns)).transpose(0, 1).flatten(0, 1)
    return draw_sheet(bands_of_rows, row_group=2, title=title, sides=["data", "model"] * bands)


def neighbor_sheet(
    samples: Tensor, neighbors: Tensor, distances: Tensor | None = None, *, title: str | None = None
) -> Image.Image:
    """Each sample beside its k nearest training images, nearest first (GLF Appendix G).

    Args:
        samples: (N, C, H, W).
        neighbors: (N, k, C, H, W).
        distances: (N, k), written below the neighbors.
        title: a line above the sheet.

    Raises:
        InputError: if the shapes do not go together.
    """
    if neighbors.dim() != 5 or (len(samples), *samples.shape[1:]) != (len(neighbors), *neighbors.shape[2:]):
        raise InputError(
            f"`neighbors` has shape {tuple(neighbors.shape)} but must be (N, k, *image) for `samples` of "
            f"shape {tuple(samples.shape)}: pass k training images for each sample."
        )
    tiles = torch.cat([as_rows(samples.unsqueeze(1)), as_rows(neighbors)], 1)
    below = None
    if distances is not None:
        below = [["", *(f"{value:.1f}" for value in row)] for row in distances.tolist()]
    tops = {0: "sample", 1: "nearest in the data"}
    return draw_sheet(tiles, column_breaks=(1,), title=title, tops=tops, below=below)


def interpolation_rows(
    images: Tensor,
    *,
    title: str | None = None,
    sides: Sequence[str] | None = None,
    tops: dict[int, str] | None = None,
) -> Image.Image:
    """One row per path, from left to right: (steps, N, C, H, W), as `interpolate` and a decoder give them.

    Args:
        title: a line above the sheet.
        sides: what stands left of each of the N rows.
        tops: what stands above some columns, by number.

    Raises:
        InputError: on another shape.
    """
    if images.dim() != 5:
        raise InputError(f"`images` has shape {tuple(images.shape)} but must be (steps, N, C, H, W).")
    return draw_sheet(as_rows(images.transpose(0, 1)), title=title, sides=sides, tops=tops)


def sheets_beside(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Sheets on one, row by row: all columns as wide as the widest sheet, a row as high as its highest."""
    from PIL import Image

    width = max(sheet.width for row in rows for sheet in row)
    heights = [max(sheet.height for sheet in row) for row in rows]
    page = Image.new("RGB", (width * max(len(row) for row in rows), sum(heights)), "white")
    for r, row in enumerate(rows):
        for k, sheet in enumerate(row):
            page.paste(sheet, (k * width, sum(heights[:r])))
    return page


def path_sheet(
    paths: Mapping[str, Tensor],
    before: Tensor | None = None,
    after: Tensor | None = None,
    *,
    names: Sequence[str] = (),
    tops: Mapping[int, str] | None = None,
    title: str | None = None,
) -> Image.Image:
    """Several paths for each of N examples, one band each, one row a path (Morrow & Chiu, Fig. 6 and 7).

    Args:
        paths: name of the row -> (steps, N, C, H, W), from left to right.
        before, after: (N, C, H, W), real images left and right of the paths, beside the first row.
        names: N texts, one above each band.
        tops: step -> text above that column of the paths.
        title: a line above the sheet.

    Raises:
        InputError: if the shapes do not go together.
    """
    shapes = {tuple(path.shape) for path in paths.values()}
    ends = [image for image in (before, after) if image is not None]
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or len(shape) != 5 or any(tuple(end.shape) != shape[1:] for end in ends):
        raise InputError(
            f"`paths` of shapes {sorted(shapes)} must all be (steps, N, C, H, W), and `before` and `after` "
            f"of shapes {[tuple(end.shape) for end in ends]} (N, C, H, W)."
        )
    if names and len(names) != shape[1]:
        raise InputError(f"`names` holds {len(names)} texts but there are {shape[1]} examples: one for each.")
    rows = torch.stack([as_rows(path.transpose(0, 1)) for path in paths.values()], 1)  # (N, R, S, 3, h, w)
    for end, place in ((before, 0), (after, 1)):
        if end is not None:
            side = torch.full_like(rows[:, :, :1], 255)
            side[:, 0, 0] = as_tiles(end)
            rows = torch.cat([rows, side] if place else [side, rows], 2)
    first, last = int(before is not None), rows.shape[2] - int(after is not None)
    texts = {first + k: text for k, text in (tops or {}).items()}
    texts |= {0: "data"} if before is not None else {}
    texts |= {last: "data"} if after is not None else {}
    return draw_sheet(
        rows.flatten(0, 1),
        row_group=len(paths),
        column_breaks=[k for k in (first, last) if 0 < k < rows.shape[2]],
        sides=list(paths) * shape[1],
        tops=texts,
        bands=names,
        title=title,
    )


def _columns(columns: int | None, count: int) -> int:
    if columns is None:
        return math.ceil(math.sqrt(count))
    if columns < 1:
        raise InputError(f"`columns` (={columns}) must be at least 1, or None for a square.")
    return min(columns, count)


def as_rows(images: Tensor) -> Tensor:
    """(R, K, C, H, W) -> uint8 (R, K, 3, scale H, scale W), as `as_tiles`."""
    return as_tiles(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def as_tiles(images: Tensor) -> Tensor:
    """(N, C, H, W) -> uint8 (N, 3, scale H, scale W), enlarged without smoothing."""
    if images.dim() != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise InputError(
            f"`images` has shape {tuple(images.shape)} but must be (N, C, H, W) with 1 or 3 channels, N > 0."
        )
    pixels = images.detach().cpu()
    if pixels.dtype != torch.uint8:
        pixels = pixels.float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    scale = max(1, round(_TILE / max(images.shape[-2:])))
    return pixels.expand(-1, 3, -1, -1).repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def draw_sheet(
    tiles: Tensor,
    *,
    title: str | None = None,
    row_group: int = 1,
    column_breaks: Sequence[int] = (),
    row_breaks: Sequence[int] = (),
    sides: Sequence[str] | None = None,
    tops: dict[int, str] | None = None,
    below: Sequence[Sequence[str]] | None = None,
    bands: Sequence[str] = (),
) -> Image.Image:
    """Tiles (R, K, 3, H, W) on white, with texts above columns and bands, left of rows and below tiles."""
    from PIL import Image, ImageDraw, ImageFont

    rows, columns, _, height, width = tiles.shape
    font = ImageFont.load_default(13)
    small = ImageFont.load_default(11)
    text_height = 16 if below else 0
    left = _MARGIN + max([40, *(round(small.getlength(text)) + 8 for text in sides)] if sides else [0])
    top = _MARGIN + (24 if title else 0) + (20 if tops else 0) + (_BAND_TEXT if bands else 0)
    breaks = [sum(each <= k for each in column_breaks) for k in range(columns)]
    x = [left + k * (width + _LINE) + _GAP * breaks[k] for k in range(columns)]
    band = (_GAP if row_group > 1 else 0) + (_BAND_TEXT if bands else 0)
    downs = [r // row_group * band + _GAP * sum(each <= r for each in row_breaks) for r in range(rows)]
    y = [top + r * (height + _LINE + text_height) + down for r, down in enumerate(downs)]
    sheet = Image.new("RGB", (x[-1] + width + _MARGIN, y[-1] + height + text_height + _MARGIN), "white")
    for r in range(rows):
        for k in range(columns):
            sheet.paste(Image.fromarray(tiles[r, k].permute(1, 2, 0).contiguous().numpy()), (x[k], y[r]))
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((left, _MARGIN), title, fill=(0, 0, 0), font=ImageFont.load_default(15))
    for k, text in (tops or {}).items():
        draw.text((x[k], top - 18 - (_BAND_TEXT if bands else 0)), text, fill=_INK, font=font)
    for b, text in enumerate(bands):
        draw.text((left, y[b * row_group] - 4), text, fill=(0, 0, 0), font=font, anchor="ls")
    for r, text in enumerate(sides or ()):
        draw.text((left - 8, y[r] + height // 2), text, fill=_INK, font=small, anchor="rm")
    for r, texts in enumerate(below or ()):
        for k, text in enumerate(texts):
            draw.text((x[k] + width // 2, y[r] + height + 2), text, fill=_INK, font=small, anchor="ma")
    return sheet
