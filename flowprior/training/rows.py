"""What `fit` reads: arrays, tables, memory-mapped files, data sets and batches, as tensors of rows."""

import mmap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowprior.errors import InputError

MEMORY = 2**28  # bytes of rows that are kept of what is read in parts
PART = 2**24  # bytes of a memory-mapped file that are read at a time


def as_rows(values: Any, name: str, dtype: torch.dtype | None) -> Tensor:
    """A tensor, array or DataFrame as rows (N, ...) of `dtype`; of its own, at least float32, if None."""
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    try:
        if isinstance(values, np.ndarray) and not values.flags.writeable:
            values = np.array(values)
        rows = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        rows = torch.empty(0, dtype=torch.complex64)
    if rows.is_complex() or rows.dim() == 0:
        raise InputError(
            f"`{name}` (a {type(values).__name__}) must be a tensor or array of real numbers, one row each."
        )
    if name == "context" and dtype is not None and not rows.is_floating_point():
        dtype = rows.dtype  # labels, or what a prior on real contexts refuses
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    rows = rows.detach().to(wide if dtype is None else dtype)
    return rows.clone() if rows.is_inference() else rows


def gather(
    latents: Any, context: Any, *, dtype: torch.dtype | None, conditional: bool, seed: int
) -> dict[str, Tensor]:
    """ "z", and "context" if there is one, of whatever `fit` takes.

    A memory-mapped array, Dataset, DataLoader or other iterable of batches is read once, in parts. Of more
    than `MEMORY` bytes an even random sample is kept, which follows from `seed`; a warning says so. Batches
    may be tuples (z, context, ...) or mappings with "z" and "context".
    """
    parts = _parts(latents)
    if parts is None:
        whole = {"z": as_rows(latents, "latents", dtype)}
        return whole if context is None else whole | {"context": as_rows(context, "context", dtype)}
    return _sample(_named(parts, context, dtype, conditional), seed)


def _parts(latents: Any) -> Iterator[Any] | None:
    """What is read in parts, one after the other; None for what is there as a whole."""
    if isinstance(latents, np.memmap):
        return _mapped(latents)
    if isinstance(latents, Dataset):
        latents = DataLoader(latents, batch_size=1024)
    whole = (Tensor, np.ndarray, list, tuple, str, bytes, Mapping)
    if isinstance(latents, whole) or hasattr(latents, "to_numpy") or not isinstance(latents, Iterable):
        return None
    return iter(latents)


def _mapped(array: np.memmap) -> Iterator[np.ndarray]:
    """The rows in copies; the pages that were read are given back to the system."""
    step = max(1, PART // max(1, array[:1].nbytes))
    pages: Any = array
    while isinstance(pages, np.ndarray) and not isinstance(pages, mmap.mmap):
        pages = pages.base
    for start in range(0, len(array), step):
        yield np.array(array[start : start + step])
        if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def _named(
    parts: Iterator[Any], context: Any, dtype: torch.dtype | None, conditional: bool
) -> Iterator[dict[str, Tensor]]:
    """Each part by name; its context comes with it, or from `context` (N, ...)."""
    start = 0
    for part in parts:
        own: Any = part.get("context") if isinstance(part, Mapping) else None
        z = part.get("z") if isinstance(part, Mapping) else part
        if isinstance(part, list | tuple):
            z, own = part[0], part[1] if len(part) > 1 else None
        rows = {"z": as_rows(z, "latents", dtype)}
        stop = start + len(rows["z"])
        if context is not None:
            rows["context"] = as_rows(context[start:stop], "context", dtype)
        elif conditional and own is not None:
            rows["context"] = as_rows(own, "context", dtype)
        if len({len(each) for each in rows.values()}) > 1:
            raise InputError(f"`context` must hold one row for each of `latents`: rows {start} on do not.")
        start = stop
        yield rows


def _sample(parts: Iterable[dict[str, Tensor]], seed: int) -> dict[str, Tensor]:
    """All rows in their order, or those with the smallest of random keys, as many as fit into `MEMORY`."""
    generator, count, most, bound = torch.Generator().manual_seed(seed), 0, 1, 2.0
    kept: list[dict[str, Tensor]] = []

    def joined() -> dict[str, Tensor]:
        return {name: torch.cat([part[name] for part in kept]) for name in kept[0]}

    for part in parts:
        rows = len(part["z"])
        keys = torch.rand(rows, generator=generator, dtype=torch.float64)
        count += rows
        below = keys < bound
        kept.append({name: value[below] for name, value in {**part, "key": keys}.items()})
        most = max(1, MEMORY // max(1, sum(value[:1].nbytes for value in part.values())))
        if sum(len(each["key"]) for each in kept) > 2 * most:
            kept = [_smallest(joined(), most)]
            bound = kept[0]["key"].max().item()
    if not kept:
        raise InputError(
            "`latents` gave no batch: pass what can be iterated more than once, such as a DataLoader."
        )
    rows_kept = _smallest(joined(), most) if count > most else joined()
    if count > most:
        warnings.warn(
            f"`latents` has {count} rows, more than are kept in memory: fitted to an even sample of {most}.",
            stacklevel=4,
        )
    return {name: value for name, value in rows_kept.items() if name != "key"}


def _smallest(rows: dict[str, Tensor], most: int) -> dict[str, Tensor]:
    chosen = rows["key"].topk(most, largest=False).indices.sort().values
    return {name: value[chosen] for name, value in rows.items()}
