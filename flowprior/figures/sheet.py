"""Sheets of images, pixel by pixel: blocks of columns beside one another, in rows and bands of rows."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from einops import rearrange, repeat
from torch import Tensor

from flowprior.checks import check_count
from flowprior.errors import InputError

if TYPE_CHECKING:  # imported where something is drawn
    import PIL.Image

Sheet: TypeAlias = "PIL.Image.Image"

_LINE = 2  # pixels between two images
_GAP = 12  # pixels between two groups of images
_TILE = 56  # images are enlarged by a whole factor until they have about this many pixels a side
_MARGIN = 6  # white pixels around a sheet
_TITLE, _TOP, _BAND, _BELOW = 24, 20, 16, 16  # pixels for lines of text
_INK = (60, 60, 60)


def image_grid(images: Tensor, columns: int | None = None, *, title: str | None = None) -> Sheet:
    """Images in a grid, row by row, as nearly square as may be: a Pillow image.

    Args:
        images: (N, C, H, W), floats in [0, 1] (others are clipped) or uint8; C is 1 or 3.
        columns, title: images in a row, and a line above the grid.

    Raises:
        InputError: on another shape, or fewer than 1 column.

    >>> image_grid(torch.rand(6, 1, 28, 28), columns=3).size
    (184, 126)
    """
    return draw_sheet([lines(images, columns)], title=title)


def colored(images: Tensor, dims: int = 4) -> Tensor:
    """Images of `dims` axes, (..., 1 or 3, H, W) -> uint8 (..., 3, H, W) on the CPU; else an `InputError`."""
    if images.dim() != dims or images.shape[-3] not in (1, 3) or images.numel() == 0:
        wanted = f"({'N' if dims == 4 else 'rows, columns'}, C, H, W), none of them 0, with 1 or 3 channels"
        raise InputError(f"`images` has shape {tuple(images.shape)} but must be {wanted}.")
    pixels = images.detach().cpu()
    if pixels.dtype != torch.uint8:
        pixels = pixels.float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return pixels.expand(*pixels.shape[:-3], 3, *pixels.shape[-2:])


def lines(images: Tensor, columns: int | None = None) -> Tensor:
    """(N, C, H, W) -> uint8 (rows, columns, 3, H, W), row by row, the last one filled up with white."""
    tiles = colored(images)
    if columns is None:
        columns = math.ceil(math.sqrt(len(tiles)))
    columns = min(check_count("columns", columns), len(tiles))
    blank = tiles.new_full((-len(tiles) % columns, *tiles.shape[1:]), 255)
    return rearrange(torch.cat([tiles, blank]), "(rows columns) ... -> rows columns ...", columns=columns)


def first_rows(images: Tensor, rows: int) -> Tensor:
    """(N, C, H, W) -> uint8 (N * rows, 1, 3, H, W): a column with an image in the first row of each band."""
    tiles = colored(images)[:, None]
    blank = tiles.new_full((len(tiles), rows - 1, *tiles.shape[2:]), 255)
    return rearrange(torch.cat([tiles, blank], 1), "bands rows ... -> (bands rows) 1 ...")


def path_sheet(
    paths: Mapping[str, Tensor], before: Tensor, *, after: Tensor | None = None,
    names: Sequence[str] = (), tops: Mapping[int, str] | None = None,
) -> Sheet:  # fmt: skip
    """Several paths for each of N examples, one band each, one row a path (Morrow & Chiu, Fig. 6 and 7).

    Args:
        paths: name of the row -> (steps, N, C, H, W), from left to right.
        before, after: (N, C, H, W), real images left and right of the paths, beside the first row.
        names, tops: N texts, one above each band; step -> text above that column of the paths.

    Raises:
        InputError: if the shapes do not go together.
    """
    steps = torch.stack(list(paths.values()))
    blocks = [first_rows(before, len(paths)), rearrange(steps, "path step n ... -> (n path) step ...")]
    texts = {0: "data"} | {1 + step: text for step, text in (tops or {}).items()}
    if after is not None:
        texts[1 + steps.shape[1]] = "data"
        blocks.append(first_rows(after, len(paths)))
    return draw_sheet(blocks, row_group=len(paths), sides=list(paths) * len(before), tops=texts, bands=names)


def sheets_beside(rows: Sequence[Sequence[Sheet]]) -> Sheet:
    """Sheets on one, row by row: all columns as wide as the widest sheet, a row as high as its highest."""
    from PIL import Image

    width = max(sheet.width for row in rows for sheet in row)
    heights = [max(sheet.height for sheet in row) for row in rows]
    page = Image.new("RGB", (width * max(len(row) for row in rows), sum(heights)), "white")
    for r, row in enumerate(rows):
        for k, sheet in enumerate(row):
            page.paste(sheet, (k * width, sum(heights[:r])))
    return page


def draw_sheet(
    blocks: Sequence[Tensor], *, title: str | None = None, row_group: int = 1, row_breaks: Sequence[int] = (),
    sides: Sequence[str] = (), tops: Mapping[int, str] | None = None, below: Sequence[Sequence[str]] = (),
    bands: Sequence[str] = (),
) -> Sheet:  # fmt: skip
    """Blocks of images from left to right on white, with gaps between them, and texts around.

    Args:
        blocks: each (rows, columns, C, H, W) as `image_grid` takes images; rows, H and W are the same in all.
        row_group, row_breaks: rows in a band, with gaps between bands of several; rows with a gap above them.
        title, sides, bands: texts above the sheet, left of the rows, above the bands.
        tops, below: column -> text above it; texts below the tiles, row by row.

    Raises:
        InputError: if the blocks do not go together, are no images, or there is not one text for each band.
    """
    from PIL import Image, ImageDraw, ImageFont

    tiles = _tiles(blocks)
    rows, columns, height, width, _ = tiles.shape
    if bands and len(bands) * row_group != rows:
        raise InputError(f"There are {len(bands)} texts for {rows // row_group} bands: give one for each.")
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    text_height, band_text = _BELOW if below else 0, _BAND if bands else 0
    left = _MARGIN + max([40, *(round(small.getlength(text)) + 8 for text in sides)] if sides else [0])
    top = _MARGIN + (_TITLE if title else 0) + (_TOP if tops else 0) + band_text
    before = [k for k, block in enumerate(blocks) for _ in range(block.shape[1])]  # gaps before each column
    x = [left + k * (width + _LINE) + _GAP * before[k] for k in range(columns)]
    band = (_GAP if row_group > 1 else 0) + band_text
    downs = [r // row_group * band + _GAP * sum(each <= r for each in row_breaks) for r in range(rows)]
    y = [top + r * (height + _LINE + text_height) + down for r, down in enumerate(downs)]
    sheet = Image.new("RGB", (x[-1] + width + _MARGIN, y[-1] + height + text_height + _MARGIN), "white")
    for r in range(rows):
        for k in range(columns):
            sheet.paste(Image.fromarray(tiles[r, k].numpy()), (x[k], y[r]))
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((left, _MARGIN), title, fill=(0, 0, 0), font=ImageFont.load_default(15))
    for k, text in (tops or {}).items():
        draw.text((x[k], top - 18 - band_text), text, fill=_INK, font=font)
    for b, text in enumerate(bands):
        draw.text((left, y[b * row_group] - 4), text, fill=(0, 0, 0), font=font, anchor="ls")
    for r, text in enumerate(sides):
        draw.text((left - 8, y[r] + height // 2), text, fill=_INK, font=small, anchor="rm")
    for r, texts in enumerate(below):
        for k, text in enumerate(texts):
            draw.text((x[k] + width // 2, y[r] + height + 2), text, fill=_INK, font=small, anchor="ma")
    return sheet


def _tiles(blocks: Sequence[Tensor]) -> Tensor:
    """The blocks beside one another, enlarged without smoothing: uint8 (rows, columns, H, W, 3)."""
    shapes = [tuple(block.shape) for block in blocks]
    if {len(shape) for shape in shapes} != {5} or len({(s[0], *s[3:]) for s in shapes}) != 1:
        wanted = "(rows, columns, C, H, W), with the same rows, H and W"
        raise InputError(f"Blocks of shapes {shapes} do not make a sheet: each must be {wanted}.")
    tiles = torch.cat([colored(block, 5) for block in blocks], 1)
    scale = max(1, round(_TILE / max(tiles.shape[-2:])))
    return repeat(tiles, "r k c h w -> r k (h down) (w right) c", down=scale, right=scale).contiguous()
