"""The bindings of a config: what they are, whether their names are known and their values fit."""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
    """One line of a config: `scope/target.parameter = value`, or `NAME = value` where `target` is empty.

    `line` says where it stands, for error sentences.
    """

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
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            yield from _walk(item)


def check(bindings: Sequence[Binding], table: Mapping[str, Callable[..., Any]]) -> None:
    """Refuse unknown names, parameters and macros, unread macros, and literals of the wrong type.

    Values with references or macros in them are checked by `check_value` when they are evaluated.

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
    """Refuse a `name` that is none of `options`, with the nearest of them, or all."""
    if name not in options:
        offer = nearest(name, options) or f": there are {', '.join(sorted(options)) or 'none'}."
        raise InputError(f"{line}: {what.format(name)}{offer}")


def check_value(binding: Binding, value: Any, target: Callable[..., Any]) -> None:
    """Refuse a `value` that does not suit the annotation of the bound parameter of `target`.

    Raises:
        InputError: with the line and the type expected.
    """
    hint = hints_of(target)[binding.parameter]
    if not fits(value, hint):
        raise InputError(f"{binding.line}: `{binding.key}` (={value!r}) must be {spell(hint)}.")


@cache
def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Parameter name -> annotation of what a config may build; `Any` where there is none to be had."""
    function = inspect.unwrap(getattr(target, "__init__") if isinstance(target, type) else target)  # noqa: B009 (mypy)
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
    """Whether `value` suits the annotation `hint`, strictly: no bool for an int, no list for a tuple.

    True where that cannot be told, as of a protocol.
    """
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        strict = ConfigDict(strict=True, arbitrary_types_allowed=True)
        TypeAdapter(hint, config=strict).validate_python(value)
    except ValidationError:
        return False
    except (PydanticUserError, TypeError):
        return True
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
