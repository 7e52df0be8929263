"""Sheets of conditional samples: many at one condition, appearance transfer, interpolated appearance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowprior.errors import InputError
from flowprior.plots.grids import as_rows, as_tiles, draw_sheet

if TYPE_CHECKING:
    from PIL import Image


def condition_sheet(
    contexts: Tensor,
    originals: Tensor | None,
    samples: Mapping[str, Tensor],
    *,
    names: Sequence[str] = (),
    title: str | None = None,
) -> Image.Image:
    """For each condition: it, the original image, and n samples; a row each model (Morrow & Chiu, Fig. 9).

    Args:
        contexts: (N, 1 or 3, H, W), the conditions.
        originals: (N, C, H, W), the real images they were taken from; None where there are none.
        samples: name of the row -> (n, N, C, H, W), n samples of each condition; of one model it may be "".
        names: N texts, one above each condition.
        title: a line above the sheet.

    Raises:
        InputError: if the shapes do not go together.
    """
    shapes = [tuple(drawn.shape) for drawn in samples.values()]
    fronts = [contexts] if originals is None else [contexts, originals]
    if len(set(shapes)) != 1 or len(shapes[0]) != 5 or any(not _fits(f, shapes[0][1:]) for f in fronts):
        raise InputError(
            f"`samples` of shapes {sorted(set(shapes))} must all be (n, N, C, H, W), and `contexts` and "
            f"`originals` of shapes {[tuple(f.shape) for f in fronts]} (N, 1 or 3, H, W), of that N, H and W."
        )
    if names and len(names) != len(contexts):
        raise InputError(
            f"`names` holds {len(names)} texts but there are {len(contexts)} conditions: one for each."
        )
    rows = [as_rows(drawn.transpose(0, 1)) for drawn in samples.values()]
    cells = torch.stack(rows, 1)  # (N, models, n, 3, h, w)
    front = torch.full_like(cells[:, :, :1], 255).repeat(1, 1, len(fronts), 1, 1, 1)
    for k, images in enumerate(fronts):
        front[:, 0, k] = as_tiles(images)
    tops = dict(enumerate(["condition", "data"][: len(fronts)])) | {len(fronts): "samples"}
    return draw_sheet(
        torch.cat([front, cells], 2).flatten(0, 1),
        row_group=len(samples),
        column_breaks=range(1, len(fronts) + 1),
        sides=list(samples) * len(contexts) if any(samples) else None,
        tops=tops,
        bands=names,
        title=title,
    )


def transfer_sheet(
    appearances: Tensor, contexts: Tensor, results: Tensor, *, title: str | None = None
) -> Image.Image:
    """The appearance of the image on the left with the shape above, in every cell of a matrix.

    Args:
        appearances: (A, C, H, W).
        contexts: (K, 1 or 3, H, W), the shapes: conditions, or the images they were taken from.
        results: (A, K, C, H, W).
        title: a line above the sheet.

    Raises:
        InputError: if the shapes do not go together.
    """
    shape = tuple(results.shape)
    if len(shape) != 5 or not _fits(appearances, shape[:1] + shape[2:]) or not _fits(contexts, shape[1:]):
        raise InputError(
            f"`results` of shape {shape} must be (A, K, C, H, W), with `appearances` of shape "
            f"{tuple(appearances.shape)} (A, 1 or 3, H, W) and `contexts` of shape {tuple(contexts.shape)} "
            "(K, 1 or 3, H, W)."
        )
    cells = as_rows(results)
    corner = torch.full_like(cells[0, :1], 255)
    above = torch.cat([corner, as_tiles(contexts)])  # (1 + K, 3, h, w)
    below = torch.cat([as_tiles(appearances)[:, None], cells], 1)
    return draw_sheet(
        torch.cat([above[None], below]),
        column_breaks=(1,),
        row_breaks=(1,),
        sides=["shape", "appearance", *[""] * (len(appearances) - 1)],
        title=title,
    )


def appearance_rows(
    contexts: Tensor, first: Tensor, last: Tensor, steps: Tensor, *, title: str | None = None
) -> Image.Image:
    """From one appearance to another at a fixed condition: it, an image, the way, the other image.

    Args:
        contexts: (N, 1 or 3, H, W), the condition of each row.
        first, last: (N, C, H, W), the real images whose appearances are the ends.
        steps: (S, N, C, H, W), decoded on the way, ends included, as `interpolate` and a decoder give them.
        title: a line above the sheet.

    Raises:
        InputError: if the shapes do not go together.
    """
    shape, ends = tuple(steps.shape), (contexts, first, last)
    if len(shape) != 5 or not all(_fits(images, shape[1:]) for images in ends):
        raise InputError(
            f"`steps` of shape {shape} must be (S, N, C, H, W), with `contexts`, `first` and `last` of "
            f"shapes {[tuple(images.shape) for images in ends]} (N, 1 or 3, H, W)."
        )
    left = torch.stack([as_tiles(contexts), as_tiles(first)], 1)
    tiles = torch.cat([left, as_rows(steps.transpose(0, 1)), as_tiles(last)[:, None]], 1)
    return draw_sheet(
        tiles,
        column_breaks=(1, 2, 2 + len(steps)),
        tops={0: "condition", 1: "from", 2: "at that condition", 2 + len(steps): "to"},
        title=title,
    )


def _fits(images: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether there are as many images of that height and width; channels may differ."""
    return images.dim() == 4 and (len(images), *images.shape[2:]) == (shape[0], *shape[2:])
