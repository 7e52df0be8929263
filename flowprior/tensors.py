"""Shapes and precision: small questions that every layer asks of its tensors and distributions."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from numbers import Integral
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.overrides import TorchFunctionMode

from flowprior.bounds import check_memory
from flowprior.errors import InputError

MOST_FEATURES = 2**24  # numbers in one event or context


def as_event_shape(features: int | Sequence[int]) -> torch.Size:
    """The event shape that `features`, a positive int or a sequence of them, means; InputError on others.

    >>> as_event_shape(64), as_event_shape((4, 8, 8))
    (torch.Size([64]), torch.Size([4, 8, 8]))
    """
    sizes = (features,) if _is_size(features) else features
    if not isinstance(sizes, Sequence) or len(sizes) == 0 or not all(map(_is_size, sizes)):
        expected = "a positive int or a non-empty tuple of them, such as 64 or (4, 8, 8)"
        raise InputError(f"`features` (={features!r}) must be {expected}.")
    return _bounded("features", tuple(map(int, sizes)))


def as_context_shape(context_features: int | Sequence[int] | None) -> torch.Size | None:
    """The shape of one context, a vector (K,), a sequence (S, K), maps (K, H, W), or none; else InputError.

    >>> as_context_shape(10), as_context_shape((3, 8, 8))
    (torch.Size([10]), torch.Size([3, 8, 8]))
    """
    if context_features is None:
        return None
    sizes = (context_features,) if isinstance(context_features, Integral) else context_features
    dims = (1,) if isinstance(context_features, Integral) else (2, 3)
    if not isinstance(sizes, Sequence) or len(sizes) not in dims or not all(map(_is_size, sizes)):
        expected = (
            "a positive int for context vectors, a tuple (K, H, W) of them for context maps or (S, K) for "
            "sequences, or None"
        )
        raise InputError(f"`context_features` (={context_features!r}) must be {expected}.")
    return _bounded("context_features", tuple(map(int, sizes)))


def _bounded(name: str, sizes: tuple[int, ...]) -> torch.Size:
    if math.prod(sizes) > MOST_FEATURES:
        raise InputError(f"`{name}` (={sizes}) must hold at most {MOST_FEATURES:,} numbers.")
    return torch.Size(sizes)


def _is_size(value: object) -> TypeGuard[int]:
    """Whether it is a positive int; NumPy's are."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def batch_shape_of(value: Tensor, event_shape: torch.Size, name: str = "z") -> torch.Size:
    """The leading shape of `value` (*batch, *event); InputError on another event shape, or no tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"`{name}` (a {type(value).__name__}) must be a tensor: torch.as_tensor makes one.")
    batch_dims = value.dim() - len(event_shape)
    if batch_dims < 0 or value.shape[batch_dims:] != event_shape:
        expected = f"must end in the event shape {tuple(event_shape)}"
        fix = "reshape it, or build the prior with that `features`"
        raise InputError(f"`{name}` has shape {tuple(value.shape)} but {expected}: {fix}.")
    return value.shape[:batch_dims]


def broadcast_batches(left: torch.Size, right: torch.Size, left_name: str, right_name: str) -> torch.Size:
    """The shape that two batch shapes broadcast to; InputError if they do not."""
    try:
        return torch.broadcast_shapes(left, right)
    except RuntimeError:
        shapes = f"`{left_name}` {tuple(left)} and `{right_name}` {tuple(right)}"
        fix = "give both the same leading shape"
        raise InputError(f"the batch shapes of {shapes} must broadcast: {fix}.") from None


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


def flat_context(context: Tensor | None) -> Tensor | None:
    """Context rows (N, ...) as vectors (N, C)."""
    return None if context is None else context.flatten(1)


def imported(module: str, name: str) -> tuple[Any, ...]:
    """A class of another library, in a tuple for `isinstance`; empty while nobody has imported its module."""
    loaded = sys.modules.get(module)
    return () if loaded is None else (getattr(loaded, name),)


def without_autocast(kind: str) -> AbstractContextManager[object]:
    """A context outside autocast for devices of this kind; entering torch's own costs more than asking."""
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def numel(shape: Sequence[int]) -> int:
    """The number of elements of a shape; 1 for the empty one."""
    return math.prod(shape)


def as_input(x: Tensor) -> Tensor:
    """Stored examples or conditions as a model reads them: bytes become floats in [0, 1]."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def check_weights(module: nn.Module, origin: str) -> None:
    """Refuse loaded weights and buffers that hold NaN, or, where they are learned, infinity."""
    learned = {name for name, _ in module.named_parameters()}
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not (value.isfinite() if name in learned else ~value.isnan()).all():
            raise InputError(
                f"{name!r} in {origin} holds numbers that are not finite: it is damaged; save it again."
            )


@contextmanager
def within_memory(what: str, fix: str) -> Iterator[None]:
    """Inside, torch makes no tensors that would together take more than the memory of this machine.

    Raises:
        InputError: before the first that would be too much is made.
    """
    try:
        with _Budget(what, fix):
            yield
    except MemoryError:
        raise InputError(f"{what} does not fit into the memory of this machine: {fix}.") from None


_MAKERS = frozenset(
    ["empty", "zeros", "ones", "full", "rand", "randn", "randint", "eye", "arange", "linspace", "randperm"]
)


class _Budget(TorchFunctionMode):
    """Counts the bytes of what torch's functions make out of sizes alone."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__()
        self.what, self.fix, self.bytes = what, fix, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and getattr(func, "__name__", "") in _MAKERS:
            self.bytes += _numel(args) * (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
            check_memory(self.what, self.bytes, self.fix)
        return func(*args, **kwargs)


def _numel(args: Any) -> int:
    """How many numbers a function makes that is given sizes: of `empty`, a shape; of `arange`, an int."""
    sizes = args[0] if isinstance(args[0], list | tuple) else args
    return math.prod(size for size in sizes if isinstance(size, int) and size > 0)
