"""Checks of arguments: each raises an `InputError` that says the value got, what was expected, and `fix`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sized
from numbers import Integral, Real
from operator import ge, gt, le, lt
from typing import TYPE_CHECKING, TypeVar

from flowprior.errors import InputError, shown

if TYPE_CHECKING:  # `flowprior list` should not wait for torch
    from torch import Tensor

Value = TypeVar("Value")


def check_count(name: str, value: int, *, least: int = 1, most: int | None = None, fix: str = "") -> int:
    """`value`, an int (or an integer of NumPy's) of at least `least` and at most `most`.

    >>> check_count("epochs", 3)
    3
    """
    integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not integer or value < least or (most is not None and value > most):
        expected = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"
        raise _refused(name, value, expected, fix)
    return int(value)


def check_number(
    name: str,
    value: float,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    fix: str = "",
) -> float:
    """`value`, a finite number within the bounds: `above` < or `least` ≤ it, and it < `below` or ≤ `most`.

    >>> check_number("lr", 1e-3, above=0)
    0.001
    """
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    options = (("above", gt, above), ("of at least", ge, least), ("below", lt, below), ("at most", le, most))
    bounds = [(words, holds, bound) for words, holds, bound in options if bound is not None]
    if not number or not all(holds(value, bound) for _, holds, bound in bounds):
        limits = " and ".join(f"{words} {bound:g}" for words, _, bound in bounds)
        raise _refused(name, value, f"a finite number {limits}".rstrip(), fix)
    return float(value)


def check_one_of(name: str, value: Value, options: Iterable[object], fix: str = "") -> Value:
    """`value`, one of `options`; the sentence lists them."""
    known = tuple(options)
    if value not in known:
        raise _refused(name, value, f"one of {', '.join(map(repr, known))}", fix)
    return value


def check_known(kind: str, name: str, options: Iterable[str]) -> None:
    """Refuse a `name` of some `kind` ("metric", "figure") none of `options`; offer the nearest, or all."""
    known = tuple(options)
    if name not in known:
        offer = nearest(name, known) or f": there are {', '.join(known) or 'none'}."
        raise InputError(f"Unknown {kind} '{name}'{offer}")


def check_shapes(fix: str = "", /, **tensors: tuple[Tensor, str]) -> None:
    """Refuse tensors whose shapes are not as their patterns say, such as `x=(x, "N F"), y=(y, "M F")`.

    A pattern names axes; one name stands for one size in all tensors. `15` is a size, `N>1` an axis longer
    than 1, `*event` one or more axes, only at the end.

    >>> import torch
    >>> check_shapes(x=(torch.ones(5, 3), "N F"), y=(torch.ones(4, 2), "M F"))
    Traceback (most recent call last):
    flowprior.errors.InputError: `x` has shape (5, 3) and `y` (4, 2), but they must be (N, F) and (M, F).
    """
    sizes: dict[str, object] = {}
    if not all(_fits(tuple(tensor.shape), pattern.split(), sizes) for tensor, pattern in tensors.values()):
        given = [f"`{name}` has shape {tuple(tensor.shape)}" for name, (tensor, _) in tensors.items()]
        shapes = " and ".join([given[0], *(each.replace("has shape ", "") for each in given[1:])])
        patterns = [pattern.replace(" ", ", ").replace(">", " > ") for _, pattern in tensors.values()]
        wanted = [f"({axes})" if "," in axes else f"({axes},)" for axes in patterns]
        must = "but must be" if len(given) == 1 else ", but they must be"
        raise InputError(f"{shapes} {must} {' and '.join(wanted)}{_end(fix)}".replace(" ,", ","))


def _fits(shape: tuple[int, ...], axes: list[str], sizes: dict[str, object]) -> bool:
    """Whether a shape is as its axes say, given the sizes seen so far; its own are entered there."""
    if axes and axes[-1].startswith("*"):
        *first, event = axes
        rest = shape[len(first) :]
        return (
            bool(rest) and sizes.setdefault(event, rest) == rest and _fits(shape[: len(first)], first, sizes)
        )
    if len(shape) != len(axes):
        return False
    for size, axis in zip(shape, axes, strict=True):
        name, _, least = axis.partition(">")
        if size != (int(name) if name.isdigit() else sizes.setdefault(name, size)):
            return False
        if least and size <= int(least):
            return False
    return True


def check_rows(name: str, value: Sized, count: int, what: str) -> None:
    """Refuse a `value` that does not have a row for each of `count` examples, `what` they are called."""
    if len(value) != count:
        raise InputError(f"`{name}` has {len(value)} rows but must have one for each of the {count} {what}.")


def check_finite(name: str, values: Tensor, fix: str) -> None:
    """Refuse rows (N, ...) that hold NaN or infinity; the sentence tells how many, and the first."""
    finite = values.isfinite().reshape(len(values), -1).all(1)
    if not finite.all():
        bad = finite.logical_not().nonzero().flatten().tolist()
        rows = f"{len(bad)} of {len(values)} rows, first in row {bad[0]}"
        raise InputError(f"`{name}` holds NaN or infinity in {rows}: {fix}.")


def check_images(name: str, images: Tensor) -> None:
    """Refuse anything but images (N, 1 or 3, H, W), uint8 or floats."""
    import torch

    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"`{name}` has shape {tuple(images.shape)} but must be (N, 1 or 3, H, W): reshape it."
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"`{name}` is {images.dtype} but must be floats in [0, 1] or uint8: convert it.")


def nearest(name: str, options: Iterable[str]) -> str:
    """The end of a sentence that offers the valid names closest to `name`; empty where nothing is close.

    >>> nearest("FlowPrio", ["FlowPrior", "Autoencoder"])
    ': did you mean `FlowPrior`?'
    """
    lowered = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    if not close:  # `digits` should find `glf/digits`
        close = [low for low in lowered if name and name.lower() in low][:3]
    return ": did you mean " + " or ".join(f"`{lowered[match]}`" for match in close) + "?" if close else ""


def _refused(name: str, value: object, expected: str, fix: str) -> InputError:
    return InputError(f"`{name}` (={shown(value)}) must be {expected}{_end(fix)}")


def _end(fix: str) -> str:
    return f": {fix}." if fix else "."
