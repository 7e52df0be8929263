"""What arguments are checked for, each sentence written once: the value got, what was expected, the fix."""

import difflib
import math
from collections.abc import Iterable

from flowprior.errors import InputError


def check_count(name: str, value: int, *, least: int = 1) -> int:
    """`value`, an int of at least `least`.

    Raises:
        InputError: if it is anything else.

    >>> check_count("epochs", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"`{name}` (={value!r}) must be an int of at least {least}.")
    return value


def check_number(name: str, value: float, *, above: float | None = None, least: float | None = None) -> float:
    """`value`, a finite number above `above` or of at least `least`.

    Raises:
        InputError: if it is anything else.

    >>> check_number("lr", 1e-3, above=0)
    0.001
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or (above is not None and value <= above) or (least is not None and value < least):
        bound = f"above {above}" if above is not None else f"of at least {least}"
        raise InputError(f"`{name}` (={value!r}) must be a finite number {bound}.")
    return value


def check_one_of(name: str, value: object, options: Iterable[object]) -> None:
    """Refuse a `value` of the argument `name` that is none of `options`.

    Raises:
        InputError: the sentence lists the options.
    """
    known = tuple(options)
    if value not in known:
        raise InputError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, known))}.")


def check_known(kind: str, name: str, options: Iterable[str]) -> None:
    """Refuse a `name` of some `kind` ("metric", "figure") that is none of `options`.

    Raises:
        InputError: with the nearest of them, or all.
    """
    known = tuple(options)
    if name not in known:
        offer = nearest(name, known) or f": there are {', '.join(known) or 'none'}."
        raise InputError(f"Unknown {kind} '{name}'{offer}")


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
