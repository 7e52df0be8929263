"""A data set in memory, and how one is split and thinned."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowprior.errors import InputError


class Loaded(NamedTuple):
    """What a reader hands over of one split: examples, labels, names of the classes, and as in `Dataset`."""

    x: Tensor
    label: Tensor | None = None
    classes: tuple[str, ...] | None = None
    context: Tensor | None = None
    known: Mapping[str, Tensor] = {}  # never written to

    def rows(self, rows: Tensor) -> "Loaded":
        """The examples at `rows` only, with all that belongs to them."""
        label = None if self.label is None else self.label[rows]
        context = None if self.context is None else self.context[rows]
        known = {name: fact[rows] for name, fact in self.known.items()}
        return Loaded(self.x[rows], label, self.classes, context, known)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples: images x (N, C, H, W) uint8, or vectors x (N, D) float32; label (N,) int64 or None.

    Args:
        name: of the set.
        x, label: the examples and their classes.
        classes: the names of the classes.
        preprocessing: what was done to the stored images, e.g. "center crop 140, bicubic to 64".
        context: what each example is conditioned on, an image (N, Cy, H, W) uint8 or a vector (N, C) float32.
        known: what is known of each example and never trained on, (N, ...) float32, such as "joints"
            (N, J, 2), (x, y) in pixels, negative where unseen, and "factors" (N, F).

    Raises:
        InputError: if `x`, `label`, `context` or `known` is empty, not finite, or has another shape or type.
    """

    name: str
    x: Tensor
    label: Tensor | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: str = "as stored"
    context: Tensor | None = None
    known: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_examples("x", self.x)
        if self.context is not None:
            self._check_examples("context", self.context)
            self._check_rows("context", self.context, "an image or a vector")
        for name, fact in self.known.items():
            if fact.dtype != torch.float32 or fact.dim() < 2:
                raise InputError(
                    f"`known[{name!r}]` of data set {self.name!r} is {fact.dtype} of shape "
                    f"{tuple(fact.shape)} but must be float32 of shape (N, ...), such as (N, F): convert it."
                )
            self._check_rows(f"known[{name!r}]", fact, "a row")
            self._check_finite(f"known[{name!r}]", fact)
        if self.label is not None and (
            self.label.dtype != torch.int64 or self.label.shape != self.x.shape[:1]
        ):
            raise InputError(
                f"`label` of data set {self.name!r} is {self.label.dtype} of shape {tuple(self.label.shape)} "
                f"but must be int64 of shape ({len(self.x)},): one label for each example."
            )

    def _check_examples(self, name: str, value: Tensor) -> None:
        image = value.dim() == 4 and value.dtype == torch.uint8
        vector = value.dim() == 2 and value.dtype == torch.float32
        if not (image or vector) or value.numel() == 0:
            raise InputError(
                f"`{name}` of data set {self.name!r} is {value.dtype} of shape {tuple(value.shape)} but must "
                "be non-empty uint8 images (N, C, H, W) or float32 vectors (N, D): convert it first."
            )
        if vector:
            self._check_finite(name, value)

    def _check_finite(self, name: str, value: Tensor) -> None:
        finite = value.isfinite().flatten(1).all(1)
        if not finite.all():
            row = int(finite.logical_not().nonzero()[0])
            raise InputError(
                f"`{name}` of data set {self.name!r} is not finite in row {row}: remove or repair such rows."
            )

    def _check_rows(self, name: str, value: Tensor, what: str) -> None:
        if len(value) != len(self.x):
            raise InputError(
                f"`{name}` of data set {self.name!r} has {len(value)} rows for {len(self.x)} examples: "
                f"pass {what} for each example."
            )

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, type and bytes of all tensors of the set: statistics are cached under it."""
        digest = hashlib.sha256()
        for name, tensor in (*self.tensors().items(), *sorted(self.known.items())):
            kind = "" if name in ("x", "label") else f"{name} "
            digest.update(f"{kind}{tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """`{"x": ..., "label": ..., "context": ...}` as `Batches` takes them, without what is missing."""
        all_tensors = {"x": self.x, "label": self.label, "context": self.context}
        return {name: tensor for name, tensor in all_tensors.items() if tensor is not None}


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
