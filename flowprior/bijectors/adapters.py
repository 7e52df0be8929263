"""A user's own transform as a bijector."""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributions.transforms import Transform

from flowprior.bijectors.bijector import Bijector, follow_own, no_rows, try_once
from flowprior.bijectors.torch_transforms import TorchBijector
from flowprior.bijectors.zuko_flows import ZukoBijector
from flowprior.errors import InputError
from flowprior.tensors import as_context_shape, as_event_shape, flat_context, imported, numel

# how flows of other libraries are wrapped, by the name of the library: what the two hooks return
WRAPPED = {
    "normflows": ("self.flow.inverse_and_log_det(z)", "self.flow.forward_and_log_det(z0)"),
    "FrEIA": ("self.flow(z)", "self.flow(z0, rev=True)"),
}


def as_bijector(
    transform: Any, event_shape: int | Sequence[int], context_features: int | Sequence[int] | None = None
) -> Bijector:
    """A user's nflows, torch, Pyro or zuko transform as a bijector over `event_shape`.

    * A `Bijector` is returned as it is.
    * An nflows `Transform`: calling it maps z to z0, as in an nflows `Flow`, which is taken with it if its
      base is nflows' `StandardNormal` and it has no embedding net.
    * A zuko flow, `zuko.flows.NSF(3)` or what it returns when called, whose base must be N(0, I), or a lazy
      transform of zuko's: the transform that it makes maps z to z0.
    * A torch or Pyro `Transform`, a Pyro conditional transform, or a list of them: calling it maps z0 to z,
      first to last, as in `TransformedDistribution`. Elementwise transforms are summed over the event.

    Transforms see (N, *event) and, if `context_features` is given, a context (N, C), maps flattened.
    Parameters, buffers and tensor attributes become part of the bijector: they are saved, moved and copied
    with it.

    Raises:
        InputError: if `transform` is none of these, has no inverse, hides parameters that nobody could save
            or train, or its shapes or its context do not fit. For flows of normflows and FrEIA the sentence
            ends in the three lines that make a `Bijector` of them.

    >>> from torch.distributions.transforms import AffineTransform, TanhTransform
    >>> bijector = as_bijector([AffineTransform(1.0, 2.0)], 3)
    >>> z, logabsdet = bijector.from_base(torch.zeros(3))
    >>> z, round(logabsdet.item(), 4)
    (tensor([1., 1., 1.]), 2.0794)
    """
    shapes = event_shape, context_features
    if isinstance(transform, Bijector):
        return _checked(transform, as_event_shape(event_shape), as_context_shape(context_features))
    if isinstance(transform, imported("nflows.transforms.base", "Transform")):
        return NflowsBijector(transform, *shapes)
    if isinstance(transform, imported("nflows.flows.base", "Flow")):
        return NflowsBijector(_of_nflows_flow(transform), *shapes)
    if isinstance(transform, ZukoBijector.takes()):
        return ZukoBijector(transform, *shapes)
    parts = list(transform) if isinstance(transform, (list, tuple)) else [transform]
    taken = Transform, *imported("pyro.distributions.conditional", "ConditionalTransform")
    for part in parts:
        if not isinstance(part, taken):
            _refuse(part)
    return TorchBijector(parts, *shapes)


class NflowsBijector(Bijector):
    """An nflows transform over (N, *event): its call is `to_base`, its `inverse` is `from_base`."""

    def __init__(self, transform: nn.Module, *shapes: Any) -> None:
        super().__init__(*shapes)
        self.transform = transform
        follow_own(self)
        # nflows' multiscale transform takes images and gives vectors
        flat = imported("nflows.transforms.base", "MultiscaleCompositeTransform")
        self.flat_base = isinstance(transform, flat)
        try_once(self, self._check_inverse)

    def _check_inverse(self, z0: Tensor, context: Tensor | None) -> None:
        from nflows.transforms.base import InputOutsideDomain, InverseNotAvailable

        try:
            self._from_base(z0, context)
        except InputOutsideDomain:
            pass  # it has an inverse, only not at zero
        except (InverseNotAvailable, NotImplementedError):
            name = type(self.transform).__name__
            raise InputError(f"`bijector` (a {name}) cannot be inverted: use one that can.") from None

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if not z.shape[0]:
            return no_rows(self, z)
        z0, logabsdet = self.transform(z, flat_context(context))
        return z0.reshape(z.shape), logabsdet

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if not z0.shape[0]:
            return no_rows(self, z0)
        shaped = z0.flatten(1) if self.flat_base else z0
        z, logabsdet = self.transform.inverse(shaped, flat_context(context))  # type: ignore[operator]
        return z.reshape(z0.shape), logabsdet


def _of_nflows_flow(flow: Any) -> nn.Module:
    """The transform of an nflows `Flow`, which must be all that there is to it."""
    from nflows.distributions.normal import StandardNormal

    base, embedding = flow._distribution, flow._embedding_net
    if not isinstance(base, StandardNormal) or not isinstance(embedding, nn.Identity):
        parts = f"base {type(base).__name__} and embedding net {type(embedding).__name__}"
        raise InputError(
            f"`bijector` (an nflows {type(flow).__name__}) has the {parts}, but a FlowPrior has its own: "
            "pass `flow._transform`, a `base` for z0, and put an embedding net into an EmbeddedPrior."
        )
    return flow._transform


def _refuse(part: object) -> NoReturn:
    """Say what can be a bijector, and how flows of known libraries become one."""
    name = type(part).__name__
    libraries = {base.__module__.partition(".")[0] for base in type(part).__mro__}
    library = next((library for library in WRAPPED if library in libraries), None)
    if library is not None:
        to_base, from_base = WRAPPED[library]
        raise InputError(
            f"`bijector` (a {name} of {library}) must be wrapped, as in `bijector = Wrapped(features)` and "
            "`bijector.flow = flow` after these three lines:\n"
            "class Wrapped(flowprior.Bijector):\n"
            f"    def _to_base(self, z, context): return {to_base}\n"
            f"    def _from_base(self, z0, context): return {from_base}"
        )
    raise InputError(
        f"`bijector` (a {name}) must be an nflows Transform or Flow, a torch or Pyro Transform, a Pyro "
        "conditional transform, a list of the last two, a zuko flow or lazy transform, or a flowprior "
        "Bijector."
    )


def _checked(bijector: Bijector, event: torch.Size, context: torch.Size | None) -> Bijector:
    if bijector.event_shape != event:
        shape = tuple(bijector.event_shape)
        raise InputError(f"`bijector` has event shape {shape} but {tuple(event)} was asked for.")
    if bijector.context_shape not in (context, context and torch.Size([numel(context)])):
        asked = context and tuple(context)
        raise InputError(
            f"`bijector` has context_features {bijector.context_features} but {asked} was asked for."
        )
    return bijector
