"""Shapes and precision: the small questions that every layer asks of its tensors and distributions."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import TypeGuard

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from flowprior.errors import InputError


def as_event_shape(features: int | Sequence[int]) -> torch.Size:
    """The event shape that `features` means: `64` is `(64,)`, `(4, 8, 8)` stays.

    Raises:
        InputError: if `features` is not a positive int or a non-empty sequence of them.

    >>> as_event_shape(64), as_event_shape((4, 8, 8))
    (torch.Size([64]), torch.Size([4, 8, 8]))
    """
    sizes = (features,) if _is_size(features) else features
    if not isinstance(sizes, Sequence) or len(sizes) == 0 or not all(map(_is_size, sizes)):
        raise InputError(
            f"`features` (={features!r}) must be a positive int or a non-empty tuple of them, "
            "such as 64 or (4, 8, 8)."
        )
    return torch.Size(map(int, sizes))


def as_context_shape(context_features: int | Sequence[int] | None) -> torch.Size | None:
    """The shape of one context: `10` is `(10,)`, a vector; `(3, 8, 8)` stays, maps; None is none.

    Raises:
        InputError: if `context_features` is not None, a positive int or a tuple of three of them.

    >>> as_context_shape(10), as_context_shape((3, 8, 8))
    (torch.Size([10]), torch.Size([3, 8, 8]))
    """
    if context_features is None:
        return None
    sizes = (context_features,) if isinstance(context_features, Integral) else context_features
    if (
        not isinstance(sizes, Sequence)
        or (len(sizes) != 3 and sizes is context_features)
        or not all(map(_is_size, sizes))
    ):
        raise InputError(
            f"`context_features` (={context_features!r}) must be a positive int, the width of context "
            "vectors, a tuple (K, H, W) of them, the shape of context maps, or None without a context."
        )
    return torch.Size(map(int, sizes))


def _is_size(value: object) -> TypeGuard[int]:
    """Whether it is a positive int; NumPy's are."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def batch_shape_of(value: Tensor, event_shape: torch.Size, name: str = "z") -> torch.Size:
    """The leading shape of `value` (*batch, *event).

    Raises:
        InputError: if `value` is not a tensor or does not end in `event_shape`.
    """
    if not isinstance(value, Tensor):
        raise InputError(f"`{name}` (a {type(value).__name__}) must be a tensor: torch.as_tensor makes one.")
    batch_dims = value.dim() - len(event_shape)
    if batch_dims < 0 or value.shape[batch_dims:] != event_shape:
        raise InputError(
            f"`{name}` has shape {tuple(value.shape)} but must end in the event shape {tuple(event_shape)}: "
            "reshape it, or build the prior with that `features`."
        )
    return value.shape[:batch_dims]


def broadcast_batches(left: torch.Size, right: torch.Size, left_name: str, right_name: str) -> torch.Size:
    """The shape that two batch shapes broadcast to.

    Raises:
        InputError: if they do not.
    """
    try:
        return torch.broadcast_shapes(left, right)
    except RuntimeError:
        raise InputError(
            f"the batch shapes of `{left_name}` {tuple(left)} and `{right_name}` {tuple(right)} must "
            "broadcast: give both the same leading shape."
        ) from None


def flat_rows(value: Tensor, event_dims: int) -> tuple[Tensor, torch.Size]:
    """`value` (*batch, *event) as rows (N, *event), and the batch shape; N is 1 for the empty one."""
    batch_shape = value.shape[: value.dim() - event_dims]
    return value.reshape(numel(batch_shape), *value.shape[len(batch_shape) :]), batch_shape


def sum_event(value: Tensor, event_dims: int) -> Tensor:
    """Sum over the last `event_dims` dimensions: (*batch, *event) -> (*batch,)."""
    return value if event_dims == 0 else value.flatten(-event_dims).sum(-1)


def factorized(q: Distribution) -> Distribution:
    """q over single numbers, without the `Independent` that makes events of them; others stay as they are.

    >>> from torch.distributions import Normal
    >>> factorized(Independent(Normal(torch.zeros(3), 1.0), 1)).event_shape
    torch.Size([])
    """
    while isinstance(q, Independent):
        q = q.base_dist
    return q


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """A context outside autocast for devices of this kind; entering torch's own costs more than asking."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def numel(shape: Sequence[int]) -> int:
    """The number of elements of a shape; 1 for the empty one."""
    return math.prod(shape)


def as_input(x: Tensor) -> Tensor:
    """Stored examples or conditions as a model reads them: bytes become floats in [0, 1].

    >>> as_input(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    return x.float() / 255 if x.dtype == torch.uint8 else x
