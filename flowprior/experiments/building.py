"""What bindings mean: scopes, macros and references, evaluated in gin's way without gin's global state.

A reference `@a/b/Name` stands for `Name` in the scope a/b, in which the bindings of `Name`, `a/Name` and
`a/b/Name` hold, the later of these over the earlier; without a scope it is called in that of its caller. A
called one, `@Name()`, is evaluated each time its value is needed; so is a macro, in the scope of its name.
"""

import inspect
import math
import pprint
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flowprior.errors import InputError
from flowprior.experiments.bindings import Binding, Macro, Reference, check_value

CHOICES = ("by_size", "by_data")
"""What stands for one of its values: that plays the role of the choice."""

Table = Mapping[str, Callable[..., Any]]
Facts = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Part:
    """What `@scope/name` stands for: called, it takes from the bindings what its caller leaves open.

    Args:
        builder: knows the bindings.
        name: in the builder's table.
        scope: in which it is called; None for that of its caller.
        role: the parameter that it was bound to, such as "encoder".
    """

    builder: "Builder"
    name: str
    scope: tuple[str, ...] | None = None
    role: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.builder.within(self.scope):
            return self.builder.call(self.name, *args, role=self.role, **kwargs)


class Builder:
    """Builds what `bindings` say, and keeps account of every setting that had an effect.

    Args:
        bindings: checked ones; of two for one parameter the later holds.
        table: what they name.
        facts: for parameters without a default that neither the caller nor a binding gives: their values, by
            "parameter" or by "role.parameter", asked for when needed; None where there is none after all.

    Attributes:
        settings: what had an effect so far, {key: value as the config spells it}, defaults included.
        values: the same with the literals that macros and choices come to.
    """

    def __init__(self, bindings: Sequence[Binding], table: Table, facts: Facts | None = None) -> None:
        self.bindings, self.table, self.facts = bindings, table, facts or {}
        self.settings: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self._bound: dict[tuple[str, str], dict[str, Binding]] = {}
        for binding in bindings:
            self._bound.setdefault((binding.scope, binding.target), {})[binding.parameter] = binding
        self._scope: tuple[str, ...] = ()
        self._open: list[str] = []  # what is being evaluated

    @contextmanager
    def within(self, scope: tuple[str, ...] | None) -> Iterator[None]:
        """The scope of all that is called inside; None leaves it as it is."""
        before = self._scope
        self._scope = before if scope is None else scope
        try:
            yield
        finally:
            self._scope = before

    def call(self, name: str, /, *args: Any, role: str = "", **kwargs: Any) -> Any:
        """`name` of the table, called with these arguments, the bindings of the present scope, and facts.

        Raises:
            InputError: if an argument is missing, of the wrong type, or not one that it takes.
        """
        target = self.table[name]
        abstract = getattr(target, "__abstractmethods__", ())
        if abstract:
            raise InputError(f"`{name}` must implement {', '.join(sorted(abstract))}.")
        parameters = inspect.signature(target).parameters
        given = _names_given(name, parameters, args, kwargs)
        bound = {key: binding for key, binding in self._bindings_of(name).items() if key not in given}
        arguments = {}
        for key, binding in bound.items():
            with self._opened(f"{'/'.join(self._scope)} {name}.{key}", binding):
                value = self.value(binding.value, role if name in CHOICES else key)
            if not binding.plain:
                check_value(binding, value, target)
            self._account(name, key, binding.value, value)
            arguments[key] = value
        for key, parameter in parameters.items():
            if (
                key in given
                or key in bound
                or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            ):
                continue
            if parameter.default is parameter.empty:
                arguments[key] = self._fact(name, role, key)
                self._account(name, key, arguments[key], arguments[key])
            elif _is_literal(parameter.default):
                self._account(name, key, parameter.default, parameter.default)
        return target(*args, **arguments, **kwargs)

    def value(self, value: Any, role: str = "") -> Any:
        """`value` with its macros and references put in, in containers of its own.

        Raises:
            InputError: if a macro is set by way of itself, or a part cannot be built.
        """
        if isinstance(value, Reference):
            *scope, name = value.name.split("/")
            part = Part(self, name, tuple(scope) or None, role)
            return part() if value.called else part
        if isinstance(value, Macro):
            outer, _, name = value.name.rpartition("/")
            binding = self._bound[outer, ""][name]
            with self._opened(f"%{value.name}", binding), self.within(tuple(value.name.split("/"))):
                found = self.value(binding.value, role)
            self.settings[binding.key], self.values[binding.key] = (
                binding.value,
                _settled(binding.value, found),
            )
            return found
        if isinstance(value, Mapping):
            return {self.value(key, role): self.value(item, role) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.value(item, role) for item in value)
        return value

    def query(self, name: str, parameter: str) -> Any:
        """The value of a binding outside all scopes.

        Raises:
            InputError: if there is none.
        """
        binding = self._bound.get(("", name), {}).get(parameter)
        if binding is None:
            raise _missing(name, parameter)
        return self.value(binding.value, parameter)

    def text(self) -> str:
        """All settings that had an effect, as a config that repeats what was built."""
        groups: dict[tuple[bool, str], list[str]] = {}
        for key in sorted(self.settings):
            part = key.rpartition(".")[0]
            groups.setdefault((bool(part), part.lower()), []).append(
                f"{key} = {_spelled(self.settings[key])}"
            )
        return "\n\n".join("\n".join(groups[group]) for group in sorted(groups)) + "\n"

    def _bindings_of(self, name: str) -> dict[str, Binding]:
        found: dict[str, Binding] = {}
        for depth in range(len(self._scope) + 1):
            found |= self._bound.get(("/".join(self._scope[:depth]), name), {})
        return found

    @contextmanager
    def _opened(self, what: str, binding: Binding) -> Iterator[None]:
        if what in self._open:
            raise InputError(
                f"{binding.line}: `{binding.key}` (={binding.value!r}) is set by way of itself: give one of "
                "the bindings in the circle a value."
            )
        self._open.append(what)
        try:
            yield
        finally:
            self._open.pop()

    def _fact(self, name: str, role: str, key: str) -> Any:
        ask = self.facts.get(f"{role}.{key}", self.facts.get(key, lambda: None))
        found = None if role == "source" else ask()  # the facts are asked of the source
        if found is None:
            raise _missing(name, key)
        return found

    def _account(self, name: str, parameter: str, spelled: Any, value: Any) -> None:
        key = "/".join((*self._scope, f"{name}.{parameter}"))
        self.settings[key], self.values[key] = spelled, _settled(spelled, value)


def _names_given(
    name: str, parameters: Mapping[str, inspect.Parameter], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> set[str]:
    """The parameters that the caller gives, who must not give more than there are."""
    kinds = {parameter.kind for parameter in parameters.values()}
    positional = [
        key
        for key, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    extra = [f"`{key}`" for key in kwargs if key not in parameters]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        extra = []
    if len(args) > len(positional) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        extra.append(f"{len(args)} arguments by position")
    if extra:
        raise InputError(
            f"`{name}` stands where it is given {extra[0]}, which it does not take: name something there "
            "that does."
        )
    return {*positional[: len(args)], *kwargs}


def _missing(name: str, parameter: str) -> InputError:
    return InputError(f"`{name}` needs `{parameter}`: add a line `{name}.{parameter} = ...`.")


def _is_literal(value: Any) -> bool:
    """Whether a config can spell `value`."""
    if isinstance(value, Mapping):
        return all(map(_is_literal, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple):
        return all(map(_is_literal, value))
    return (
        value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    )


def _settled(spelled: Any, value: Any) -> Any:
    """The literal that a value comes to; where it is none, its spelling."""
    return value if _is_literal(value) else spelled


def _spelled(value: Any) -> str:
    return pprint.pformat(value, width=110, sort_dicts=False)
