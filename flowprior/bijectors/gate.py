"""What every public method of a bijector and of a prior passes once: shapes, dtype, context and autocast.

Behind it are the hooks, which see rows: z (N, *event), context (N, *context_shape) or None, both of the
module's own dtype, on equal batches, outside autocast. Hooks call hooks, and nothing is checked again.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.tensors import (
    as_context_shape,
    as_event_shape,
    batch_shape_of,
    broadcast_batches,
    numel,
    without_autocast,
)


class Gate(nn.Module):
    """A module over events of one shape, with a context of one shape or none.

    Its floating-point parameters and buffers stay float32 or float64: `.half()`, `.bfloat16()` and
    `.to(torch.bfloat16)`, its own or those of a module that holds it, leave them in float32, because flows
    and densities lose their meaning below that. Half-precision inputs are cast up. The arguments are those of
    `Bijector`; `context_shape` is `context_features` as a shape, (C,) or (K, H, W), or None.

    With `classes` the context is integer labels from 0 to `classes` - 1, of context shape ().
    """

    kind = "module"  # how error messages call it
    least_label: int = 0  # -1 where a label may be missing
    _anchor: Tensor

    def __init_subclass__(cls, **settings: Any) -> None:
        # what ABC does, whose metaclass clashes with that of Pyro's modules
        super().__init_subclass__(**settings)
        named = ((name, getattr(cls, name, None)) for name in dir(cls))
        missing = (name for name, value in named if getattr(value, "__isabstractmethod__", False))
        cls.__abstractmethods__ = frozenset(missing)  # type: ignore[attr-defined]

    def __init__(
        self,
        event_shape: int | Sequence[int],
        context_features: int | Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)
        shape = as_context_shape(context_features)
        self.context_features = None if shape is None else shape[0] if len(shape) == 1 else tuple(shape)
        if classes is not None and shape is not None:
            raise InputError(
                f"`classes` (={classes!r}) was given together with `context_features` "
                f"(={context_features!r}): a context is either labels or numbers, so leave one out."
            )
        self.classes = None if classes is None else check_count("classes", classes)
        self.context_shape = shape if classes is None else torch.Size()
        # Follows `.to()`, so that it tells device and dtype even where there are no parameters. No state dict
        # holds it, so that on "meta" it would stay there when all others are loaded.
        home = torch.get_default_device()
        anchor = torch.empty(0, device="cpu" if home.type == "meta" else home)
        self.register_buffer("_anchor", anchor, persistent=False)

    @property
    def device(self) -> torch.device:
        """The device that it computes and draws on."""
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it computes and draws in."""
        return self._anchor.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def at_least_single(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and moved.dtype.itemsize < 4:
                return tensor.to(moved.device, torch.float32)
            return moved

        return super()._apply(at_least_single, recurse)

    def follow(self, device: torch.device, dtype: torch.dtype) -> None:
        """Go where a part of it is already; what is on the meta device waits there to be loaded."""
        waiting = any(each.is_meta for each in (*self.parameters(), *self.buffers()))
        self.to(dtype) if waiting else self.to(device, dtype)

    def fold(self) -> None:
        """Make constants of what follows from the state alone, in a copy that is to be exported."""

    def _seen(self, context: Tensor) -> Tensor:
        """What the hooks see of context rows (N, *context_shape): the rows themselves."""
        return context

    def _enter(
        self, name: str, value: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor | None, torch.Size]:
        """Rows of value and context as the hooks take them, and the batch shape that they had."""
        batch = batch_shape_of(value, self.event_shape, name)
        value = self._cast(name, value)
        rows, own = self._read(context)
        if rows is not None and own != batch:
            batch = broadcast_batches(batch, own, name, "context")
            value = value.expand(batch + self.event_shape)
            if own != batch:
                shape = rows.shape[1:]
                rows = rows.reshape(own + shape).expand(batch + shape).reshape(numel(batch), *shape)
        return value if len(batch) == 1 else value.reshape(numel(batch), *self.event_shape), rows, batch

    def _read(self, context: Tensor | None) -> tuple[Tensor | None, torch.Size]:
        """The context as the hooks see it, a row for each of its own batch, and the shape of that batch."""
        own = self._context_batch(context)
        if context is None or self.context_shape is None:
            return None, own
        rows = self._in_dtype(context)
        return self._seen(rows if len(own) == 1 else rows.reshape(numel(own), *self.context_shape)), own

    def _context_batch(self, context: Tensor | None) -> torch.Size:
        """The batch shape of `context`, once it is known to fit."""
        wanted = self.context_shape
        if wanted is None:
            if context is not None:
                raise InputError(
                    f"`context` was given to an unconditional {type(self).__name__}: leave it out, or build "
                    f"a {self.kind} with `context_features`."
                )
            return torch.Size()
        if context is None:
            what = "a tensor" if self.classes is None else "integer labels"
            raise InputError(
                f"`context` is missing: this {type(self).__name__} is conditional and needs {what} of "
                f"shape {_with_batch(wanted)}."
            )
        if not isinstance(context, Tensor):
            kind = type(context).__name__
            raise InputError(f"`context` (a {kind}) must be a tensor: torch.as_tensor makes one.")
        self._check_kind(context)
        split = context.dim() - len(wanted)
        if split < 0 or context.shape[split:] != wanted:
            raise InputError(
                f"`context` has shape {tuple(context.shape)} but must end in `context_features` "
                f"(={self.context_features}), as in {_with_batch(wanted)}."
            )
        return context.shape[:split]

    def _check_kind(self, context: Tensor) -> None:
        """Refuse numbers where labels are wanted, labels where numbers are, and labels of no class."""
        if self.classes is None:
            if not context.is_floating_point():
                raise InputError(
                    f"`context` has dtype {context.dtype} but must be floating point: use "
                    "`context.float()`, or, where it holds labels, build the prior with `classes`, as in "
                    "FlowPrior(16, classes=10)."
                )
            return
        if context.is_floating_point() or context.is_complex() or context.dtype == torch.bool:
            raise InputError(
                f"`context` has dtype {context.dtype} but this {type(self).__name__} has `classes` "
                f"(={self.classes}): pass integer labels (*batch,), such as `labels.long()`."
            )
        # elsewhere the one-hot code checks it on the device, without waiting for the answer
        if context.device.type == "cpu" and context.numel() and not torch.compiler.is_compiling():
            least, most = int(context.min()), int(context.max())
            if least < self.least_label or most >= self.classes:
                raise InputError(
                    f"`context` holds labels from {least} to {most} but must be from 0 to "
                    f"{self.classes - 1}, as `classes` is {self.classes}."
                )

    def _in_dtype(self, context: Tensor) -> Tensor:
        """A context in the module's own dtype; labels stay integers."""
        return context.to(self.dtype) if self.classes is None else context

    def _cast(self, name: str, value: Tensor) -> Tensor:
        """`value` in the module's own dtype; nothing is cast down."""
        own = self.dtype
        if value.dtype == own:
            return value
        floating = value.is_floating_point()
        if not floating or torch.promote_types(value.dtype, own) != own:
            other = f" or `{self.kind}.to({value.dtype})`" if floating else ""
            raise InputError(
                f"`{name}` has dtype {value.dtype} but the {self.kind} computes in {own}: convert it with "
                f"`{name}.to({own})`{other}."
            )
        return value.to(own)


class Invertible(Gate):
    """A module with two spaces, z0 = to_base(z) and z = from_base(z0), that reports its volume change.

    A subclass must implement `_to_base` and `_from_base`.
    """

    @abstractmethod
    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows z (N, *event), context (N, *context_shape) or None -> z0 (N, *event), logabsdet (N,)."""

    @abstractmethod
    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rows z0 (N, *event), context (N, *context_shape) or None -> z (N, *event), logabsdet (N,)."""

    def to_base(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map z to z0, with log|det dz0/dz|.

        Args:
            z: (*batch, *event), floating point.
            context: (*batch, *context_shape) if it is conditional, else None; the batches broadcast.

        Returns:
            z0 (*batch, *event) and logabsdet (*batch,) in nats, inside autocast too in full precision.

        Raises:
            InputError: if a shape or a dtype does not fit, or a context is missing or not wanted.
        """
        return self._map(self._to_base, "z", z, context)

    def from_base(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map z0 to z, with log|det dz/dz0|; shapes and errors as in `to_base`."""
        return self._map(self._from_base, "z0", z0, context)

    def _map(
        self,
        hook: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
        name: str,
        value: Tensor,
        context: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        with without_autocast(self._anchor.device.type):
            rows, context, batch = self._enter(name, value, context)
            mapped, logabsdet = hook(rows, context)
        if len(batch) == 1:
            return mapped, logabsdet
        return mapped.reshape(batch + self.event_shape), logabsdet.reshape(batch)


def _with_batch(shape: torch.Size) -> str:
    return f"(*batch, {', '.join(map(str, shape))})" if shape else "(*batch,)"
