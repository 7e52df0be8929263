"""Paths through latent space: in the plane of two components, and the rate at which images change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from flowprior.errors import InputError
from flowprior.plots.style import panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATH_COLORS = ("#000000", "#cc2222", "#3465a4", "#3f8f4f")
"""Black through z and red through z0, as in the ICLR version, then others."""

_CELLS = 160  # of the density, a side
_BLUR = 2.2  # cells


def path_plane(
    codes: Tensor,
    paths: Mapping[str, Tensor],
    *,
    shares: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """Paths over the density of the codes, a panel for each pair (Morrow & Chiu, ICLR version, Fig. 4).

    Args:
        codes: (N, 2), coordinates of the codes, such as their first two principal components.
        paths: name -> (steps, P, 2), in the same coordinates.
        shares: (2,), of the variance, written at the axes.
        title: a line above the panels.

    Raises:
        InputError: if codes or paths are not two-dimensional, or differ in their number of pairs.
    """
    shapes = [tuple(path.shape) for path in paths.values()]
    pairs = shapes[0][1] if shapes and len(shapes[0]) == 3 else 0
    if codes.dim() != 2 or codes.shape[1] != 2 or not pairs or any(s[1:] != (pairs, 2) for s in shapes):
        raise InputError(
            f"`codes` of shape {tuple(codes.shape)} must be (N, 2) and `paths` of shapes {shapes} each "
            "(steps, pairs, 2), with the same pairs: project both on two components."
        )
    points = codes.detach().float().cpu().numpy()
    curves = {name: path.detach().float().cpu().numpy() for name, path in paths.items()}
    drawn = np.concatenate([points, *(curve.reshape(-1, 2) for curve in curves.values())])
    low, high = np.quantile(points, 0.001, axis=0), np.quantile(points, 0.999, axis=0)
    low, high = np.minimum(low, drawn[len(points) :].min(0)), np.maximum(high, drawn[len(points) :].max(0))
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    figure, axes = panels(1, pairs, 3.5, 3.3)
    for pair, ax in enumerate(axes):
        _density(ax, points, low, high)
        for (name, curve), color in zip(curves.items(), PATH_COLORS, strict=False):
            x, y = curve[:, pair].T
            ax.plot(x, y, color="white", linewidth=3.2, solid_capstyle="round")
            ax.plot(x, y, color=color, linewidth=1.7, label=name, solid_capstyle="round")
        x, y = next(iter(curves.values()))[[0, -1], pair].T
        ax.scatter(x, y, s=26, color="white", edgecolors="black", linewidths=1.2, zorder=3)
        ax.set_xlabel(_axis_label("first", shares, 0), fontsize=8)
        ax.set_xlim(low[0], high[0])
        ax.set_ylim(low[1], high[1])
    axes[0].set_ylabel(_axis_label("second", shares, 1), fontsize=8)
    axes[0].legend(fontsize=7.5, frameon=False, loc="upper left")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def rate_curves(
    rates: Mapping[str, Mapping[str, Tensor]], *, ylabel: str = "perceptual change", title: str | None = None
) -> Figure:
    """Median and 5th to 95th percentile of the change from step to step (Morrow & Chiu, Fig. 8).

    Args:
        rates: panel, such as an attribute -> line, such as a space -> (steps, N) over N images.
        ylabel: what is measured.
        title: a line above the panels.

    Raises:
        InputError: if there is nothing, or a line is not (steps, N).
    """
    shapes = [tuple(line.shape) for lines in rates.values() for line in lines.values()]
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise InputError(f"`rates` holds shapes {shapes} but must hold at least one line, each (steps, N).")
    figure, axes = panels(1, len(rates), 3.3, 2.7)
    for ax, (panel, lines) in zip(axes, rates.items(), strict=True):
        for (name, line), color in zip(lines.items(), PATH_COLORS, strict=False):
            low, middle, high = np.quantile(line.detach().double().cpu().numpy(), [0.05, 0.5, 0.95], axis=1)
            steps = np.arange(1, len(middle) + 1)
            ax.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
            ax.plot(steps, middle, color=color, linewidth=1.6, label=name)
        ax.set_title(panel, fontsize=10)
        ax.set_xlabel("step", fontsize=8)
        ax.set_ylim(bottom=0)
        ax.margins(x=0.02)
        ax.grid(True, color="#e6e6e6", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[0].set_ylabel(ylabel, fontsize=8)
    axes[0].legend(fontsize=7.5, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _density(ax: Axes, points: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """The codes' histogram, blurred, its root taken so that thin regions are seen too."""
    from scipy.ndimage import gaussian_filter

    limits = np.stack([low, high], 1)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=_CELLS, range=limits)
    ax.imshow(
        np.sqrt(gaussian_filter(counts, _BLUR)).T,
        origin="lower",
        extent=(low[0], high[0], low[1], high[1]),
        aspect="auto",
        cmap="Blues",
        interpolation="bilinear",
    )


def _axis_label(which: str, shares: Tensor | None, k: int) -> str:
    share = "" if shares is None else f" ({100 * float(shares[k]):.0f} % of the variance)"
    return f"{which} component{share}"
