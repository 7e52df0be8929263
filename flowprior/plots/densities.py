"""Two-dimensional latents: codes in both spaces, the prior's density and its samples side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flowprior.errors import InputError
from flowprior.plots.style import COLORS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_GRID = 200  # cells a side
_DOTS = 4000  # more dots hide one another


@torch.no_grad()
def latent_panels(
    log_prob: Callable[[Tensor], Tensor],
    codes: Tensor,
    label: Tensor | None = None,
    samples: Tensor | None = None,
    *,
    base_codes: Tensor | None = None,
    classes: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """f(z) and z of the data by class, the prior's density over the range of z, and its samples f⁻¹(z0).

    Source: Morrow & Chiu, Fig. 2, where uncolored codes stand for the density.

    Args:
        log_prob: z (N, 2) -> (N,), in nats.
        codes: (N, 2), the codes of the data.
        label: (N,) int64 classes of the codes.
        samples: (M, 2), draws of the prior.
        base_codes: (N, 2), z0 = f(z) of the codes, where the prior is invertible.
        classes: names of the classes.
        title: a line above the panels.

    Raises:
        InputError: if codes or samples are not two-dimensional latents.
    """
    for name, value in (("codes", codes), ("samples", samples), ("base_codes", base_codes)):
        if value is not None and (value.dim() != 2 or value.shape[1] != 2 or len(value) == 0):
            raise InputError(
                f"`{name}` has shape {tuple(value.shape)} but density panels need 2-dimensional latents, "
                "(N, 2): train with `features` 2, or plot two chosen coordinates."
            )
    low, high = _range(codes)
    figure, axes = panels(1, 2 + (samples is not None) + (base_codes is not None), 3.5, 3.5)
    in_z = axes if base_codes is None else axes[1:]
    _codes(in_z[0], codes, label, classes, legend=base_codes is None)  # one for both
    _density(figure, in_z[1], log_prob, codes, low, high)
    if samples is not None:
        _dots(in_z[2], _thin(samples), COLORS[0])
        in_z[2].set_title("samples of the prior", fontsize=10)
    for ax in in_z:
        _frame(ax, "z", low, high)
    if base_codes is not None:
        _codes(axes[0], base_codes, label, classes)
        axes[0].set_title("codes of the data in z0", fontsize=10)
        _frame(axes[0], "z0", *_range(base_codes))
    for ax, space in ((in_z[0], "z"), (axes[0], "z" if base_codes is None else "z0")):
        ax.set_ylabel(f"{space}, second coordinate", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def shade(
    ax: Axes,
    log_prob: Callable[[Tensor], Tensor],
    codes: Tensor,
    low: Sequence[float],
    high: Sequence[float],
    power: float = 1.0,
) -> AxesImage:
    """The density to some `power`, below one to show faint parts, over the rectangle from `low` to `high`.

    Args:
        log_prob: z (N, 2) -> (N,), in nats; asked in the dtype and on the device of `codes`.
    """
    axes = [torch.linspace(low[i], high[i], _GRID) for i in (0, 1)]
    grid = torch.cartesian_prod(*axes).to(codes)  # (_GRID^2, 2), the first coordinate slowest
    logs = torch.cat([log_prob(part) for part in grid.split(8192)]).double().cpu().view(_GRID, _GRID)
    return ax.imshow(
        (power * logs).exp().T.numpy(),
        origin="lower",
        extent=(low[0], high[0], low[1], high[1]),
        aspect="auto",
        cmap="Blues",
        interpolation="bilinear",
    )


def _range(codes: Tensor) -> tuple[list[float], list[float]]:
    """Where nearly all codes lie, with a margin; a few far ones do not shrink the rest."""
    points = codes.detach().double().cpu()
    low, high = (points.quantile(q, dim=0) for q in (0.002, 0.998))
    margin = 0.15 * (high - low).clamp_min(1e-6)
    return (low - margin).tolist(), (high + margin).tolist()


def _frame(ax: Axes, space: str, low: Sequence[float], high: Sequence[float]) -> None:
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_xlabel(f"{space}, first coordinate", fontsize=8)


def _thin(points: Tensor) -> np.ndarray:
    step = max(1, len(points) // _DOTS)
    return points[::step].detach().float().cpu().numpy()


def _codes(
    ax: Axes, codes: Tensor, label: Tensor | None, classes: Sequence[str] | None, legend: bool = True
) -> None:
    points = _thin(codes)
    ax.set_title("codes of the data", fontsize=10)
    if label is None:
        _dots(ax, points, COLORS[0])
        return
    kinds = _thin(label).astype(int)
    names = {}
    for i, kind in enumerate(np.unique(kinds)):
        name = classes[kind] if classes is not None and 0 <= kind < len(classes) else str(kind)
        names[name] = _dots(ax, points[kinds == kind], COLORS[i % len(COLORS)])
    if legend and len(names) <= len(COLORS):
        style = {"fontsize": 6.5, "frameon": False, "markerscale": 4, "handletextpad": 0.1}
        ax.legend(names.values(), names, loc="upper left", **style)


def _dots(ax: Axes, points: np.ndarray, color: str) -> PathCollection:
    return ax.scatter(points[:, 0], points[:, 1], s=2, color=color, alpha=0.6, linewidths=0, rasterized=True)


def _density(
    figure: Figure,
    ax: Axes,
    log_prob: Callable[[Tensor], Tensor],
    codes: Tensor,
    low: Sequence[float],
    high: Sequence[float],
) -> None:
    image = shade(ax, log_prob, codes, low, high)
    ax.set_title("density of the prior", fontsize=10)
    bar = figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02)
    bar.set_label("p(z)", fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
