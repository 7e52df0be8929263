"""The figure "plane": paths through latent space in the plane of two principal components."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from flowprior.figures.gathering import between
from flowprior.figures.runs import FigureRun
from flowprior.figures.style import PATH_COLORS, Figure, heat, panels
from flowprior.latent import principal_components
from flowprior.registry import figure

PLANES, STEPS = 3, 200
CANDIDATES = 16  # pairs, of which those are shown that lie furthest apart in the plane
_CELLS = 160  # of the density, a side
_BLUR = 2.2  # cells


@figure("plane", needs=("images", "invertible prior", "unconditional"))
def plane(run: FigureRun) -> Figure:
    """Paths in z and in z0 over the codes' first two principal components (Morrow & Chiu, ICLR version)."""
    model = run.model
    codes, _ = run.training_codes()
    components = principal_components(codes)
    start, end = model.encode(run.random_images(2 * CANDIDATES)).mean.chunk(2)
    apart = (components.coordinates(end) - components.coordinates(start)).norm(dim=1)
    far = apart.argsort(descending=True)[:PLANES]
    paths = between(run, start[far], end[far], STEPS)
    line = "spherical" if model.prior.has_normal_base else "straight"
    curves = {"straight in z": paths.z, f"{line} in z0": paths.z0}
    at = components.coordinates
    return path_plane(at(codes), {name: at(curve) for name, curve in curves.items()}, components.shares)


def path_plane(codes: Tensor, paths: Mapping[str, Tensor], shares: Tensor) -> Figure:
    """Paths, name -> (steps, P, 2), over the density of the codes (N, 2), a panel for each of P pairs; the
    shares (2,) of the variance stand at the axes.
    """
    points = codes.detach().float().cpu().numpy()
    curves = {name: path.detach().float().cpu().numpy() for name, path in paths.items()}
    first = next(iter(curves.values()))
    on_paths = np.concatenate([curve.reshape(-1, 2) for curve in curves.values()])
    low = np.minimum(np.quantile(points, 0.001, axis=0), on_paths.min(0))
    high = np.maximum(np.quantile(points, 0.999, axis=0), on_paths.max(0))
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    density = _density(points, low, high)
    which = zip(("first", "second"), shares.tolist(), strict=True)
    labels = [f"{nth} component ({100 * share:.0f} % of the variance)" for nth, share in which]
    figure, axes = panels(1, first.shape[1], 3.5, 3.3)
    for pair, ax in enumerate(axes):
        heat(ax, density, low, high)
        for (name, curve), color in zip(curves.items(), PATH_COLORS, strict=False):
            x, y = curve[:, pair].T
            ax.plot(x, y, color="white", linewidth=3.2, solid_capstyle="round")
            ax.plot(x, y, color=color, linewidth=1.7, label=name, solid_capstyle="round")
        x, y = first[[0, -1], pair].T
        ax.scatter(x, y, s=26, color="white", edgecolors="black", linewidths=1.2, zorder=3)
        ax.set_xlabel(labels[0], fontsize=8)
        ax.set_xlim(low[0], high[0])
        ax.set_ylim(low[1], high[1])
    axes[0].set_ylabel(labels[1], fontsize=8)
    axes[0].legend(fontsize=7.5, frameon=False, loc="upper left")
    return figure


def _density(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The codes' histogram, blurred, its root taken so that thin regions are seen too."""
    from scipy.ndimage import gaussian_filter

    limits = np.stack([low, high], 1)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=_CELLS, range=limits)
    return np.sqrt(gaussian_filter(counts, _BLUR))
