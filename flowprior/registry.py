"""What can be named: parts, metrics, figures, data sets; ours and, by the same decorators, a user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, TypeVar, overload

Part = TypeVar("Part", bound=Callable[..., Any])
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """One metric of a trained model.

    Args:
        name, unit, summary: as `flowprior eval --metrics` takes it; of the values; what is measured.
        function: takes a `flowprior.evaluation.Evaluation`, returns values by name and facts. It runs without
            gradients after `torch.manual_seed` of the evaluation's seed; its warnings become notes.
        better: which direction is better, "lower" or "higher".
        needs: what the model and the data must have, and the networks made before any work, as
            `flowprior.evaluation` names them: "images", "prior density", "classifier", ...
        values: the values that it may return, each with its better direction.
        data: the data sets that it is defined on, by name; empty for all.
        undefined: what follows an `InputError` of the function, as where a density is not finite: "raise" it,
            or report the "worst" of every value with the error as a note.
    """

    name: str
    function: Callable[..., Any]
    better: Better
    unit: str
    needs: tuple[str, ...]
    values: Mapping[str, Better]
    data: tuple[str, ...]
    undefined: Literal["raise", "worst"]
    summary: str

    def direction(self, value: str) -> Better:
        """Which direction of one of the values is better."""
        return self.values.get(value, self.better)

    def worst(self, value: str) -> float:
        """The infinity that one of the values has where there is nothing to measure."""
        return inf if self.direction(value) == "lower" else -inf


@dataclass(frozen=True)
class Figure:
    """One figure of a run, or of a study.

    Args:
        name, function: as `flowprior plot` takes it; gathers and draws, from what its kind shares.
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


@dataclass(frozen=True)
class DataSet:
    """One data set that `Source` knows by name, and what it must know of it before anything is read.

    Args:
        function: reads a split: takes the source and whether it is the training split; returns a
            `flowprior.data.Split` or, of picture files, `flowprior.data.Pictures`.
        shape, context, classes: of a stored example, (C, H, W) or (D,), None where a side is not fixed; of a
            context, None in it for the same axis of the example, None if there is none; the names of the
            classes. What is missing is found out by reading the training split.
        context_from: computes the contexts (N, Cy, H, W) of images (N, C, H, W) in their final size.
        size, crop, resize: the defaults of `Source`'s arguments; "pad" holds where pictures grow.
        shaped_by: which of size, channels, crop and resize can be set; else the sentence says `because`.
        folder: whether `Source.folder` is "required", "optional" (by default the set's name) or "refused".
        layout: the files and where under the data root they belong, for the sentence that misses them.
        files: the remote files that may be downloaded, `flowprior.data.downloads.Remote`.
    """

    name: str
    function: Callable[..., Any]
    shape: tuple[int | None, ...] | None = None
    context: tuple[int | None, ...] | None = None
    classes: tuple[str, ...] | None = None
    context_from: Callable[..., Any] | None = None
    size: int | None = None
    crop: int | None = None
    resize: str | None = None
    shaped_by: tuple[str, ...] = ("size", "channels", "crop", "resize")
    because: str = ""
    folder: Literal["required", "optional", "refused"] = "refused"
    layout: str = ""
    files: Callable[[], Any] | None = None

    @property
    def summary(self) -> str:
        """What it holds: the first line of the function's docstring."""
        return _summary(self.function)


PARTS: dict[str, Callable[..., Any]] = {}
METRICS: dict[str, Metric] = {}
FIGURES: dict[tuple[str, str], Figure] = {}  # by ("run" or "study", name)
DATASETS: dict[str, DataSet] = {}


@overload
def register(part: Part) -> Part: ...


@overload
def register(*, name: str) -> Callable[[Part], Part]: ...


def register(part: Any = None, *, name: str | None = None) -> Any:
    """Make a class or function nameable in configs: `@register`, or `@register(name="Other")`.

    Raises, as the other decorators here:
        ValueError: if something else has that name already.
    """

    def enter(part: Part) -> Part:
        return _enter(PARTS, name or part.__name__, part, "part", part)

    return enter if part is None else enter(part)


def metric(
    name: str,
    *,
    better: Better,
    unit: str,
    needs: tuple[str, ...] = (),
    values: tuple[str, ...] | Mapping[str, Better] = (),
    data: tuple[str, ...] = (),
    undefined: Literal["raise", "worst"] = "raise",
    summary: str = "",
) -> Callable[[Part], Part]:
    """Make a function of the evaluation a metric: see `Metric`.

    The only value is called as the metric unless `values` says otherwise; a tuple of names shares the
    direction `better`. The first line of the function's docstring is the summary, unless there is another.
    """
    directions = values if isinstance(values, Mapping) else dict.fromkeys(values or (name,), better)

    def enter(function: Part) -> Part:
        about = summary or _summary(function)
        record = Metric(name, function, better, unit, needs, directions, data, undefined, about)
        return _enter(METRICS, name, record, "metric", function)

    return enter


def figure(
    name: str, *, needs: tuple[str, ...] = (), of: Literal["run", "study"] = "run"
) -> Callable[[Part], Part]:
    """Make a function a figure of a run or of a study: see `Figure`."""

    def enter(function: Part) -> Part:
        return _enter(FIGURES, (of, name), Figure(name, function, needs, of), "figure", function)

    return enter


def dataset(name: str, **facts: Any) -> Callable[[Part], Part]:
    """Make a function that reads a split a data set: see `DataSet`, whose fields `facts` are."""

    def enter(function: Part) -> Part:
        return _enter(DATASETS, name, DataSet(name, function, **facts), "data set", function)

    return enter


@contextmanager
def restored() -> Iterator[None]:
    """Afterwards what was registered inside is forgotten, but for flowprior's own, imported there first."""
    tables: tuple[dict[Any, Any], ...] = (PARTS, METRICS, FIGURES, DATASETS)
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            for key, entry in table.items():
                if str(_target(entry).__module__).startswith("flowprior."):
                    content[key] = entry
            table.clear()
            table.update(content)


def _enter(table: dict[Any, Any], key: Any, record: Any, kind: str, target: Part) -> Part:
    old = _target(table.get(key))
    if old is not None and (old.__module__, old.__qualname__) != (target.__module__, target.__qualname__):
        name = key if isinstance(key, str) else key[-1]
        wrong = f"of {target.__module__} is registered already, by {old.__module__}"
        raise ValueError(f"The {kind} '{name}' {wrong}: choose another name.")
    table[key] = record
    return target


def _target(entry: Any) -> Any:
    """The class or function behind an entry of a table, or behind its `partial`."""
    function = getattr(entry, "function", entry)
    return getattr(function, "func", function)


def _summary(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().split("\n", 1)[0]
