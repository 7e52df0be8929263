"""The conditions that a user hands to `flowprior sample`: rows of an array, or pictures."""

from pathlib import Path

from einops import rearrange
from torch import Tensor

from flowprior.checks import check_finite
from flowprior.data.pictures import SUFFIXES, picture_paths, read_pictures
from flowprior.data.shaping import Shaping
from flowprior.errors import InputError
from flowprior.files import ARRAYS, read_rows
from flowprior.tensors import as_input


def read_conditions(
    path: Path, shape: tuple[int, ...] | None, key: str | None = None, pictures: bool = True
) -> Tensor:
    """(N, *shape) as a model or a prior reads them; pictures in [0, 1].

    Args:
        path: an .npy, .npz or .pt file; for pictures also a picture, a sheet of them without margins (its
            sides are multiples of a condition's), or a folder of pictures in the order of their names. A
            picture of another size is resized, and the center of it cropped, as data sets are.
        shape: of one condition; None if there is none to be read.
        key: the array in an .npz file.
        pictures: whether maps (C, H, W) are pictures: a model's are, a prior's are any numbers.

    Raises:
        InputError: if nothing is conditional, or the file cannot be read or holds something else.
    """
    if shape is None:
        raise InputError(f"`context` (={path}) was given to an unconditional model: leave it out.")
    pictures = pictures and len(shape) == 3
    if path.suffix in ARRAYS:
        rows = read_rows(path, key, "context")
        if rows.shape[1:] != shape:
            expected = f"rows of ({', '.join(map(str, shape))}), one for each condition"
            raise InputError(f"`context` (={path}) has shape {tuple(rows.shape)} but must be {expected}.")
        if pictures and not (rows.min() >= 0 and rows.max() <= 1):
            wrong = f"ranges from {rows.min():g} to {rows.max():g} but pictures are in [0, 1]"
            raise InputError(f"`context` (={path}) {wrong}: divide bytes by 255.")
        check_finite("context", rows, "remove or repair such rows")
        return rows
    if not pictures:
        raise InputError(f"`context` (={path}) has another ending: give a .npy, .npz or .pt file.")
    channels, height, width = shape
    if path.is_dir():
        paths = [path / picture for picture in picture_paths(path)]
        return as_input(read_pictures(paths, Shaping(height, channels=channels)))
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        wrong = "does not exist" if path.suffix.lower() in SUFFIXES else "has another ending"
        fix = "give a picture, a folder of pictures, or a .npy, .npz or .pt file"
        raise InputError(f"`context` (={path}) {wrong}: {fix}.")
    sheet = read_pictures([path], Shaping(channels=channels))[0]
    if sheet.shape[1] % height == 0 and sheet.shape[2] % width == 0:
        return as_input(rearrange(sheet, "c (rows h) (columns w) -> (rows columns) c h w", h=height, w=width))
    return as_input(Shaping(height)(sheet[None]))
