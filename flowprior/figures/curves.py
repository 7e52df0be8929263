"""The figure "curves": what a run logged while it trained."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowprior.errors import InputError
from flowprior.figures.runs import FigureRun, NotApplicable, refusal_as_reason
from flowprior.figures.style import COLORS, Axes, Figure, panels, ruled
from flowprior.registry import figure

Line = tuple[str, np.ndarray, np.ndarray]  # label, steps, values
Metrics = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> (steps, values)
_IN_NATS = ("loss", "reconstruction", "nll", "entropy", "kl", "elbo", "log_prob")
_ACRONYMS = ("nll", "kl", "elbo", "fid", "mmd")
_SMOOTH = 200  # a curve with more points than this is drawn faintly, with its running mean on top


@figure("curves")
def curves(run: FigureRun) -> Figure:
    """Every logged loss and score against the step, in training and validation."""
    with refusal_as_reason():  # a run that stopped before the first line was logged
        metrics = read_metrics(run.folder / "metrics.csv")
    shown = {name: metrics[name] for name in metrics if name != "epoch" and not name.startswith("lr/")}
    if not shown:
        raise NotApplicable("nothing but epochs and learning rates was logged.")
    return training_curves(shown, run.name)


def read_metrics(path: Path) -> Metrics:
    """Steps and values of a run's metrics.csv, by name; a last line cut short by a crash is left out.

    Raises:
        InputError: if the file is missing, has other columns, no row, or a value that is not a number.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise InputError(f"There are no metrics at {str(path)!r} ({error.strerror}): train first.") from error
    if len(rows) < 2 or rows[0] != ["step", "name", "value"]:
        head = ",".join(rows[0]) if rows else "nothing"
        raise InputError(
            f"{str(path)!r} opens with {head!r} and has {max(len(rows) - 1, 0)} rows, but must hold the "
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
            wrong = f"{str(path)!r} has {','.join(row)!r} in line {number}"
            raise InputError(f"{wrong} but needs step,name,value: mend it.") from error
    return {name: tuple(np.array(points).T) for name, points in series.items() if points}


def training_curves(metrics: Metrics, title: str) -> Figure:
    """One panel per term, the end of a metric's name, one line per split, its beginning (GLF, Fig. 3, 4)."""
    terms: dict[str, list[Line]] = {}
    for name, points in metrics.items():
        *split, term = name.split("/")
        terms.setdefault(term, []).append((" ".join(split), *points))
    columns = min(3, len(terms))
    figure, axes = panels(math.ceil(len(terms) / columns), columns, 3.6, 2.7)
    for ax in axes[len(terms) :]:
        ax.remove()
    for ax, (term, lines) in zip(axes, terms.items(), strict=False):
        draw_term(ax, term, lines)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_term(ax: Axes, term: str, lines: Sequence[Line]) -> None:
    """One panel: the lines of one logged term against the step."""
    for i, (label, steps, values) in enumerate(lines):
        color = COLORS[i % len(COLORS)]
        if len(values) > _SMOOTH:
            ax.plot(steps, values, color=color, alpha=0.2, linewidth=0.6)
            values = _running_mean(values)
        marker = "o" if len(values) == 1 else None
        ax.plot(steps, values, color=color, linewidth=1.4, marker=marker, markersize=3, label=label)
    _limit_to_bulk(ax, [values for _, _, values in lines])
    ax.set_title(term.upper() if term in _ACRONYMS else term.replace("_", " "), fontsize=10)
    ax.set_xlabel("step", fontsize=8)
    if term in _IN_NATS:
        ax.set_ylabel("nats per example", fontsize=8)
    ruled(ax)
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
