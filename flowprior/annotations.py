"""Names and annotations, said for users: does a value fit, which name was meant."""

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal


class Later:
    """A value that is known only once it is built, such as `@Name()` in a config: it fits everywhere."""


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


def parameters_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Parameter name -> annotation (`Any` where there is none) of what a config may build."""
    function = target.__init__ if isinstance(target, type) else target
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # an annotation that exists only for the type checker
        hints = {}
    names = [p.name for p in inspect.signature(target).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return {name: hints.get(name, Any) for name in names}


def fits(value: Any, hint: Any) -> bool:
    """Whether a literal of a config can be given where `hint` is annotated; True where that cannot be told."""
    if isinstance(value, Later) or hint is Any or isinstance(hint, typing.TypeVar | str):
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (
            len(arguments) != 2
            or all(fits(k, arguments[0]) and fits(v, arguments[1]) for k, v in value.items())
        )
    if kind is tuple:
        if not isinstance(value, tuple) or not arguments:
            return isinstance(value, tuple)
        if arguments[-1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if issubclass(kind, Iterable) and not issubclass(kind, str):
        return isinstance(value, list | tuple) and (
            len(arguments) != 1 or all(fits(item, arguments[0]) for item in value)
        )
    if issubclass(kind, Path):
        return isinstance(value, str | Path)
    return isinstance(value, kind)


def spell(hint: Any) -> str:
    """An annotation as a user would say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(option) for option in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(spell(option) for option in arguments)
    if hint in (None, type(None)):
        return "None"
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a tuple of {spell(arguments[0])}"
    if isinstance(hint, type) and origin is None:
        return hint.__name__
    return re.sub(r"\b(?:[a-z_]\w*\.)+", "", str(hint))
