"""A data set in memory, and how one is split and thinned."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowprior.checks import check_finite, check_rows
from flowprior.errors import InputError


class Split(NamedTuple):
    """One split as a reader gives it, with the fields of `Dataset`."""

    x: Tensor
    label: Tensor | None = None
    classes: tuple[str, ...] | None = None
    context: Tensor | None = None
    known: Mapping[str, Tensor] = {}  # never written to
    preprocessing: str | None = None  # where it is not what `Source` does to the stored images

    def rows(self, rows: Tensor) -> "Split":
        """The examples at `rows` only, with all that belongs to them."""
        return self._replace(
            x=self.x[rows],
            label=None if self.label is None else self.label[rows],
            context=None if self.context is None else self.context[rows],
            known={name: fact[rows] for name, fact in self.known.items()},
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples: images x (N, C, H, W) uint8, or vectors x (N, D) float32; label (N,) int64 or None.

    Args:
        name, classes: of the set, and of its classes.
        x, label: the examples and their classes.
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
        expected = "non-empty uint8 images (N, C, H, W) or float32 vectors (N, D)"
        for name, value in (("x", self.x), ("context", self.context)):
            if value is not None:
                fits = (value.dim(), value.dtype) in ((4, torch.uint8), (2, torch.float32))
                self._check(name, value, fits and value.numel() > 0, expected)
        for name, fact in self.known.items():
            fits = fact.dtype == torch.float32 and fact.dim() > 1
            self._check(f"known[{name!r}]", fact, fits, "float32 of shape (N, ...), such as (N, F)")
        if self.label is not None:
            fits = self.label.dtype == torch.int64 and self.label.shape == self.x.shape[:1]
            self._check("label", self.label, fits, f"int64 ({len(self.x)},), one label for each example")

    def _check(self, name: str, value: Tensor, fits: bool, expected: str) -> None:
        if not fits:
            got = f"`{name}` of data set {self.name!r} is {value.dtype} of shape {tuple(value.shape)}"
            raise InputError(f"{got} but must be {expected}: convert it first.")
        check_rows(name, value, len(self.x), f"examples of data set {self.name!r}")
        if value.is_floating_point():
            check_finite(name, value, f"remove or repair such rows of data set {self.name!r}")

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


def seeded(text: str) -> torch.Generator:
    """A generator of random numbers whose seed follows from a text."""
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


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
    return (held_out(size, fraction, label) != train).nonzero().flatten()


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
    """Labels as int64 (N,); where they are words, also the names of the classes in all `splits`.

    Anything but `size` whole numbers or words raises an InputError; `origin` says where they are from.
    """
    labels = values.reshape(-1) if values.shape in ((size,), (size, 1)) else None
    if labels is not None and labels.dtype.kind in "US":
        names = np.unique(np.concatenate([split.reshape(-1).astype(str) for split in splits]))
        return torch.from_numpy(np.searchsorted(names, labels.astype(str))).long(), tuple(map(str, names))
    if labels is None or labels.dtype.kind not in "biuf" or (np.mod(labels.astype(float), 1) != 0).any():
        expected = f"the labels must be {size} whole numbers or words"
        fix = f"store an array of shape ({size},), one class for each example"
        raise InputError(f"{origin} is {values.dtype} of shape {values.shape} but {expected}: {fix}.")
    return torch.from_numpy(labels.astype(np.int64)), None
