"""zuko's flows and lazy transforms as bijectors."""

from typing import Any

from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions.transforms import Transform

from flowprior.bijectors.bijector import Bijector, follow_own, no_rows, try_once
from flowprior.bijectors.torch_transforms import Tensors, hidden, nested
from flowprior.errors import InputError, reason
from flowprior.tensors import factorized, flat_context, imported


class ZukoBijector(Bijector):
    """A zuko flow or lazy transform: the transform that it makes of a context maps z to z0 when called.

    Of a flow that was called already, `flow()`, the modules that its transform reads are registered.
    """

    @staticmethod
    def takes() -> tuple[Any, ...]:
        """The classes of zuko, if it is imported, that this can be built from."""
        lazy = *imported("zuko.lazy", "Flow"), *imported("zuko.lazy", "LazyTransform")
        return (*lazy, *imported("zuko.distributions", "NormalizingFlow"))

    def __init__(self, flow: Any, *shapes: Any) -> None:
        super().__init__(*shapes)
        self.name = type(flow).__name__
        built = not isinstance(flow, nn.Module)
        if built and (self.context_shape is not None or flow.batch_shape):
            raise InputError(
                f"`bijector` (a {self.name}) has a context in it already: pass the lazy flow that was called "
                "to make it."
            )
        if built:
            self.lazy: nn.Module = _Built(flow.transform)
        else:
            self.lazy = flow.transform if isinstance(flow, imported("zuko.lazy", "Flow")) else flow
        follow_own(self)
        if not isinstance(flow, imported("zuko.lazy", "LazyTransform")):
            try_once(self, lambda _, context: self._check_base(flow.base if built else flow.base(context)))
        try_once(self, self._try)

    def _check_base(self, base: Any) -> None:
        """Refuse a base that is not N(0, I)."""
        normal = factorized(base)
        if not isinstance(normal, Normal) or (normal.loc != 0).any() or (normal.scale != 1).any():
            raise InputError(
                f"`bijector` (a {self.name}) has the base {base}, but a FlowPrior has its own, N(0, I): pass "
                "`flow.transform` of the lazy flow, and a `base` for z0."
            )

    def _try(self, z0: Tensor, context: Tensor | None) -> None:
        try:
            z, _ = self._from_base(z0, context)
            mapped, _ = self._to_base(z, context)
        except NotImplementedError:
            raise InputError(f"`bijector` (a {self.name}) cannot be inverted: use a flow that can.") from None
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            given = "" if context is None else f" given a context of {tuple(context.shape)}"
            raise InputError(
                f"`bijector` (a {self.name}) cannot map z of shape {tuple(z0.shape)}{given} "
                f"({reason(error)}): build it for these features and this context."
            ) from error
        if mapped.shape != z0.shape or z.shape != z0.shape:
            shape = tuple(z0.shape[1:])
            raise InputError(f"`bijector` (a {self.name}) does not keep the event shape {shape}.")

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, True)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(z0, context, False)

    def _run(self, value: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        if not value.shape[0]:
            return no_rows(self, value)
        transform = self.lazy(flat_context(context))
        mapped, logabsdet = (transform if to_base else transform.inv).call_and_ladj(value)
        batch_dims = value.dim() - transform.domain.event_dim
        return mapped, logabsdet.expand(value.shape[:batch_dims]).reshape(value.shape[0], -1).sum(-1)


class _Built(nn.Module):
    """The transform of a flow that was called already, with the modules and tensors that it reads."""

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self.transform = transform
        found = list(hidden(transform, closures=False))
        self.read = nn.ModuleList([each for each in found if isinstance(each, nn.Module)])
        holders = [Tensors(part) for part in nested(transform)]
        self.tensors = nn.ModuleList([holder for holder in holders if holder.names])
        known = {id(each) for each in (*self.parameters(), *self.read)}
        if any(id(each) not in known for each in hidden(transform)):
            raise InputError(
                "`bijector` (a zuko flow that was called) reads parameters that it does not hold: "
                "pass the lazy flow itself, `flow` and not `flow()`."
            )

    def forward(self, context: Tensor | None) -> Transform:
        for holder in self.tensors:
            holder.hand_over()  # type: ignore[operator]
        return self.transform
