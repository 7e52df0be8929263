"""Training curves from the metrics that a run wrote."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowprior.errors import InputError
from flowprior.plots.style import COLORS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = dict[str, tuple[np.ndarray, np.ndarray]]
"""name -> (steps, values), as `read_metrics` gives them."""

_IN_NATS = ("loss", "reconstruction", "nll", "entropy", "kl", "elbo", "log_prob")
_ACRONYMS = ("nll", "kl", "elbo", "fid", "mmd")
_SMOOTH = 200  # a curve with more points than this is drawn faintly, with its running mean on top


def read_metrics(path: Path) -> Metrics:
    """The columns step, name and value of a run's metrics.csv, by name and in the order of first appearance.

    A last line cut short by a crash is left out.

    Raises:
        InputError: if the file is missing, has other columns, no row, or a value that is no number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise InputError(f"There are no metrics at {str(path)!r} ({error.strerror}): train first.") from error
    if len(rows) < 2 or rows[0] != ["step", "name", "value"]:
        found = ",".join(rows[0]) if rows else "nothing"
        raise InputError(
            f"{str(path)!r} opens with {found!r} and has {max(len(rows) - 1, 0)} rows, but must hold the "
            "columns step,name,value and at least one row: pass the metrics.csv of a run."
        )
    series: dict[str, list[tuple[float, float]]] = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            step, name, value = row
            series.setdefault(name, []).append((float(step), float(value)))
        except ValueError as error:
            if number == len(rows):
                break
            raise InputError(
                f"{str(path)!r} has {','.join(row)!r} in line {number} but needs step,name,value: mend it."
            ) from error
    columns = {name: np.array(points) for name, points in series.items() if points}
    return {name: (points[:, 0], points[:, 1]) for name, points in columns.items()}


def training_curves(
    runs: Mapping[str, Metrics], terms: Sequence[str] | None = None, *, title: str | None = None
) -> Figure:
    """One panel per term, one line per run and split, as GLF Fig. 3 and 4.

    A metric's name ends in its term, "validation/nll" in "nll"; what stands before it labels the line.

    Args:
        runs: run name -> metrics; one run's name is left out of the labels.
        terms: the panels wanted, in order; all by default.
        title: a line above the panels.

    Raises:
        InputError: if there are no runs, or a term in none of them.
    """
    present = list(dict.fromkeys(_term(name) for metrics in runs.values() for name in metrics))
    missing = [term for term in terms or () if term not in present]
    if not present or missing:
        raise InputError(
            f"`terms` (={list(terms or ())}) must be among the logged ones, which are "
            f"{', '.join(present) or 'none'}: pass some of these."
        )
    wanted = list(terms or present)
    columns = min(3, len(wanted))
    figure, axes = panels(math.ceil(len(wanted) / columns), columns, 3.6, 2.7)
    for ax in axes[len(wanted) :]:
        ax.remove()
    for ax, term in zip(axes, wanted, strict=False):
        lines = [
            (_label(run if len(runs) > 1 else "", name), *points)
            for run, metrics in runs.items()
            for name, points in metrics.items()
            if _term(name) == term
        ]
        _panel(ax, term, lines)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _term(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _label(run: str, name: str) -> str:
    return " ".join(part for part in (run, *name.split("/")[:-1]) if part)


def _panel(ax: Axes, term: str, lines: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    for i, (label, steps, values) in enumerate(lines):
        color = COLORS[i % len(COLORS)]
        if len(values) > _SMOOTH:
            ax.plot(steps, values, color=color, alpha=0.2, linewidth=0.6)
            ax.plot(steps, _running_mean(values), color=color, linewidth=1.4, label=label)
        else:
            marker = "o" if len(values) == 1 else None
            ax.plot(steps, values, color=color, linewidth=1.4, marker=marker, markersize=3, label=label)
    _limit_to_bulk(ax, [values for _, _, values in lines])
    ax.set_title(term.upper() if term in _ACRONYMS else term.replace("_", " "), fontsize=10)
    ax.set_xlabel("step", fontsize=8)
    if term in _IN_NATS:
        ax.set_ylabel("nats per example", fontsize=8)
    ax.grid(True, color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    if any(label for label, _, _ in lines):
        ax.legend(fontsize=7, frameon=False)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a fiftieth of the curve around each point, of what there is of it at the ends."""
    window = np.ones(len(values) // 50)
    return np.convolve(values, window, mode="same") / np.convolve(np.ones(len(values)), window, mode="same")


def _limit_to_bulk(ax: Axes, series: Sequence[np.ndarray]) -> None:
    """Leave the spike of the first steps out of the range, so that the rest can be read."""
    finite = np.concatenate([values[np.isfinite(values)] for values in series])
    if len(finite) < 20:
        return
    low, high = np.quantile(finite, [0.005, 0.98])
    if np.max(finite) - low > 4 * (high - low) > 0:
        margin = 0.05 * (high - low)
        ax.set_ylim(min(low, float(finite.min())) - margin, high + margin)
