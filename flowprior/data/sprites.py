"""Grids of sprites with known factors: `sprites`, rendered, and dSprites, from its published file.

Both have every combination of 3 shapes, 6 scales, 40 angles and 32 x 32 positions, in that order: the row of
a combination is its number in mixed radix. A split is drawn at random, the same each time, and only what it
asks for is rendered or read; one that is larger than `memory_limit` is kept in a mapped file, by row.
"""

import functools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowprior.checks import check_shapes
from flowprior.data.dataset import Split, seeded, thin
from flowprior.data.drawing import coverage, offsets
from flowprior.data.pictures import mapped
from flowprior.data.published import MissingFile
from flowprior.errors import InputError, reason
from flowprior.registry import dataset

FACTORS: dict[str, int] = {"shape": 3, "scale": 6, "angle": 40, "x": 32, "y": 32}
"""The factors in the order of "factors", each with the number of its values."""

COUNT = 3 * 6 * 40 * 32 * 32
SHAPES = ("square", "ellipse", "heart")
DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_SIZE = 64
_RADIUS, _MARGIN = (
    0.15,
    0.28,
)  # of the largest sprite, and of its center from the border, in parts of the side
_CHUNK = 64  # sprites rendered at once: few enough for the processor's cache
_READ = 4096  # images read at once
_FACTS: dict[str, Any] = {"shape": (1, _SIZE, _SIZE), "classes": SHAPES, "size": _SIZE}


@dataset("sprites", shaped_by=("size",), because="is rendered in gray at any `size`", **_FACTS)
def _sprites(source: Any, train: bool) -> Split:
    """Rendered squares, ellipses and hearts: 6 scales, 40 angles, 32 x 32 positions; "factors" known."""
    size = source.shaping.size
    return _split(source, train, lambda rows: _rendered(rows, size), size, f"rendered at {size} pixels")


@dataset(
    "dsprites", layout=f"{DSPRITES} in dsprites", shaped_by=(), because="is 64 pixels and gray", **_FACTS
)
def _dsprites(source: Any, train: bool) -> Split:
    """dSprites (Matthey et al. 2017), from its published file; "factors" known."""
    path = source.root / "dsprites" / DSPRITES
    if not path.is_file():
        raise MissingFile(f"{str(path)!r} is not there")
    return _split(source, train, functools.partial(_stored, path), _SIZE, "as stored")


def factors_of(rows: Tensor) -> Tensor:
    """The factors of rows of the grid, (N,) -> (N, 5) int64.

    >>> factors_of(torch.tensor([0, 1, 32, COUNT - 1])).tolist()[1:]
    [[0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [2, 5, 39, 31, 31]]
    """
    parts = []
    for count in reversed(FACTORS.values()):
        parts.append(rows % count)
        rows = rows // count
    return torch.stack(parts[::-1], 1)


def render(factors: Tensor, size: int = _SIZE) -> Tensor:
    """Sprites of given factors (N, 5), numbers of their values: (N, 1, size, size) uint8, anti-aliased.

    Raises:
        InputError: if the shape is another, or a number is out of range.
    """
    check_shapes("pass the factors in the order of `FACTORS`", factors=(factors, f"N {len(FACTORS)}"))
    counts = torch.tensor(list(FACTORS.values()))
    if ((factors < 0) | (factors >= counts)).any():
        raise InputError(f"`factors` must be at least 0 and below {tuple(FACTORS.values())}: correct them.")
    images = torch.empty(len(factors), 1, size, size, dtype=torch.uint8)
    for shape, distance in enumerate((_square, _ellipse, _heart)):
        for rows in (factors[:, 0] == shape).nonzero().flatten().split(_CHUNK):
            images[rows, 0] = _painted(factors[rows].float(), size, distance)
    return images


def _painted(factors: Tensor, size: int, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    _, scale, angle, *position = factors.T
    center = size * (_MARGIN + (1 - 2 * _MARGIN) * torch.stack(position, 1) / (FACTORS["x"] - 1))
    radius = (size * _RADIUS * (0.5 + scale / 10))[:, None, None]
    turn = (2 * torch.pi / FACTORS["angle"] * angle)[:, None, None]
    x, y = offsets(center, size)
    u = (turn.cos() * x + turn.sin() * y) / radius
    v = (turn.cos() * y - turn.sin() * x) / radius
    return coverage(distance(u, v) * radius).mul_(255).round_().to(torch.uint8)


def _square(u: Tensor, v: Tensor) -> Tensor:
    """Distance to the square of half side 0.9, negative inside."""
    a, b = u.abs() - 0.9, v.abs() - 0.9
    return torch.hypot(a.clamp(min=0), b.clamp(min=0)) + torch.maximum(a, b).clamp(max=0)


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    """Distance to the ellipse of half axes 1.2 and 0.7, to first order at its outline."""
    a, b = u / 1.2, v / 0.7
    level = torch.hypot(a, b)
    return level * (level - 1) / torch.hypot(a / 1.2, b / 0.7).clamp(min=1e-9)


def _heart(u: Tensor, v: Tensor) -> Tensor:
    """Distance to a heart of two half disks upon a square that stands on its corner; 2.2 high."""
    unit = 2.0
    x, y = u.abs() / unit, 0.55 - v / unit  # the corner at (0, 0), up positive
    lobe = torch.hypot(x - 0.25, y - 0.75) - 0.125**0.5
    along = 0.5 * (x + y).clamp(min=0)
    side = torch.minimum(torch.hypot(x, y - 1), torch.hypot(x - along, y - along)) * (x - y).sign()
    return unit * torch.where(x + y > 1, lobe, side)


def _split(
    source: Any, train: bool, images: Callable[[Tensor], Iterator[Tensor]], size: int, how: str
) -> Split:
    """One split of a grid; `images` gives those of sorted rows, in parts (n, 1, size, size)."""
    order = torch.randperm(COUNT, generator=seeded("sprites"))
    held = max(1, round(source.held_out * COUNT))
    mine = order[held:] if train else order[:held]
    rows = mine[thin(len(mine), source.limit)].sort().values
    shape, factors = torch.Size((len(rows), 1, size, size)), factors_of(rows)
    facts: dict[str, Any] = {"known": {"factors": factors.float()}, "preprocessing": how}
    if shape.numel() <= source.memory_limit:
        split = Split(torch.cat(list(images(rows))), factors[:, 0], SHAPES, **facts)
        return split.rows(torch.randperm(len(rows), generator=seeded("sprites/order")))
    name = f"{source.name}-{size}-{len(rows)}-{source.held_out}-{'train' if train else 'test'}.u8"
    x = mapped(source.root / ".flowprior" / name, shape, lambda: images(rows))
    return Split(x, factors[:, 0], SHAPES, **facts)


def _rendered(rows: Tensor, size: int) -> Iterator[Tensor]:
    yield from (render(factors_of(part), size) for part in rows.split(_READ))


def _stored(path: Path, rows: Tensor) -> Iterator[Tensor]:
    """The images of sorted rows, read through the compressed file without holding the rest."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("imgs.npy") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, kind = read(file)
            if shape != (COUNT, _SIZE, _SIZE) or fortran or kind != np.uint8:
                raise ValueError(f"its images are {kind} of shape {shape}")
            for start in range(0, COUNT, _READ):
                count = min(_READ, COUNT - start)
                raw = np.frombuffer(file.read(count * _SIZE**2), np.uint8).reshape(count, 1, _SIZE, _SIZE)
                wanted = rows[(rows >= start) & (rows < start + count)] - start
                if len(wanted):
                    yield torch.from_numpy(raw[wanted.numpy()] * np.uint8(255))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        wrong = f"cannot be read as dSprites ({reason(error)})"
        raise InputError(f"{str(path)!r} {wrong}: copy the published file again.") from error
