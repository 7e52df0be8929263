"""Two ways between two codes, straight in z and straight in z0: dpVAE, Fig. 5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flowprior.errors import InputError
from flowprior.plots.densities import shade
from flowprior.plots.grids import image_grid
from flowprior.plots.style import COLORS, PALE, as_array, square, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.gridspec import SubplotSpec

STRAIGHT, DECOUPLED = COLORS[3], COLORS[2]
IMAGES = 8  # decoded images of a path
_LABEL = 20  # pixels above a strip, for its label
_FAINT = 0.4  # power of the density on the map, so that thin parts are seen


@dataclass(frozen=True)
class Way:
    """One path: z (S, D), log q(z) along it (S,) in nats, and what is decoded (S, 2) or (S, C, H, W)."""

    label: str
    color: str
    z: Tensor
    log_density: Tensor
    decoded: Tensor


@dataclass(frozen=True)
class Traversal:
    """The ways between two codes of one model.

    Args:
        name: of the model.
        ways: one or two, from the same start to the same end.
        log_density: log q(z), z (N, D) -> (N,), for the map of 2-dimensional latents.
        codes: (N, D), draws of q(z) that set the range of the map.
        data: (M, 2) behind decoded points; None for images.
    """

    name: str
    ways: Sequence[Way]
    log_density: Callable[[Tensor], Tensor]
    codes: Tensor
    data: Tensor | None = None


def traversal_panels(models: Sequence[Traversal], *, title: str | None = None) -> Figure:
    """For each model the ways on a map of 2-dimensional z, log q(z) along them, and what is decoded.

    Args:
        title: a line above the panels.

    Raises:
        InputError: if there is no model, or one has not one way or two.
    """
    from matplotlib.figure import Figure

    if not models or not all(1 <= len(model.ways) <= 2 for model in models):
        raise InputError("`models` must hold at least one model, each with one way or two.")
    mapped = any(model.codes.shape[1] == 2 for model in models)
    decoded = 1.0 if models[0].data is not None else 1.9
    widths = ([1.0] if mapped else []) + [1.0, decoded]
    figure = Figure(figsize=(2.9 * sum(widths), 2.95 * len(models) + 0.3), dpi=130, layout="constrained")
    rows = figure.subfigures(len(models), 1, squeeze=False)[:, 0]
    for i, (row, model) in enumerate(zip(rows, models, strict=True)):
        _model(row, model, mapped, widths, last=i == len(models) - 1)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _model(figure: SubFigure, model: Traversal, mapped: bool, widths: Sequence[float], last: bool) -> None:
    grid = figure.add_gridspec(1, len(widths), width_ratios=widths)
    if model.codes.shape[1] == 2:
        _map(_tidied(figure, grid[0]), model)
    _profile(_tidied(figure, grid[int(mapped)]), model)
    if model.data is not None:
        _decoded_points(_tidied(figure, grid[-1]), model, model.data)
    else:
        _strips(figure.add_subplot(grid[-1]), model.ways)


def _tidied(figure: SubFigure, cell: SubplotSpec) -> Axes:
    ax = figure.add_subplot(cell)
    tidy(ax)
    return ax


def _map(ax: Axes, model: Traversal) -> None:
    square(ax, [model.codes, *(way.z for way in model.ways)])
    low, high = zip(ax.get_xlim(), ax.get_ylim(), strict=True)
    shade(ax, model.log_density, model.codes, low, high, power=_FAINT)
    for way in model.ways:
        ax.plot(*as_array(way.z).T, color=way.color, linewidth=2)
    _stars(ax, model.ways[0].z)
    ax.set_aspect("equal")
    ax.set_title(f"{model.name}: q(z)", fontsize=10)


def _stars(ax: Axes, path: Tensor) -> None:
    for point, color in ((path[0], "#3f8f4f"), (path[-1], "#f2c230")):
        x, y = as_array(point)
        ax.plot(x, y, "*", markersize=14, color=color, markeredgecolor="black", markeredgewidth=0.8)


def _profile(ax: Axes, model: Traversal) -> None:
    for way in model.ways:
        ax.plot(
            np.linspace(0, 1, len(way.z)),
            as_array(way.log_density),
            color=way.color,
            linewidth=1.8,
            label=way.label,
        )
    ax.set_title("log q(z) along the way (nats)", fontsize=10)
    ax.set_xticks([0, 1], ["start", "end"])
    ax.grid(True, color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(fontsize=8, frameon=False, loc="best")


def _decoded_points(ax: Axes, model: Traversal, data: Tensor) -> None:
    x, y = as_array(data).T
    ax.scatter(x, y, s=1.6, color=PALE, linewidths=0, rasterized=True)
    for way in model.ways:
        ax.plot(*as_array(way.decoded).T, color=way.color, linewidth=2)
    _stars(ax, model.ways[0].decoded)
    square(ax, [data, *(way.decoded for way in model.ways)])
    ax.set_title("decoded, on the data", fontsize=10)


def _strips(ax: Axes, ways: Sequence[Way]) -> None:
    """Decoded images of each way, its label above them."""
    parts: list[np.ndarray] = []
    for way in ways:
        rows = torch.linspace(0, len(way.decoded) - 1, IMAGES).round().long().to(way.decoded.device)
        strip = np.asarray(image_grid(way.decoded[rows], IMAGES))
        top = sum(len(part) for part in parts) + _LABEL
        ax.text(strip.shape[1] / 2, top, way.label, color=way.color, fontsize=9, ha="center", va="bottom")
        parts += [np.full_like(strip[:1], 255).repeat(_LABEL, 0), strip]
    ax.imshow(np.concatenate(parts))
    ax.set_axis_off()
