"""What can be named: parts of a config, metrics, figures; ours and, by the same decorators, a user's.

Everything that lists, checks, prepares or documents them reads these records. This module imports nothing of
flowprior's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

Part = TypeVar("Part", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """One metric of a trained model.

    Args:
        name: as `flowprior eval --metrics` takes it.
        function: takes the evaluation (model, data, draws, feature networks), returns values and facts.
        better: which direction is better, "lower" or "higher".
        unit: of the values.
        needs: what the model, the data or the machine must have, as `flowprior.evaluation` names it.
        values: names of the values that it returns; by default its own.
    """

    name: str
    function: Callable[..., Any]
    better: Literal["lower", "higher"]
    unit: str
    needs: tuple[str, ...] = ()
    values: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What is measured: the first line of the function's docstring."""
        return _summary(self.function)


@dataclass(frozen=True)
class Figure:
    """One figure of a run, or of a study.

    Args:
        name: as `flowprior plot` takes it.
        function: gathers and draws; takes what the figures of its kind share.
        needs: what the model or the data must have, as `flowprior.figures` names it.
        of: what it shows: a "run" or a "study".
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...] = ()
    of: Literal["run", "study"] = "run"

    @property
    def summary(self) -> str:
        """What is shown: the first line of the function's docstring."""
        return _summary(self.function)


PARTS: dict[str, Callable[..., Any]] = {}
METRICS: dict[str, Metric] = {}
FIGURES: dict[tuple[str, str], Figure] = {}  # by ("run" or "study", name)


@overload
def register(part: Part) -> Part: ...


@overload
def register(*, name: str) -> Callable[[Part], Part]: ...


def register(part: Any = None, *, name: str | None = None) -> Any:
    """Make a class or function nameable in configs: `@register`, or `@register(name="Other")`.

    Raises:
        ValueError: if something else has that name already.
    """

    def enter(part: Part) -> Part:
        _enter(PARTS, name or part.__name__, part, "part", part)
        return part

    return enter if part is None else enter(part)


def metric(
    name: str,
    *,
    better: Literal["lower", "higher"],
    unit: str,
    needs: tuple[str, ...] = (),
    values: tuple[str, ...] = (),
) -> Callable[[Part], Part]:
    """Make a function of the evaluation a metric: see `Metric`.

    Raises:
        ValueError: if another metric has that name already.
    """

    def enter(function: Part) -> Part:
        _enter(
            METRICS, name, Metric(name, function, better, unit, needs, values or (name,)), "metric", function
        )
        return function

    return enter


def figure(
    name: str, *, needs: tuple[str, ...] = (), of: Literal["run", "study"] = "run"
) -> Callable[[Part], Part]:
    """Make a function a figure of a run or of a study: see `Figure`.

    Raises:
        ValueError: if another figure of that kind has that name already.
    """

    def enter(function: Part) -> Part:
        _enter(FIGURES, (of, name), Figure(name, function, needs, of), "figure", function)
        return function

    return enter


@contextmanager
def restored() -> Iterator[None]:
    """Afterwards what was registered inside is forgotten, but for flowprior's own, imported there first."""
    tables: tuple[dict[Any, Any], ...] = (PARTS, METRICS, FIGURES)
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            own = {k: each for k, each in table.items() if _target(each).__module__.startswith("flowprior.")}
            table.clear()
            table.update(content | own)


def _enter(table: dict[Any, Any], key: Any, record: Any, kind: str, target: Callable[..., Any]) -> None:
    old = _target(table.get(key))
    if old is not None and (old.__module__, old.__qualname__) != (target.__module__, target.__qualname__):
        name = key if isinstance(key, str) else key[-1]
        raise ValueError(
            f"The {kind} '{name}' of {target.__module__} is registered already, by {old.__module__}: "
            "choose another name."
        )
    table[key] = record


def _target(entry: Any) -> Any:
    """The class or function behind an entry of a table."""
    return getattr(entry, "function", entry)


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().split("\n", 1)[0]
