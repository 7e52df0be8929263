"""The contract of every bijector: direction, shapes, precision and the sentences said about bad input.

Stated here once, and kept by every backend:

* *Direction*: `to_base` maps representation space to base space, z -> z0; `from_base` maps z0 -> z. An
  nflows transform's call is `to_base`; a torch or Pyro transform's call is `from_base`, as in
  `torch.distributions.TransformedDistribution`.
* *Mask polarity*: a mask is true where a coupling changes the feature, false where it passes it on.
* *Composition order*: steps are listed in the order in which `to_base` applies them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.tensors import as_context_shape, as_event_shape, batch_shape_of, numel, without_autocast


class Bijector(nn.Module, ABC):
    """An invertible map between z and z0 that reports its volume change.

    log p(z | c) = log p0(z0) + log|det dz0/dz|, with z0 = to_base(z, c).

    A subclass owes two methods, `_to_base` and `_from_base`, on flat tensors: (N, D) and, if the bijector
    is conditional, a context (N, C); each returns the mapped (N, D) and the log-determinant (N,). Checks,
    broadcasting, flattening and precision are done here, for all.

    Args:
        event_shape: shape of one z, an int or a tuple such as (4, 8, 8); D is its number of elements.
        context_features: width C of the context vectors, or the shape (K, H, W) of context maps, which are
            passed flattened, C = K H W; None for an unconditional bijector. The attribute is C.

    Raises:
        InputError: if an argument is not of that kind.
    """

    event_shape: torch.Size
    context_features: int | None
    _witness: Tensor

    def __init__(
        self, event_shape: int | Sequence[int], context_features: int | Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.event_shape = as_event_shape(event_shape)
        context_shape = as_context_shape(context_features)
        self.context_features = None if context_shape is None else numel(context_shape)
        # follows `.to()`, so that its dtype tells the bijector's own without a walk over the parameters
        self.register_buffer("_witness", torch.empty(0), persistent=False)

    @property
    def features(self) -> int:
        """The number D of elements of one z."""
        return numel(self.event_shape)

    def to_base(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map z to z0, with log|det dz0/dz|.

        Args:
            z: (*batch, *event), floating point.
            context: (*batch, C) for a conditional bijector, else None; the batches broadcast.

        Returns:
            z0 (*batch, *event) and logabsdet (*batch,) in nats. Inside autocast both stay float32.

        Raises:
            InputError: if a shape or a dtype does not fit, or a context is missing or not expected.
        """
        return self._map(True, z, context)

    def from_base(self, z0: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map z0 to z, with log|det dz/dz0|; shapes and errors as in `to_base`."""
        return self._map(False, z0, context)

    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Start data-dependent parameters from a batch of z; most bijectors have none.

        It happens only when this is called, never inside `to_base` or `from_base`. In a distributed
        run every rank must call it; the statistics are those of all ranks together.
        """

    @abstractmethod
    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N, D), (N, C) or None -> z0 (N, D), logabsdet (N,)."""

    @abstractmethod
    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N, D), (N, C) or None -> z (N, D), logabsdet (N,)."""

    def _map(self, to_base: bool, value: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        value, context, batch = self._flatten("z" if to_base else "z0", value, context)
        if value.shape[0] == 0:  # the libraries' reshapes are ambiguous there
            return value.reshape(batch + self.event_shape), value.new_zeros(batch)
        method = self._to_base if to_base else self._from_base
        with without_autocast(value.device.type):
            mapped, logabsdet = method(value, context)
        if len(batch) == 1 and len(self.event_shape) == 1:
            return mapped, logabsdet
        return mapped.reshape(batch + self.event_shape), logabsdet.reshape(batch)

    def _flatten(
        self, name: str, value: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor | None, torch.Size]:
        """Check, broadcast and flatten: (N, D), (N, C) or None, and the batch shape to restore."""
        batch = batch_shape_of(value, self.event_shape, name)
        value = value.to(self._working_dtype(name, value))
        if context is None:
            if self.context_features is not None:
                raise InputError(
                    f"`context` is missing: this bijector is conditional, pass a tensor of shape "
                    f"(*batch, {self.context_features})."
                )
        elif self.context_features is None:
            raise InputError(
                f"`context` of shape {tuple(context.shape)} was given to an unconditional bijector: leave it "
                "out, or build the bijector with `context_features`."
            )
        else:
            context_batch = batch_shape_of_context(context, self.context_features)
            if context_batch != batch:
                try:
                    batch = torch.broadcast_shapes(batch, context_batch)
                except RuntimeError:
                    raise InputError(
                        f"`context` has batch shape {tuple(context_batch)} but `{name}` has {tuple(batch)}: "
                        "they must broadcast."
                    ) from None
                value = value.expand(batch + self.event_shape)
                context = context.expand((*batch, self.context_features))
            context = context.to(value.dtype).reshape(numel(batch), self.context_features)
        if len(batch) != 1 or len(self.event_shape) != 1:
            value = value.reshape(numel(batch), self.features)
        return value, context, batch

    def _working_dtype(self, name: str, value: Tensor) -> torch.dtype:
        """The dtype to compute in: that of the parameters, and at least float32."""
        if not value.is_floating_point():
            raise InputError(
                f"`{name}` has dtype {value.dtype} but must be floating point: convert it with `.float()`."
            )
        if value.dtype == self._witness.dtype and value.dtype in (torch.float32, torch.float64):
            return value.dtype
        if torch.finfo(self._witness.dtype).bits < 32:
            raise InputError(
                f"the parameters of this bijector have dtype {self._witness.dtype} but flows compute in "
                "float32 or float64: call `.float()` on it; inside autocast it keeps float32 by itself."
            )
        least = torch.promote_types(value.dtype, torch.float32)
        own = torch.promote_types(self._witness.dtype, torch.float32)
        if torch.promote_types(least, own) != own:
            own = self._parameter_dtype(least)
            if torch.promote_types(least, own) != own:
                raise InputError(
                    f"`{name}` has dtype {value.dtype} but the bijector computes in {own}: convert one, "
                    f"`{name}.to({own})` or `bijector.to({least})`."
                )
        return own

    def _parameter_dtype(self, default: torch.dtype) -> torch.dtype:
        """The dtype of the first floating parameter or buffer, `default` if there is none."""
        tensors = (*self.parameters(), *self.buffers())
        return next((t.dtype for t in tensors if t.is_floating_point() and t is not self._witness), default)


def batch_shape_of_context(context: Tensor, context_features: int) -> torch.Size:
    """The leading shape of `context` (*batch, C).

    Raises:
        InputError: if it does not end in C features.
    """
    if context.dim() < 1 or context.shape[-1] != context_features:
        raise InputError(
            f"`context` has shape {tuple(context.shape)} but must end in {context_features} features, as in "
            f"(*batch, {context_features})."
        )
    return context.shape[:-1]
