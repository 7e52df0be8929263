"""A data set in memory, and how one is split and thinned."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowprior.errors import InputError


class Loaded(NamedTuple):
    """What a reader hands over: the examples of one split, their labels and the names of the classes."""

    x: Tensor
    label: Tensor | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples: images x (N, C, H, W) uint8, or vectors x (N, D) float32; label (N,) int64 or None.

    `preprocessing` says in words what was done to the stored images, e.g. "center crop 140, bicubic to 64".

    Raises:
        InputError: if `x` or `label` is empty, not finite, or has another shape or type.
    """

    name: str
    x: Tensor
    label: Tensor | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: str = "as stored"

    def __post_init__(self) -> None:
        image = self.x.dim() == 4 and self.x.dtype == torch.uint8
        vector = self.x.dim() == 2 and self.x.dtype == torch.float32
        if not (image or vector) or self.x.numel() == 0:
            raise InputError(
                f"`x` of data set {self.name!r} is {self.x.dtype} of shape {tuple(self.x.shape)} but must be "
                "non-empty uint8 images (N, C, H, W) or float32 vectors (N, D): convert it first."
            )
        if vector and not self.x.isfinite().all():
            row = int(self.x.isfinite().all(1).logical_not().nonzero()[0])
            raise InputError(
                f"`x` of data set {self.name!r} is not finite in row {row}: remove or repair such rows."
            )
        if self.label is not None and (
            self.label.dtype != torch.int64 or self.label.shape != self.x.shape[:1]
        ):
            raise InputError(
                f"`label` of data set {self.name!r} is {self.label.dtype} of shape {tuple(self.label.shape)} "
                f"but must be int64 of shape ({len(self.x)},): one label for each example."
            )

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, type and bytes of examples and labels: statistics are cached under it."""
        digest = hashlib.sha256()
        for tensor in self.tensors().values():
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """`{"x": ..., "label": ...}`, as `Batches` takes them; no label where there is none."""
        return {"x": self.x} if self.label is None else {"x": self.x, "label": self.label}


def held_out(size: int, fraction: float, label: Tensor | None = None) -> Tensor:
    """Which of `size` examples are held out for testing: (size,) bool, the same on every call.

    round(fraction * size), at least one, are drawn at random; with labels, each class gives its share.

    >>> held_out(6, 0.5, torch.tensor([0, 0, 1, 1, 2, 2])).view(3, 2).sum(1)
    tensor([1, 1, 1])
    """
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    if label is not None:
        order = order[label[order].sort(stable=True).indices]  # by class, shuffled within
    count = min(max(1, round(fraction * size)), size)
    rank = torch.arange(size)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[order] = (rank + 1) * count // size != rank * count // size  # evenly spaced over the classes
    return mask


def split_rows(size: int, train: bool, fraction: float, label: Tensor | None) -> Tensor:
    """The rows of the training or the held-out part of a set without splits of its own: (rows,) int64."""
    mask = held_out(size, fraction, label)
    return (~mask if train else mask).nonzero().flatten()


def thin(size: int, limit: int | None) -> Tensor:
    """At most `limit` rows out of `size`, evenly spaced so that sets sorted by class keep them all.

    >>> thin(10, 4).tolist()
    [0, 2, 5, 7]
    """
    count = size if limit is None else min(limit, size)
    return torch.arange(count) * size // max(count, 1)


def as_labels(
    values: np.ndarray, size: int, origin: str, splits: Sequence[np.ndarray]
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels as int64 (N,); where they are words, also the names of the classes found in all `splits`.

    Raises:
        InputError: if there are not `size` whole numbers or words; `origin` says where they were found.
    """
    labels = values.reshape(-1) if values.shape in ((size,), (size, 1)) else None
    if labels is not None and labels.dtype.kind in "US":
        names = np.unique(np.concatenate([split.reshape(-1).astype(str) for split in splits]))
        indices = np.searchsorted(names, labels.astype(str))
        return torch.from_numpy(indices.astype(np.int64)), tuple(str(name) for name in names)
    whole = labels is not None and (
        labels.dtype.kind in "biu" or (labels.dtype.kind == "f" and bool((np.mod(labels, 1) == 0).all()))
    )
    if labels is None or not whole:
        raise InputError(
            f"{origin} is {values.dtype} of shape {values.shape} but the labels must be {size} whole numbers "
            f"or words: store an array of shape ({size},), one class for each example."
        )
    return torch.from_numpy(labels.astype(np.int64)), None


def reason(error: Exception) -> str:
    """The message of a reader's error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
