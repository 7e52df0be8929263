"""The bindings of a config: what they are, whether their names are known and their values fit."""

import collections.abc
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

from torch import nn

from flowprior.checks import nearest
from flowprior.errors import InputError, clip, shown

MOST_BINDINGS = 5_000  # of a config
MOST_ITEMS = 10_000  # of one value
LONGEST = 500  # characters of a name with its scopes
CHOICES = ("by_size", "by_data")  # what stands for one of its values, which plays the role of the choice
DEEPEST = 20  # brackets in one another


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
    return (item for item, _ in _walk_down(value, 0))


def _walk_down(value: Any, depth: int) -> Iterator[tuple[Any, int]]:
    """The same, each with the number of brackets around it."""
    yield value, depth
    inside = chain(*value.items()) if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple):
        for item in inside:
            yield from _walk_down(item, depth + 1)


def _check_extent(binding: Binding) -> None:
    """Refuse a value that is nested too deeply, has too many items, or an int of more than 64 bits."""
    what = f"{binding.line}: `{clip(binding.key, 80)}`"
    if len(binding.key) > LONGEST:
        raise InputError(f"{what} has a name of more than {LONGEST} characters: take a shorter one.")
    for count, (item, depth) in enumerate(_walk_down(binding.value, 0)):
        if depth > DEEPEST:
            raise InputError(f"{what} has more than {DEEPEST} brackets in one another: take fewer.")
        if count > MOST_ITEMS:
            raise InputError(f"{what} has more than {MOST_ITEMS:,} items: take fewer.")
        if isinstance(item, int) and not -(2**63) <= item < 2**64:
            raise InputError(f"{what} (={shown(binding.value)}) must fit into 64 bits.")


def check(bindings: Sequence[Binding], table: Mapping[str, Callable[..., Any]]) -> None:
    """Refuse unknown names, parameters and macros, unread macros, and literals of the wrong type.

    Raises:
        InputError: one sentence that names the line, the value and the nearest valid name.
    """
    if len(bindings) > MOST_BINDINGS:
        raise InputError(f"The config has more than {MOST_BINDINGS:,} bindings: leave some out.")
    for binding in bindings:
        _check_extent(binding)
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
                raise InputError(f"{binding.line}: `{binding.key}` (={shown(binding.value)}) must be finite.")
    for binding in bindings:
        if binding.target:
            _check_name(binding.target, table, binding.line, "`{}` is unknown")
            what = f"`{binding.target}` has no parameter `{{}}`"
            _check_name(binding.parameter, hints_of(table[binding.target]), binding.line, what)
            hint = hints_of(table[binding.target])[binding.parameter]
            if binding.plain:
                check_value(binding, binding.value, table[binding.target])
            else:
                _check_place(binding, binding.value, hint, table)
        elif binding.key not in used:
            if binding.key == "SIZE":
                raise InputError(f"{binding.line}: this config has one size only: leave `--size` out.")
            offer = nearest(binding.key, used) or ": remove the line."
            raise InputError(f"{binding.line}: nothing reads the macro `{binding.key}`{offer}")


def _check_place(binding: Binding, value: Any, hint: Any, table: Mapping[str, Callable[..., Any]]) -> None:
    """Refuse a reference where something else belongs, by the annotations: a part of another kind, one that
    is called where the part itself is wanted, or the other way round."""
    choices = _alternatives(hint)
    if isinstance(value, list | tuple):
        inner = [typing.get_args(each)[0] for each in choices if _holds_items(each)]
        for item in value if inner else ():
            _check_place(binding, item, inner[0], table)
        return
    if not isinstance(value, Reference) or Any in choices:
        return
    name = value.name.split("/")[-1]
    makers = [each for each in choices if typing.get_origin(each) is collections.abc.Callable]
    kinds = [k for each in makers for k in _alternatives(typing.get_args(each)[1])] if makers else choices
    made = made_by(table[name])
    what = f"{binding.line}: `{binding.key}` (={value!r})"
    if made is Any:
        return
    if not any(_is_kind(made, kind) for kind in kinds):
        if value.called and makers and "__call__" in dir(made):  # a maker of one's own
            return
        wanted = " or ".join(spell(kind) for kind in kinds if kind is not type(None))
        if any(map(_holds_items, kinds)):
            raise InputError(f"{what} must be a list: write `[{value!r}]`.")
        must = f"must {'make' if makers else 'be'} {wanted}, and `{name}` makes {spell(made)}"
        raise InputError(f"{what} {must}: name another part.")
    if value.called and makers:
        raise InputError(
            f"{what} has parentheses too many, since the part itself belongs there: write `@{value.name}`."
        )
    if not value.called and not makers:
        raise InputError(f"{what} must be made, not only named: write `@{value.name}()`.")


def made_by(target: Callable[..., Any]) -> Any:
    """What calling it gives: a class its own, a function what its annotation says, else `Any`."""
    if isinstance(target, type):
        return target
    with suppress(NameError, TypeError):
        return typing.get_type_hints(inspect.unwrap(target)).get("return", Any)
    return Any


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; any other annotation alone."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _holds_items(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Sequence)


def _is_kind(made: Any, kind: Any) -> bool:
    """Whether what is made can be of a kind; True where that cannot be told."""
    if not isinstance(made, type) or kind is Any or isinstance(kind, typing.TypeVar):
        return True
    if not isinstance(kind, type):  # a tuple of numbers, a choice of words
        return made in (int, float, str, tuple, list, dict, bool)
    try:
        return issubclass(made, kind)
    except TypeError:  # a protocol with attributes
        return True


def _check_name(name: str, options: Iterable[str], line: str, what: str) -> None:
    if name not in options:
        name = clip(name, 80)
        listed = clip(", ".join(sorted(options)) or "none", 200)
        raise InputError(f"{line}: {what.format(name)}{nearest(name, options) or f': there are {listed}.'}")


def check_value(binding: Binding, value: Any, target: Callable[..., Any]) -> None:
    """Refuse a `value` that does not suit the annotation of the bound parameter of `target` (InputError)."""
    hint = hints_of(target)[binding.parameter]
    if not fits(value, hint):
        got = shown(settled(binding.value, value))
        raise InputError(f"{binding.line}: `{binding.key}` (={got}) must be {spell(hint)}.")


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


def signature_of(target: Callable[..., Any]) -> inspect.Signature:
    """The signature of a part; a module without an `__init__` of its own takes nothing."""
    own = not isinstance(target, type) or getattr(target, "__init__") is not nn.Module.__init__  # noqa: B009 (mypy)
    return inspect.signature(target) if own else inspect.Signature()


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
