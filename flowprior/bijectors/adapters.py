"""A user's own transform as a bijector."""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions.transforms import ComposeTransform, Transform, _InverseTransform
from torch.distributions.utils import lazy_property

from flowprior.bijectors.bijector import Bijector
from flowprior.errors import InputError
from flowprior.tensors import as_context_shape, as_event_shape, numel


def as_bijector(
    transform: object, event_shape: int | Sequence[int], context_features: int | Sequence[int] | None = None
) -> Bijector:
    """A user's nflows, torch or Pyro transform as a bijector over `event_shape`.

    * A `Bijector` is returned as it is.
    * An nflows `Transform`: calling it maps z to z0, as in an nflows `Flow`.
    * A torch or Pyro `Transform`, a Pyro conditional transform, or a list of them: calling it maps z0 to z,
      first to last, as in `TransformedDistribution`. Elementwise transforms are summed over the event.

    Transforms see (N, *event) and, if `context_features` is given, a context (N, C), maps flattened.
    Parameters, buffers and tensor attributes become part of the bijector: they are saved, moved and copied
    with it.

    Raises:
        InputError: if `transform` is none of these, or its shapes or its context do not fit.

    >>> from torch.distributions.transforms import AffineTransform, TanhTransform
    >>> bijector = as_bijector([AffineTransform(1.0, 2.0)], 3)
    >>> z, logabsdet = bijector.from_base(torch.zeros(3))
    >>> z, round(logabsdet.item(), 4)
    (tensor([1., 1., 1.]), 2.0794)
    """
    if isinstance(transform, Bijector):
        return _checked(transform, as_event_shape(event_shape), as_context_shape(context_features))
    if isinstance(transform, _nflows("Transform")):
        return NflowsBijector(transform, event_shape, context_features)
    parts = list(transform) if isinstance(transform, (list, tuple)) else [transform]
    for part in parts:
        if not isinstance(part, (Transform, *_pyro("ConditionalTransform"))):
            raise InputError(
                f"`bijector` (a {type(part).__name__}) must be an nflows Transform, a torch or Pyro "
                "Transform, a Pyro conditional transform, a list of the last two, or a flowprior Bijector."
            )
    return TorchBijector(parts, event_shape, context_features)


class NflowsBijector(Bijector):
    """An nflows transform over (N, *event): its call is `to_base`, its `inverse` is `from_base`."""

    def __init__(self, transform: nn.Module, *shapes: Any) -> None:
        super().__init__(*shapes)
        self.transform = transform
        _follow(self)
        # nflows' multiscale transform takes images and gives vectors
        self.flat_base = isinstance(transform, _nflows("MultiscaleCompositeTransform"))

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if not z.shape[0]:
            return z, z.new_zeros(0)
        z0, logabsdet = self.transform(z, _flat(context))
        return z0.reshape(z.shape), logabsdet

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if not z0.shape[0]:
            return z0, z0.new_zeros(0)
        shaped = z0.flatten(1) if self.flat_base else z0
        z, logabsdet = self.transform.inverse(shaped, _flat(context))  # type: ignore[operator]
        return z.reshape(z0.shape), logabsdet


class TorchBijector(Bijector):
    """torch and Pyro transforms in a row: calling them, first to last, is `from_base`.

    Pyro's transforms remember their last input and output and answer from memory after the parameters have
    changed; what they remember is cleared before and after each evaluation, which also keeps `deepcopy` and
    `pickle` working. Tensor attributes of transforms that are no modules (an `AffineTransform`'s loc, a
    Pyro `Permute`'s permutation) are registered, so that they are saved and moved.
    """

    def __init__(self, parts: Sequence[Any], *shapes: Any) -> None:
        super().__init__(*shapes)
        self.parts = [leaf for part in parts for leaf in _leaves(part)]
        conditional = not all(isinstance(part, Transform) for part, _ in self.parts)
        if conditional and self.context_shape is None:
            raise InputError(
                "`context_features` (=None) must be the width C of the context of a conditional `bijector`."
            )
        if self.context_shape is not None and not conditional:
            raise InputError(
                f"`context_features` (={self.context_features}) needs a conditional transform, but none of "
                "`bijector` is one: leave it out, or pass a Pyro ConditionalTransform."
            )
        shape = self.event_shape
        for part, inverted in self.parts:
            if isinstance(part, Transform):
                shape = self._shape_after(part, inverted, shape)
        if shape != self.event_shape:
            raise InputError(
                f"`bijector` maps event shape {tuple(self.event_shape)} to {tuple(shape)}: it must keep it."
            )
        nested = [part for leaf, _ in self.parts for part in _nested(leaf)]
        self.transforms = nn.ModuleList([part for part in nested if isinstance(part, nn.Module)])
        holders = [_Tensors(part) for part in nested if not isinstance(part, nn.Module)]
        self.tensors = nn.ModuleList([holder for holder in holders if holder.names])
        _follow(self)

    def _shape_after(self, part: Transform, inverted: bool, shape: torch.Size) -> torch.Size:
        if not part.bijective:
            raise InputError(f"`bijector` has a part, {type(part).__name__}, that is not bijective.")
        event_dim = (part.codomain if inverted else part.domain).event_dim
        if event_dim > len(shape):
            raise InputError(
                f"`bijector` has a part, {type(part).__name__}, over {event_dim} event dimensions but the "
                f"event shape is {tuple(self.event_shape)}."
            )
        return torch.Size(part.inverse_shape(shape) if inverted else part.forward_shape(shape))

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run([(part, not inverted) for part, inverted in self._resolved(context)[::-1]], z)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(self._resolved(context), z0)

    def _run(self, parts: list[tuple[Transform, bool]], value: Tensor) -> tuple[Tensor, Tensor]:
        total = value.new_zeros(value.shape[0])
        if not value.shape[0]:  # the libraries' reshapes are ambiguous there
            return value, total
        for holder in self.tensors:
            holder.hand_over()  # type: ignore[operator]
        for part, inverted in parts:
            _forget(part)
            mapped = _inverse(part, value) if inverted else part(value)
            x, y = (mapped, value) if inverted else (value, mapped)
            logabsdet = part.log_abs_det_jacobian(x, y)
            # a constant is expanded to the batch; what StackTransform reports for each element is summed
            batch_dims = x.dim() - part.domain.event_dim
            if logabsdet.dim() <= batch_dims:
                logabsdet = logabsdet.expand(x.shape[:batch_dims])
            logabsdet = logabsdet.reshape(x.shape[0], -1).sum(-1)
            total = total - logabsdet if inverted else total + logabsdet
            _forget(part)
            value = mapped
        return value, total

    def _resolved(self, context: Tensor | None) -> list[tuple[Transform, bool]]:
        """The parts with the context bound, as plain transforms from z0 to z."""
        resolved: list[tuple[Transform, bool]] = []
        for part, inverted in self.parts:
            if isinstance(part, Transform):
                resolved.append((part, inverted))
            else:
                resolved += _leaves(part.condition(_flat(context)), inverted)
        return resolved


class _Tensors(nn.Module):
    """Registers the tensor attributes of a transform that is no module."""

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self.transform = transform
        _forget(transform)
        self.names = [name for name, value in vars(transform).items() if isinstance(value, Tensor)]
        for name in self.names:
            value = getattr(transform, name)
            register = self.register_parameter if isinstance(value, nn.Parameter) else self.register_buffer
            register(name, value)

    def hand_over(self) -> None:
        """Give the transform the tensors as they are now, after a load or a move."""
        for name in self.names:
            setattr(self.transform, name, getattr(self, name))


def _leaves(part: Any, inverted: bool = False) -> list[tuple[Any, bool]]:
    """The transforms that `part` is composed of, from z0 to z, each with whether its inverse is meant.

    torch's inverse and compose wrappers hide parameters and do not survive a copy: they are unwrapped.
    """
    inverses: tuple[Any, ...] = (_InverseTransform, *_pyro("_ConditionalInverseTransformModule"))
    if isinstance(part, inverses):
        return _leaves(part.inv, not inverted)
    if isinstance(part, _pyro("ConstantConditionalTransform")):
        return _leaves(part.transform, inverted)
    if isinstance(part, ComposeTransform):
        children = part.parts
    elif isinstance(part, _pyro("ConditionalComposeTransformModule")):
        children = part.transforms
    else:
        return [(part, inverted)]
    return [leaf for child in (children[::-1] if inverted else children) for leaf in _leaves(child, inverted)]


def _inverse(part: Transform, value: Tensor) -> Tensor:
    """`part` backwards; some of Pyro's, such as Planar, only look up what they have computed before."""
    try:
        return part.inv(value)
    except KeyError as error:
        raise InputError(
            f"`bijector` has a part, {type(part).__name__}, that cannot be inverted ({error.args[0]}): use "
            "one that can, such as pyro's affine_coupling."
        ) from None


def _nested(part: Any) -> Iterator[Any]:
    """`part` and the transforms that it holds, as torch's `IndependentTransform` and `CatTransform` do."""
    yield part
    if isinstance(part, Transform) and not isinstance(part, nn.Module):
        for child in (*vars(part).get("transforms", ()), vars(part).get("base_transform")):
            if isinstance(child, Transform):
                yield from _nested(child)


def _forget(part: Transform) -> None:
    """Clear what a transform remembers: `_cache...`, and lazy attributes such as an inverse permutation."""
    for transform in _nested(part):
        for name in list(vars(transform)):
            if isinstance(getattr(type(transform), name, None), lazy_property):
                delattr(transform, name)
            elif name.startswith("_cache") and name != "_cache_size":
                setattr(transform, name, (None, None) if name == "_cached_x_y" else None)


def _follow(bijector: Bijector) -> None:
    """Give the bijector the dtype and device of the user's own parameters or buffers."""
    tensors = (each for each in (*bijector.parameters(), *bijector.buffers()) if each is not bijector._anchor)
    own = next((each for each in tensors if each.is_floating_point()), None)
    if own is not None:
        bijector._anchor = bijector._anchor.to(own.device, own.dtype)


def _flat(context: Tensor | None) -> Tensor | None:
    return None if context is None else context.flatten(1)


def _class(module: str, name: str) -> tuple[Any, ...]:
    """The class, in a tuple for `isinstance`; empty while nobody has imported its library."""
    loaded = sys.modules.get(module)
    return () if loaded is None else (getattr(loaded, name),)


_nflows, _pyro = (
    partial(_class, name) for name in ("nflows.transforms.base", "pyro.distributions.conditional")
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
