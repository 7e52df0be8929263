"""The bindings of a config: what they are, whether their names are known and their values fit."""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flowprior.checks import nearest
from flowprior.errors import InputError


@dataclass(frozen=True)
class Reference:
    """`@scope/name` or `@scope/name()` in a config; its repr is gin's spelling."""

    name: str
    called: bool

    def __repr__(self) -> str:
        return f"@{self.name}{'()' if self.called else ''}"


@dataclass(frozen=True)
class Macro:
    """`%NAME` in a config."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Binding:
    """One line of a config: `scope/target.parameter = value`, or `NAME = value` where `target` is empty."""

    scope: str
    target: str
    parameter: str
    value: Any
    place: str

    @property
    def key(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.target}.{self.parameter}" if self.target else f"{scope}{self.parameter}"

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}"


def _walk(value: Any) -> Iterator[Any]:
    """`value` and everything inside it."""
    yield value
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _walk(item)


def check(bindings: Sequence[Binding], table: Mapping[str, Callable[..., Any]]) -> None:
    """Refuse unknown names, parameters and macros, unread macros, and values of the wrong type.

    Raises:
        InputError: one sentence that names the place, the value and the nearest valid name.
    """
    macros = {binding.key: binding.value for binding in bindings if not binding.target}
    used = set()
    for binding in bindings:
        for item in _walk(binding.value):
            if isinstance(item, Reference):
                _known(item.name.split("/")[-1], table, binding.place, "`{}` is unknown")
            elif isinstance(item, Macro):
                _known(item.name, macros, binding.place, "`%{}` is used but never set")
                used.add(item.name)
            elif isinstance(item, float) and not math.isfinite(item):
                raise InputError(f"{binding.place}: `{binding.key}` (={binding.value!r}) must be finite.")
    values = {binding.key: binding.value for binding in bindings}
    for binding in bindings:
        value = _settled(binding.value, values, binding.place)
        if not binding.target:
            if binding.key not in used and binding.key == "SIZE":
                raise InputError(f"{binding.place}: this config has one size only: leave `--size` out.")
            if binding.key not in used:
                raise InputError(
                    f"{binding.place}: nothing reads the macro `{binding.key}`"
                    f"{nearest(binding.key, used) or ': remove the line.'}"
                )
            continue
        _known(binding.target, table, binding.place, "`{}` is unknown")
        known = parameters_of(table[binding.target])
        _known(binding.parameter, known, binding.place, f"`{binding.target}` has no parameter `{{}}`")
        if not fits(value, known[binding.parameter]):
            hint = spell(known[binding.parameter])
            raise InputError(f"{binding.place}: `{binding.key}` (={value!r}) must be {hint}.")


def _known(name: str, options: Iterable[str], place: str, what: str) -> None:
    """Refuse a `name` that is none of `options`, with the nearest of them, or all."""
    if name not in options:
        offer = nearest(name, options) or f": there are {', '.join(sorted(options)) or 'none'}."
        raise InputError(f"{place}: {what.format(name)}{offer}")


def _settled(value: Any, values: Mapping[str, Any], place: str, depth: int = 0) -> Any:
    """The literal behind a macro or a choice by size or data set; the reference itself where none is."""
    if depth > len(values):
        raise InputError(f"{place}: {value!r} is set by way of itself: give one of the macros a value.")
    if isinstance(value, Macro):
        return _settled(values[value.name], values, place, depth + 1)
    if isinstance(value, Reference) and value.called and value.name.endswith("/by_size"):
        chosen = values.get(f"{value.name}.{values.get('SIZE')}", value)
        return value if chosen is value else _settled(chosen, values, place, depth + 1)
    if isinstance(value, Reference) and value.called and value.name.endswith("/by_data"):
        options = values.get(f"{value.name}.values", {})
        chosen = options.get(values.get("DATA"), value) if isinstance(options, dict) else value
        return value if chosen is value else _settled(chosen, values, place, depth + 1)
    return value


def parameters_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Parameter name -> annotation of what a config may build; `Any` where there is none to be had."""
    function = getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009 (mypy)
    parameters = inspect.signature(target).parameters.values()
    return {p.name: _hint(p.annotation, function) for p in parameters if p.kind is not p.VAR_KEYWORD}


def _hint(annotation: Any, function: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        namespace = types.SimpleNamespace(__annotations__={"it": annotation})
        return typing.get_type_hints(namespace, globalns=function.__globals__)["it"]
    except NameError:  # a name that exists only for the type checker
        return Any


def fits(value: Any, hint: Any) -> bool:
    """Whether a literal of a config suits the annotation `hint`; True where that cannot be told."""
    if isinstance(value, Reference | Macro) or hint is Any or isinstance(hint, typing.TypeVar | str):
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
