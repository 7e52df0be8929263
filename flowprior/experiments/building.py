"""What bindings mean: scopes, macros and references, evaluated in gin's way without gin's global state.

A reference `@a/b/Name` stands for `Name` in the scope a/b, in which the bindings of `Name`, `a/Name` and
`a/b/Name` hold, the later of these over the earlier; without a scope it is called in that of its caller. A
called one, `@Name()`, is evaluated each time its value is needed; so is a macro, in the scope of its name.
"""

import pprint
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from flowprior.errors import InputError, shown
from flowprior.experiments.bindings import (
    CHOICES,
    Binding,
    Macro,
    Reference,
    check_value,
    is_literal,
    settled,
    signature_of,
)
from flowprior.experiments.plugins import blamed
from flowprior.registry import PARTS

MOST_VALUES = 100_000  # that all macros and references together may come to
DEEPEST = 50  # calls, and macros, within one another


class Builder:
    """Builds what `bindings` say, and keeps account of every setting that had an effect.

    Args:
        bindings: checked ones; of two for one parameter the later holds.
        table: what they name.

    Attributes:
        facts: values of parameters without a default that nobody gives, by "parameter" or "role.parameter",
            asked for when needed; None where there is none after all.
        settings: what had an effect so far, {key: value as the config spells it}, defaults included.
        values: the same with the literals that macros and choices come to.
    """

    def __init__(self, bindings: Sequence[Binding], table: Mapping[str, Callable[..., Any]]) -> None:
        self.bindings, self.table = bindings, table
        self.facts: Mapping[str, Callable[[], Any]] = {}
        self.settings: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self._bound: dict[tuple[str, str], dict[str, Binding]] = {}
        for binding in bindings:
            self._bound.setdefault((binding.scope, binding.target), {})[binding.parameter] = binding
        self._scope: tuple[str, ...] = ()
        self._open: list[str] = []  # what is being evaluated
        self._calls: list[str] = []  # what is being called
        self._count = 0  # of values so far

    @contextmanager
    def within(self, scope: tuple[str, ...] | None) -> Iterator[None]:
        """The scope of all that is called inside; None leaves it as it is."""
        before, self._scope = self._scope, self._scope if scope is None else scope
        try:
            yield
        finally:
            self._scope = before

    def call(self, name: str, /, *args: Any, role: str = "", **kwargs: Any) -> Any:
        """`name` of the table, called with these arguments, the bindings of the present scope, and facts.

        Raises:
            InputError: if an argument is missing, wrong or not taken, or if the code of a plugin raises.
        """
        if len(self._calls) >= DEEPEST:
            circle = ", ".join(dict.fromkeys(self._calls[-10:]))
            raise InputError(f"`{name}` is built within itself, by way of {circle}: name another part there.")
        self._calls.append(name)
        try:
            return self._call(name, args, role, kwargs)
        finally:
            self._calls.pop()

    def _call(self, name: str, args: tuple[Any, ...], role: str, kwargs: dict[str, Any]) -> Any:
        target = self.table[name]
        if abstract := getattr(target, "__abstractmethods__", ()):
            raise InputError(f"`{name}` must implement {', '.join(sorted(abstract))}.")
        signature = signature_of(target)
        try:
            given = signature.bind_partial(*args, **kwargs).arguments
        except TypeError:
            extra = [f"`{key}`" for key in kwargs if key not in signature.parameters]
            what = [*extra, f"{len(args)} arguments by position"][0]
            raise InputError(
                f"`{name}` stands where it is given {what}, which it does not take: name a part that does."
            ) from None
        arguments = {}
        for key, binding in self._bindings_of(name).items():
            if key in given:
                continue
            with self._opened(f"{'/'.join(self._scope)} {name}.{key}", binding):
                value = self.value(binding.value, role if name in CHOICES else key)
            if not binding.plain:
                check_value(binding, value, target)
            self._account(name, key, binding.value, value)
            arguments[key] = value
        for key, parameter in signature.parameters.items():
            if key in given or key in arguments or parameter.kind.name.startswith("VAR_"):
                continue
            if parameter.default is parameter.empty:
                arguments[key] = self._fact(name, role, key)
                self._account(name, key, arguments[key], arguments[key])
            elif is_literal(parameter.default):
                self._account(name, key, parameter.default, parameter.default)
        with blamed(f"`{name}` cannot be built") if name in PARTS else nullcontext():
            return target(*args, **arguments, **kwargs)

    def value(self, value: Any, role: str = "") -> Any:
        """`value` with its macros and references put in, in containers of its own; raises as `call`."""
        self._count += 1
        if self._count > MOST_VALUES:
            wrong = "come to" if not self._open else f"of {self._open[0].strip()} come to"
            raise InputError(
                f"The values {wrong} more than {MOST_VALUES:,} items: use fewer macros in macros."
            )
        if isinstance(value, Reference):
            *scope, name = value.name.split("/")

            def part(*args: Any, **kwargs: Any) -> Any:
                with self.within(tuple(scope) or None):
                    return self.call(name, *args, role=role, **kwargs)

            return part() if value.called else part
        if isinstance(value, Macro):
            outer, _, name = value.name.rpartition("/")
            binding = self._bound[outer, ""][name]
            with self._opened(f"%{value.name}", binding), self.within(tuple(value.name.split("/"))):
                found = self.value(binding.value, role)
            self.settings[binding.key] = binding.value
            self.values[binding.key] = settled(binding.value, found)
            return found
        if isinstance(value, Mapping):
            return {self.value(key, role): self.value(item, role) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.value(item, role) for item in value)
        return value

    def query(self, name: str, parameter: str) -> Any:
        """The value of a binding outside all scopes; an `InputError` if there is none."""
        binding = self._bound.get(("", name), {}).get(parameter)
        if binding is None:
            raise _missing(name, parameter)
        return self.value(binding.value, parameter)

    def text(self) -> str:
        """All settings that had an effect, as a config that repeats what was built."""
        lines: dict[str, list[str]] = {}
        for key in sorted(self.settings):
            spelled = pprint.pformat(self.settings[key], width=110, sort_dicts=False)
            lines.setdefault(key.rpartition(".")[0].lower(), []).append(f"{key} = {spelled}")
        return "\n\n".join("\n".join(lines[part]) for part in sorted(lines)) + "\n"

    def _bindings_of(self, name: str) -> dict[str, Binding]:
        found: dict[str, Binding] = {}
        for depth in range(len(self._scope) + 1):
            found |= self._bound.get(("/".join(self._scope[:depth]), name), {})
        return found

    @contextmanager
    def _opened(self, what: str, binding: Binding) -> Iterator[None]:
        if len(self._open) > DEEPEST:
            raise InputError(f"{binding.line}: `{binding.key}` is behind more than {DEEPEST} macros: set it.")
        if what in self._open:
            raise InputError(
                f"{binding.line}: `{binding.key}` (={shown(binding.value)}) is set by way of itself: give "
                "one of the bindings in the circle a value."
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
        self.settings[key], self.values[key] = spelled, settled(spelled, value)


def _missing(name: str, parameter: str) -> InputError:
    return InputError(f"`{name}` needs `{parameter}`: add a line `{name}.{parameter} = ...`.")
