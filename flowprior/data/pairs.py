"""A user's own pairs of pictures: what is drawn, x, and what it is conditioned on, y."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowprior.data.dataset import split_rows
from flowprior.data.pictures import Pictures, bombs_as_errors, picture_paths, split_folders, stored_size
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
    `held_out(size, fraction)` makes them. Without pairs, or a picture's partner, there is an InputError.

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
    """Refuse pictures that are not as large as their partners, or of an odd width; only headers are read."""
    context = pictures.context
    if context is None:
        return

    def check(row: int) -> None:
        width, height = stored_size(pictures, row)
        if pictures.half is not None and width % 2:
            wrong = f"has the odd width {width} but must hold two pictures of one size side by side"
            raise InputError(f"The picture {pictures.names[row]!r} {wrong}: cut it again, or use x/ and y/.")
        if pictures.half is None and (other := stored_size(context, row)) != (width, height):
            sizes = f"of {width} x {height} and {context.names[row]!r} of {other[0]} x {other[1]} pixels"
            fix = "cut or resize one of them"
            raise InputError(f"The pair {pictures.names[row]!r} {sizes} must have one size: {fix}.")

    with bombs_as_errors(), ThreadPoolExecutor() as pool:
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
            fix = f"put a picture named {stem!r} in {str(side)!r}, or remove it"
            raise InputError(f"{str(some[stem])!r} has no partner: {fix}.")
    names, partners = ([str(paths[stem].relative_to(home)) for stem in x] for paths in (x, y))
    return Pictures.inside(home, names, context=Pictures.inside(home, partners))


def _by_stem(folder: Path) -> dict[str, Path]:
    """The pictures in a folder by their names without the ending."""
    if not folder.is_dir():
        fix = "pairs need x/ and y/, or pictures with both side by side"
        raise InputError(f"There is no folder {str(folder)!r}: {fix}.")
    paths: dict[str, Path] = {}
    for path in picture_paths(folder):
        stem = str(path.with_suffix(""))
        if stem in paths:
            both = f"{str(folder / path)!r} and {paths[stem].name!r}"
            raise InputError(f"{both} differ in their endings only: remove one.")
        paths[stem] = folder / path
    return paths
