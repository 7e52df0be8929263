"""The bindings of a config: what they are, whether their names are known and their values fit."""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import chain
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
    """`scope/target.parameter = value`, or `NAME = value` where `target` is empty; `line` says where."""

    scope: str
    target: str
    parameter: str
    value: Any
    line: str

    @property
    def key(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.target}.{self.parameter}" if self.target else f"{scope}{self.parameter}"

    @property
    def plain(self) -> bool:
        """Whether the value is a literal without references and macros."""
        return not any(isinstance(item, Reference | Macro) for item in _walk(self.value))


def _walk(value: Any) -> Iterator[Any]:
    """`value` and everything inside it."""
    yield value
    inside = chain(*value.items()) if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple):
        for item in inside:
            yield from _walk(item)


def check(bindings: Sequence[Binding], table: Mapping[str, Callable[..., Any]]) -> None:
    """Refuse unknown names, parameters and macros, unread macros, and literals of the wrong type.

    Raises:
        InputError: one sentence that names the line, the value and the nearest valid name.
    """
    macros = {binding.key for binding in bindings if not binding.target}
    used = set()
    for binding in bindings:
        for item in _walk(binding.value):
            if isinstance(item, Reference):
                _check_name(item.name.split("/")[-1], table, binding.line, "`{}` is unknown")
            elif isinstance(item, Macro):
                _check_name(item.name, macros, binding.line, "`%{}` is used but never set")
                used.add(item.name)
            elif isinstance(item, float) and not math.isfinite(item):
                raise InputError(f"{binding.line}: `{binding.key}` (={binding.value!r}) must be finite.")
    for binding in bindings:
        if binding.target:
            _check_name(binding.target, table, binding.line, "`{}` is unknown")
            what = f"`{binding.target}` has no parameter `{{}}`"
            _check_name(binding.parameter, hints_of(table[binding.target]), binding.line, what)
            if binding.plain:
                check_value(binding, binding.value, table[binding.target])
        elif binding.key not in used:
            if binding.key == "SIZE":
                raise InputError(f"{binding.line}: this config has one size only: leave `--size` out.")
            offer = nearest(binding.key, used) or ": remove the line."
            raise InputError(f"{binding.line}: nothing reads the macro `{binding.key}`{offer}")


def _check_name(name: str, options: Iterable[str], line: str, what: str) -> None:
    if name not in options:
        offer = nearest(name, options) or f": there are {', '.join(sorted(options)) or 'none'}."
        raise InputError(f"{line}: {what.format(name)}{offer}")


def check_value(binding: Binding, value: Any, target: Callable[..., Any]) -> None:
    """Refuse a `value` that does not suit the annotation of the bound parameter of `target` (InputError)."""
    hint = hints_of(target)[binding.parameter]
    if not fits(value, hint):
        shown = settled(binding.value, value)
        raise InputError(f"{binding.line}: `{binding.key}` (={shown!r}) must be {spell(hint)}.")


def is_literal(value: Any) -> bool:
    """Whether a config can spell `value`."""
    if isinstance(value, Mapping):
        return all(map(is_literal, chain(*value.items())))
    if isinstance(value, list | tuple):
        return all(map(is_literal, value))
    return (
        value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    )


def settled(spelled: Any, value: Any) -> Any:
    """The literal that a value comes to; where it is none, its spelling."""
    return value if is_literal(value) else spelled


@cache
def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Parameter name -> annotation; `Any` where there is none, or only the type checker knows its names."""
    function = inspect.unwrap(getattr(target, "__init__") if isinstance(target, type) else target)  # noqa: B009 (mypy)
    parameters = inspect.signature(target).parameters.values()
    hints: dict[str, Any] = {p.name: Any for p in parameters if p.kind is not p.VAR_KEYWORD}
    for p in parameters:
        if p.name in hints and p.annotation is not p.empty:
            namespace = types.SimpleNamespace(__annotations__={p.name: p.annotation})
            with suppress(NameError):
                hints |= typing.get_type_hints(namespace, globalns=function.__globals__)
    return hints


def fits(value: Any, hint: Any) -> bool:
    """Whether `value` suits the annotation, strictly: no bool for an int; True where that cannot be told."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    strict = ConfigDict(strict=True, arbitrary_types_allowed=True)
    try:
        with suppress(PydanticUserError, TypeError):
            TypeAdapter(hint, config=strict).validate_python(value)
    except ValidationError:
        return False
    return True


def spell(hint: Any) -> str:
    """An annotation as a user would say it.

    >>> spell(tuple[int, ...] | None)
    'a tuple of int or None'
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(spell, arguments))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a tuple of {spell(arguments[0])}"
    return re.sub(r"\b(?:[a-z_]\w*\.)+", "", inspect.formatannotation(hint)).replace("NoneType", "None")
