"""One look for all figures, without touching matplotlib's global state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (
    "#3465a4", "#d9662b", "#3f8f4f", "#b0413e", "#7b5ea7",
    "#8a6d3b", "#c76ba5", "#6b6b6b", "#a3a52f", "#2f9fa8",
)  # fmt: skip
"""Ten colors for ten classes or runs, in the order of use."""
PALE = "#9db4d0"  # of clouds behind what matters


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` x `columns` panels of `width` x `height` inches, and its axes row by row.

    It belongs to no window and no pyplot state: `figure.savefig("curves.png")` is all there is to do with it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), dpi=130, layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for ax in axes:
        tidy(ax)
    return figure, axes


def tidy(ax: Axes) -> None:
    """Two thin gray spines, small ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8, color="#888888", length=3)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#888888")


def square(ax: Axes, points: Sequence[Tensor], margin: float = 0.06) -> None:
    """Equal scales on the square around all `points`, each (N, 2)."""
    both = torch.cat([each.detach().cpu().double() for each in points])
    low, high = both.amin(0), both.amax(0)
    half = max(float((high - low).max()) / 2 * (1 + 2 * margin), 1e-6)
    x, y = ((low + high) / 2).tolist()
    ax.set_xlim(x - half, x + half)
    ax.set_ylim(y - half, y + half)
    ax.set_aspect("equal", adjustable="box")


def as_array(values: Tensor) -> np.ndarray:
    """Numbers as matplotlib takes them."""
    return values.detach().cpu().double().numpy()
