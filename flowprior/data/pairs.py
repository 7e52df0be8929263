"""A user's own pairs of pictures: what is drawn, x, and what it is conditioned on, y."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowprior.data.dataset import split_rows
from flowprior.data.pictures import Pictures, picture_paths, split_folders, stored_size
from flowprior.errors import InputError
from flowprior.registry import dataset

HALVES = ("left", "right")


@dataset("pairs", shape=(3, None, None), context=(None, None, None), classes=(), folder="required")
def pairs(source: Any, train: bool) -> Pictures:
    """A user's own pairs of pictures, in the folder that `Source.folder` names."""
    return list_pairs(source.folder, train, source.held_out, source.condition)


def list_pairs(folder: Path, train: bool, fraction: float, condition: str = "left") -> Pictures:
    """One split of a folder of pairs, as pictures x with their `context` y.

    Pairs are either the pictures in `x/` and `y/` of equal names, whose endings may differ, or pictures with
    both side by side as in pix2pix's sets. Their left half is the condition, as in edges2shoes and by
    pix2pix's default direction; in its facades, maps and cityscapes it is the right one. Splits are the
    folders `train` and `test` (or `val`, `valid`, `validation`) where both exist, otherwise
    `held_out(size, fraction)` makes them.

    Raises:
        InputError: if the folder is missing or holds no pairs, or a picture has no partner.

    Source: Isola et al. 2017 (pix2pix), its data sets and option `direction`.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {str(folder)!r}: check the path, or pass another `folder`.")
    splits = split_folders(folder)
    if splits is not None:
        return _paired(splits[0] if train else splits[1], folder, condition)
    only = folder / "train"
    everything = _paired(only if only.is_dir() else folder, folder, condition)
    return everything.rows(split_rows(len(everything.names), train, fraction, None))


def check_pairs(pictures: Pictures) -> None:
    """Refuse pictures that do not fit their contexts, or whose halves differ; only their headers are read.

    Raises:
        InputError: if a picture cannot be read, is not as large as its partner, or has an odd width.
    """
    context = pictures.context
    if context is None:
        return

    def check(row: int) -> None:
        width, height = stored_size(pictures, row)
        if pictures.half is not None:
            if width % 2:
                raise InputError(
                    f"The picture {pictures.names[row]!r} has the odd width {width} but must hold two "
                    "pictures of one size side by side: cut it again, or use x/ and y/."
                )
        elif (other := stored_size(context, row)) != (width, height):
            raise InputError(
                f"The pair {pictures.names[row]!r} of {width} x {height} and {context.names[row]!r} of "
                f"{other[0]} x {other[1]} pixels must have one size: cut or resize one of them."
            )

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, range(len(pictures.names))))


def _paired(folder: Path, home: Path, condition: str) -> Pictures:
    """The pairs of one folder; their names and their cache are relative to `home`."""
    if not any((folder / side).is_dir() for side in "xy"):
        names = [str((folder / path).relative_to(home)) for path in picture_paths(folder)]
        context = Pictures.inside(home, names, half=condition)
        return replace(context, half=HALVES[condition == "left"], context=context)
    x, y = _by_stem(folder / "x"), _by_stem(folder / "y")
    for some, others, side in ((x, y, folder / "y"), (y, x, folder / "x")):
        for stem in sorted(some.keys() - others.keys()):
            raise InputError(
                f"{str(some[stem])!r} has no partner: put a picture named {stem!r} in {str(side)!r}, or "
                "remove it."
            )
    names, partners = ([str(paths[stem].relative_to(home)) for stem in x] for paths in (x, y))
    return Pictures.inside(home, names, context=Pictures.inside(home, partners))


def _by_stem(folder: Path) -> dict[str, Path]:
    """The pictures in a folder by their names without the ending."""
    if not folder.is_dir():
        raise InputError(
            f"There is no folder {str(folder)!r}: pairs need x/ and y/, or pictures with both side by side."
        )
    paths: dict[str, Path] = {}
    for path in picture_paths(folder):
        stem = str(path.with_suffix(""))
        if stem in paths:
            raise InputError(
                f"{str(folder / path)!r} and {paths[stem].name!r} differ in their endings only: remove one."
            )
        paths[stem] = folder / path
    return paths
