"""torch and Pyro transforms as a bijector."""

from collections.abc import Iterator, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions.transforms import ComposeTransform, Transform, _InverseTransform
from torch.distributions.utils import lazy_property

from flowprior.bijectors.bijector import Bijector, follow_own, no_rows, try_once
from flowprior.errors import InputError, reason
from flowprior.tensors import flat_context, imported

_conditional = partial(imported, "pyro.distributions.conditional")


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
        parts_inside = [part for leaf, _ in self.parts for part in nested(leaf)]
        self.transforms = nn.ModuleList([part for part in parts_inside if isinstance(part, nn.Module)])
        plain = [part for part in parts_inside if not isinstance(part, nn.Module)]
        for part in plain:
            _check_hides_nothing(part)
        holders = [Tensors(part) for part in plain]
        self.tensors = nn.ModuleList([holder for holder in holders if holder.names])
        follow_own(self)
        # there and back, for the sentence of a part that has no inverse
        try_once(self, lambda z0, context: self._to_base(self._from_base(z0, context)[0], context))

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
        if not value.shape[0]:
            return no_rows(self, value)
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
                resolved += _leaves(part.condition(flat_context(context)), inverted)
        return resolved


class Tensors(nn.Module):
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
    inverses: tuple[Any, ...] = (
        _InverseTransform,
        *_conditional("_ConditionalInverseTransformModule"),
    )
    if isinstance(part, inverses):
        return _leaves(part.inv, not inverted)
    if isinstance(part, _conditional("ConstantConditionalTransform")):
        return _leaves(part.transform, inverted)
    if isinstance(part, ComposeTransform):
        children = part.parts
    elif isinstance(part, _conditional("ConditionalComposeTransformModule")):
        children = part.transforms
    else:
        return [(part, inverted)]
    return [leaf for child in (children[::-1] if inverted else children) for leaf in _leaves(child, inverted)]


def _inverse(part: Transform, value: Tensor) -> Tensor:
    """`part` backwards; some of Pyro's, such as Planar, only look up what they have computed before."""
    try:
        return part.inv(value)
    except (KeyError, NotImplementedError) as error:
        raise InputError(
            f"`bijector` has a part, {type(part).__name__}, that cannot be inverted ({reason(error)}): use "
            "one that can, such as pyro's affine_coupling."
        ) from None


def nested(part: Any) -> Iterator[Any]:
    """`part` and the transforms that it holds, as torch's `IndependentTransform` and `CatTransform` do."""
    yield part
    if isinstance(part, Transform) and not isinstance(part, nn.Module):
        for child in (*vars(part).get("transforms", ()), vars(part).get("base_transform")):
            if isinstance(child, Transform):
                yield from nested(child)


def _forget(part: Transform) -> None:
    """Clear what a transform remembers: `_cache...`, and lazy attributes such as an inverse permutation."""
    for transform in nested(part):
        for name in list(vars(transform)):
            if isinstance(getattr(type(transform), name, None), lazy_property):
                delattr(transform, name)
            elif name.startswith("_cache") and name != "_cache_size":
                setattr(transform, name, (None, None) if name == "_cached_x_y" else None)


def hidden(value: Any, closures: bool = True, _seen: set[int] | None = None) -> Iterator[nn.Module | Tensor]:
    """The modules, and the tensors that want a gradient, which a transform reads without being a module.

    They are found in its attributes, in containers, bound methods and partial functions, and, unless
    `closures` is False, in what local functions close over.
    """
    seen = set() if _seen is None else _seen
    if id(value) in seen:
        return
    seen.add(id(value))
    inside: tuple[Any, ...] = ()
    if isinstance(value, nn.Module) or (isinstance(value, Tensor) and value.requires_grad):
        yield value
    elif isinstance(value, Transform):
        inside = tuple(vars(value).values())
    elif isinstance(value, partial):
        inside = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        inside = (value.__self__,)
    elif isinstance(value, FunctionType) and closures:
        inside = tuple(cell.cell_contents for cell in value.__closure__ or ())
    elif isinstance(value, (list, tuple)):
        inside = tuple(value)
    elif isinstance(value, dict):
        inside = tuple(value.values())
    for each in inside:
        yield from hidden(each, closures, seen)


def _check_hides_nothing(part: Any) -> None:
    """Refuse a transform that is no module, but reads one, or a tensor to be trained that is no attribute."""
    attributes = [value for inner in nested(part) for value in vars(inner).values()]
    known = {id(value) for value in attributes if isinstance(value, Tensor)}
    for each in hidden(part):
        if id(each) not in known:
            raise InputError(
                f"`bijector` has a part, {type(part).__name__}, that is no module but reads a "
                f"{type(each).__name__} which nobody could save, move or train: pass the module that makes "
                "it (of zuko the lazy flow, `flow` and not `flow().transform`)."
            )
