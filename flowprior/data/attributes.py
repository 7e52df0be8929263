"""Binary attributes of a data set's examples: CelebA's own, or elsewhere one for each class."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowprior.data.images import Source
from flowprior.data.pictures import Pictures
from flowprior.errors import InputError

CELEBA_FILE = "list_attr_celeba.txt"


@dataclass(frozen=True)
class Attributes:
    """Which of the attributes `names` each example of a split has: `values` (N, A) bool."""

    names: tuple[str, ...]
    values: Tensor


def read_attributes(source: Source, train: bool) -> Attributes:
    """The attributes of one split of `source`, row by row with its examples.

    Those of CelebA are in its file `list_attr_celeba.txt`; elsewhere each class is one, against the rest.

    Raises:
        InputError: if the file is missing or damaged, or the set has no labels.

    >>> read_attributes(Source("digits"), train=False).values.sum(1).unique()  # one class each
    tensor([1])
    """
    if source.name == "celeba" and source.path is None:
        return _of_celeba(source, train)
    split, labels = (source.train() if train else source.test()), source.train().label
    if split.label is None or labels is None:
        wrong = "has no labels to take attributes from"
        raise InputError(f"Data set {source.name!r} {wrong}: store one for each example.")
    kinds = labels.unique()
    known = split.classes or ()
    names = tuple(known[kind] if 0 <= kind < len(known) else str(kind) for kind in kinds.tolist())
    return Attributes(names, split.label[:, None] == kinds)


def _of_celeba(source: Source, train: bool) -> Attributes:
    stored = source.stored(train)
    pictures = stored.limited(source.limit).names if isinstance(stored, Pictures) else ()
    path = source.root / "celeba" / CELEBA_FILE
    names, rows = _parse(path)
    missing = [picture for picture in pictures if picture not in rows]
    if missing:
        raise InputError(f"{str(path)!r} has no line for {missing[0]}: copy the published file again.")
    return Attributes(names, torch.from_numpy(np.stack([rows[picture] for picture in pictures]) > 0))


def _parse(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names in the second line, and +1 or -1 for each in a line for each picture."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        wrong = f"are not at {str(path)!r} ({error.strerror})"
        raise InputError(f"CelebA's attributes {wrong}: put {CELEBA_FILE} there.") from error
    names = tuple(lines[1].split()) if len(lines) > 1 else ()
    rows = {}
    for number, line in enumerate(lines[2:], 3):
        picture, *signs = line.split() or [""]
        if len(signs) != len(names) or not set(signs) <= {"1", "-1"}:
            expected = f"a picture and {len(names)} times 1 or -1 in line {number}"
            raise InputError(f"{str(path)!r} must hold {expected}: copy it as published.")
        rows[picture] = np.array(signs, dtype=np.int8)
    return names, rows
