"""One look for all figures, without touching matplotlib's global state."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (
    "#3465a4", "#d9662b", "#3f8f4f", "#b0413e", "#7b5ea7",
    "#8a6d3b", "#c76ba5", "#6b6b6b", "#a3a52f", "#2f9fa8",
)  # fmt: skip
"""Ten colors for ten classes or runs, in the order of use."""


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` x `columns` panels of `width` x `height` inches, and its axes row by row.

    It belongs to no window and no pyplot state: `figure.savefig("curves.png")` is all there is to do with it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), dpi=130, layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8, color="#888888", length=3)
        for side in ("left", "bottom"):
            ax.spines[side].set_color("#888888")
    return figure, axes
