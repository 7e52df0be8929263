"""A study: one config in several rows, what is measured of each, and which row should beat which."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from flowprior.errors import InputError, shown

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


@dataclass(frozen=True)
class Study:
    """What `flowprior compare` runs and shows: each row is a run of one config under bindings of its own.

    With `variants` each row exists once for each of them, under the name "variant/row".

    Args:
        rows: bindings by row name.
        configs: shipped config or path, for rows that do not start from the study's own config.
        variants: bindings by variant name, given before the row's.
        orders: sequences of row names, each row said to be better than the one before: twins, or a sweep.
        sweeps: lines of the figure "sweep", {line: {value of what is swept: row}}.
        metrics: names as for `flowprior eval`, of every row; or {variant: names}.
        figures: names of study figures.
        paper: the paper's figures, {row: {metric: value}}; with variants the row is "variant/row".
        samples: drawn for the distances.
        importance_samples: draws for each test example of iw_nll.

    Raises:
        InputError: if there are no rows or metrics, a name cannot be a folder's, or a row does not exist.

    >>> study = Study(rows={"a": (), "b": ("x.y = 1",)}, variants={"2d": ("N = 2",)}, orders=(("a", "b"),))
    >>> study.names, study.bindings("2d/b"), study.twins
    (('2d/a', '2d/b'), ('N = 2', 'x.y = 1'), (('2d/a', '2d/b'),))
    """

    rows: Mapping[str, tuple[str, ...]]
    configs: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    orders: Sequence[tuple[str, ...]] = ()
    sweeps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    metrics: tuple[str, ...] | Mapping[str, tuple[str, ...]] = ("reconstruction", "nll")
    figures: tuple[str, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    samples: int = 10_000
    importance_samples: int = 1000

    def __post_init__(self) -> None:
        if not self.rows or not self.metrics:
            raise InputError("A study needs rows and metrics: set `study.rows` and `study.metrics`.")
        if isinstance(self.metrics, Mapping) and set(self.metrics) != set(self.variants):
            raise InputError(
                f"`study.metrics` are of {', '.join(self.metrics)}, but the variants are "
                f"{', '.join(self.variants) or 'none'}: name metrics for each variant, or one tuple for all."
            )
        for name in (*self.rows, *self.variants):
            if not _NAME.fullmatch(name):
                fix = "use letters, digits and '_', '-', '.'."
                raise InputError(
                    f"`study` names a row or variant {shown(name)}, which cannot be a folder: {fix}"
                )
        named = [*self.configs, *(row for order in self.orders for row in order)]
        named += [row for line in self.sweeps.values() for row in line.values()]
        wrong = [row for row in named if row not in self.rows]
        wrong += [row for row in self.paper if row not in self.names]
        if wrong:
            raise InputError(f"`study` speaks of a row {wrong[0]!r}: there are {', '.join(self.rows)}.")

    @property
    def names(self) -> tuple[str, ...]:
        """All rows by their full names, variant by variant."""
        return tuple(start + row for start in self._starts for row in self.rows)

    @property
    def twins(self) -> tuple[tuple[str, str], ...]:
        """Full names of neighbors in `orders`: (the lesser row, the better row)."""
        pairs = [pair for order in self.orders for pair in pairwise(order)]
        return tuple((start + a, start + b) for start in self._starts for a, b in pairs)

    @property
    def _starts(self) -> list[str]:
        return [f"{variant}/" for variant in self.variants] or [""]

    def bindings(self, name: str) -> tuple[str, ...]:
        """What sets the row `name` apart."""
        variant, _, row = name.rpartition("/")
        return (*self.variants.get(variant, ()), *self.rows[row])

    def metrics_of(self, name: str) -> tuple[str, ...]:
        """What is measured of the row `name`."""
        return self.metrics[name.rpartition("/")[0]] if isinstance(self.metrics, Mapping) else self.metrics

    def config(self, name: str, default: str) -> str:
        """The config that the row `name` starts from."""
        return self.configs.get(name.rpartition("/")[2], default)
