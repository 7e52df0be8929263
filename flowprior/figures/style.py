"""One look for all figures, without touching matplotlib's global state."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # imported where something is drawn
    import matplotlib.axes
    import matplotlib.collections
    import matplotlib.figure
    import matplotlib.image

Axes: TypeAlias = "matplotlib.axes.Axes"
Dots: TypeAlias = "matplotlib.collections.PathCollection"
Figure: TypeAlias = "matplotlib.figure.Figure"
Heat: TypeAlias = "matplotlib.image.AxesImage"

COLORS = (
    "#3465a4", "#d9662b", "#3f8f4f", "#b0413e", "#7b5ea7",
    "#8a6d3b", "#c76ba5", "#6b6b6b", "#a3a52f", "#2f9fa8",
)  # fmt: skip
"""Ten colors for ten classes or runs, in the order of use."""
PALE = "#9db4d0"  # of clouds behind what matters
PATH_COLORS = ("#000000", "#cc2222", "#3465a4", "#3f8f4f")
"""Black through z and red through z0, as in Morrow & Chiu's ICLR version, then others."""

Range = Sequence[float] | np.ndarray  # an end of it, (x, y)
LogProb = Callable[[Tensor], Tensor]  # z (N, 2) -> (N,), in nats
_GRID = 200  # cells a side of a density


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` x `columns` panels of `width` x `height` inches, without pyplot; its axes by row."""
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


def ruled(ax: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Pale grid lines behind everything else."""
    ax.grid(True, axis=axis, color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)


def square(ax: Axes, points: Sequence[Tensor], margin: float = 0.06) -> None:
    """Equal scales on the square around all `points`, each (N, 2)."""
    both = torch.cat([each.detach().cpu().double() for each in points])
    low, high = both.amin(0), both.amax(0)
    half = max(float((high - low).max()) / 2 * (1 + 2 * margin), 1e-6)
    x, y = ((low + high) / 2).tolist()
    ax.set_xlim(x - half, x + half)
    ax.set_ylim(y - half, y + half)
    ax.set_aspect("equal", adjustable="box")


def cloud(ax: Axes, points: Tensor, color: str = PALE, size: float = 1.6, alpha: float | None = None) -> Dots:
    """Small dots at `points` (N, 2)."""
    x, y = as_array(points).T
    return ax.scatter(x, y, s=size, color=color, alpha=alpha, linewidths=0, rasterized=True)


def heat(ax: Axes, values: np.ndarray, low: Range, high: Range) -> Heat:
    """`values` (x, y) in blues over the rectangle from `low` to `high`."""
    style: dict[str, Any] = {"aspect": "auto", "cmap": "Blues", "interpolation": "bilinear"}
    return ax.imshow(values.T, origin="lower", extent=(low[0], high[0], low[1], high[1]), **style)


def shade(ax: Axes, log_prob: LogProb, codes: Tensor, low: Range, high: Range, power: float = 1.0) -> Heat:
    """The density to some `power`, below one to show faint parts, over the rectangle from `low` to `high`;
    `log_prob` is asked in the dtype and on the device of `codes`.
    """
    axes = [torch.linspace(low[i], high[i], _GRID) for i in (0, 1)]
    grid = torch.cartesian_prod(*axes).to(codes)  # (_GRID^2, 2), the first coordinate slowest
    logs = torch.cat([log_prob(part) for part in grid.split(8192)]).double().cpu().view(_GRID, _GRID)
    return heat(ax, (power * logs).exp().numpy(), low, high)


def as_array(values: Tensor) -> np.ndarray:
    """Numbers as matplotlib takes them."""
    return values.detach().cpu().double().numpy()
