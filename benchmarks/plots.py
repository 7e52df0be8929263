"""Figures of what a flow costs: over depth and width as a map, along one of them as curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers import flop

from flowprior.evaluation.costs import OPERATIONS, Row, Size
from flowprior.figures.style import COLORS, panels

AXES = {"depth": "depth (couplings)", "width": "width", "batch": "batch"}
LINEAR = 1.25  # a cost at most this many times the line of the arithmetic counts as on it


@dataclass(frozen=True)
class Scaling:
    """Cost along one quantity.

    Args:
        title: of the panel.
        quantity: what the axis is.
        lines: name -> (values of the quantity, milliseconds); the first one is the one that is judged.
        work: value of the quantity -> floating-point operations.
    """

    title: str
    quantity: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    work: Mapping[float, float]


def leaves_linear(x: Sequence[float], cost: Sequence[float], work: Mapping[float, float]) -> float | None:
    """The least x from which on the cost is proportional to the work, through the last point and within 25%.

    Below it overhead is what costs. None if that is the last point, which is on its line by definition.

    >>> leaves_linear([1, 2, 4, 8], [3.0, 3.1, 4.2, 8.0], {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})
    4
    """
    start = None
    for value, own in list(zip(x, cost, strict=True))[-2::-1]:
        if own > LINEAR * cost[-1] * work[value] / work[x[-1]]:
            break
        start = value
    return start


def draw(rows: Sequence[Row]) -> dict[str, Figure]:
    """The map over depth and width, and the curves along each size that was swept.

    Both show the first precision; the map the first contestant, at the features and batch with most sizes.
    """
    rows = [row for row in rows if row["precision"] == rows[0]["precision"]]
    first, precise = rows[0]["contestant"], f"{rows[0]['precision']}, {rows[0]['device']}"
    own = [row for row in rows if row["contestant"] == first]
    features, batch = _commonest(own, ("features", "batch"))
    own = [row for row in own if (row["features"], row["batch"]) == (features, batch)]
    maps = {
        operation: {(row["depth"], row["width"]): row["ms"] for row in own if row["operation"] == operation}
        for operation in OPERATIONS
    }
    figures = {
        "depth_width": cost_maps(maps, title=f"{first}: {features} features, batch {batch}, {precise}")
    }
    swept = [axis for axis in AXES if len({row[axis] for row in rows}) > 1]
    if swept:
        grid = [[_scaling(rows, operation, axis) for axis in swept] for operation in OPERATIONS]
        figures["scaling"] = scaling_panels(grid, title=f"Cost of a flow, {precise}")
    return figures


def _commonest(rows: Sequence[Row], names: tuple[str, ...]) -> tuple[int, ...]:
    """The values of `names` that most rows have; the middle ones of several."""
    values = [tuple(row[name] for name in names) for row in rows]
    most = max(map(values.count, values))
    best = sorted({each for each in values if values.count(each) == most})
    return best[len(best) // 2]


def _scaling(rows: Sequence[Row], operation: str, axis: str) -> Scaling:
    """The panel of an operation along `axis`, with everything else where most of it was measured."""
    rows = [row for row in rows if row["operation"] == operation]
    names = tuple(name for name in Size._fields if name != axis)
    fixed = _commonest(rows, names)
    shown = sorted(
        (row for row in rows if tuple(row[name] for name in names) == fixed), key=lambda row: row[axis]
    )
    lines: dict[str, tuple[Any, Any]] = {
        name: tuple([row[value] for row in shown if row["contestant"] == name] for value in (axis, "ms"))
        for name in dict.fromkeys(row["contestant"] for row in rows)
    }
    work = {row[axis]: flop(Size(*(row[name] for name in Size._fields)), operation) for row in shown}
    held = ", ".join(f"{name} {value}" for name, value in zip(names, fixed, strict=True))
    return Scaling(f"{operation}\n{held}", AXES[axis], lines, work)


def cost_maps(
    maps: Mapping[str, Mapping[tuple[int, int], float]], *, unit: str = "ms", title: str | None = None
) -> Figure:
    """A panel for each name: the numbers at (depth, width), colored by their logarithm.

    Raises:
        ValueError: if there is no number.
    """
    if not maps or not all(maps.values()):
        raise ValueError("`maps` holds no cost: give at least one for each name.")
    depths = sorted({depth for costs in maps.values() for depth, _ in costs})
    widths = sorted({width for costs in maps.values() for _, width in costs})
    figure, axes = panels(1, len(maps), 1.2 + 0.75 * len(depths), 1.3 + 0.5 * len(widths))
    for ax, (name, costs) in zip(axes, maps.items(), strict=True):
        grid = np.full((len(widths), len(depths)), np.nan)
        for (depth, width), value in costs.items():
            grid[widths.index(width), depths.index(depth)] = value
        ax.imshow(np.log10(grid), origin="lower", aspect="auto", cmap="Blues")
        middle = (np.nanmax(np.log10(grid)) + np.nanmin(np.log10(grid))) / 2
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                color = "white" if np.log10(value) > middle else "#333333"
                ax.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        ax.set_yticks(range(len(widths)), [str(width) for width in widths])
        ax.set_title(f"{name}, {unit}", fontsize=10)
        ax.set_xlabel("depth (couplings)", fontsize=8)
    axes[0].set_ylabel("width", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def scaling_panels(rows: Sequence[Sequence[Scaling]], *, title: str | None = None) -> Figure:
    """Cost against a quantity on logarithmic axes, a panel each; dashed: proportional to the arithmetic.

    A dotted line stands where the first curve leaves that line (see `leaves_linear`).

    Raises:
        ValueError: if there is no panel, or the rows have different lengths.
    """
    if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
        raise ValueError("`rows` must hold as many panels in each row, at least one.")
    every = [panel for row in rows for panel in row]
    names = list(dict.fromkeys(name for panel in every for name in panel.lines))
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    figure, axes = panels(len(rows), len(rows[0]), 3.4, 2.8)
    for ax, panel in zip(axes, every, strict=True):
        _panel(ax, panel, colors)
    handles = {text: line for ax in axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _panel(ax: Axes, panel: Scaling, colors: Mapping[str, str]) -> None:
    for name, (x, cost) in panel.lines.items():
        ax.plot(x, cost, color=colors[name], linewidth=1.4, marker="o", markersize=3, label=name)
    x, cost = next(iter(panel.lines.values()))
    line = [cost[-1] * panel.work[value] / panel.work[x[-1]] for value in x]
    ax.plot(x, line, color="#444444", linewidth=1.0, linestyle="--", label="proportional to the arithmetic")
    left = leaves_linear(x, cost, panel.work)
    if left is not None:
        ax.axvline(left, color="#444444", linewidth=1.0, linestyle=":", label="linear from here on")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(x, [f"{value:g}" for value in x])
    ax.minorticks_off()
    ax.set_title(panel.title, fontsize=10)
    ax.set_xlabel(panel.quantity, fontsize=8)
    ax.set_ylabel("ms", fontsize=8)
    ax.grid(True, color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
