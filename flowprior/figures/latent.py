"""The figure "latent": codes in both spaces, the prior's density and its samples side by side."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flowprior.figures.runs import DOTS, FigureRun
from flowprior.figures.style import COLORS, Axes, Dots, Figure, LogProb, cloud, panels, shade
from flowprior.priors import InvertiblePrior
from flowprior.registry import figure
from flowprior.tensors import as_input

TITLES = ("codes of the data", "density of the prior", "samples of the prior")


@figure("latent", needs=("2-D latents", "unconditional", "density"))
def latent(run: FigureRun) -> Figure:
    """Codes in z0 and z by class, the prior's density and its samples (Morrow & Chiu, Fig. 2)."""
    model, prior, test = run.model, run.model.prior, run.test
    codes = model.codes(as_input(test.x))
    samples = prior.sample(len(codes)).cpu()
    base_codes = prior.to_base(codes.to(model.device))[0] if isinstance(prior, InvertiblePrior) else None
    shown: dict[str, Any] = {"base_codes": base_codes, "label": test.label, "classes": test.classes}
    return latent_panels(lambda z: prior.log_prob(z.to(model.device)), codes, samples, **shown)


def latent_panels(
    log_prob: LogProb, codes: Tensor, samples: Tensor, *, base_codes: Tensor | None = None,
    label: Tensor | None = None, classes: Sequence[str] | None = None,
) -> Figure:  # fmt: skip
    """f(z) and z of the data by class, the prior's density over the range of z, and its samples f⁻¹(z0).

    Codes of the data in z and, where the prior is invertible, in z0, and samples of the prior are (N, 2);
    labels (N,) and the names of classes color the codes.
    """
    low, high = _range(codes)
    figure, axes = panels(1, 3 if base_codes is None else 4, 3.5, 3.5)
    shown, density, drawn = in_z = axes[-3:]
    _codes(shown, codes, label, classes, legend=base_codes is None)  # one for both
    image = shade(density, log_prob, codes, low, high)
    bar = figure.colorbar(image, ax=density, fraction=0.046, pad=0.02)
    bar.set_label("p(z)", fontsize=8)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
    _dots(drawn, _thin(samples), COLORS[0])
    for ax, title in zip(in_z, TITLES, strict=True):
        ax.set_title(title, fontsize=10)
        _frame(ax, "z", low, high)
    shown.set_ylabel("z, second coordinate", fontsize=8)
    if base_codes is not None:
        _codes(axes[0], base_codes, label, classes, legend=True)
        axes[0].set_title("codes of the data in z0", fontsize=10)
        _frame(axes[0], "z0", *_range(base_codes))
        axes[0].set_ylabel("z0, second coordinate", fontsize=8)
    return figure


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


def _thin(points: Tensor) -> Tensor:
    return points[:: max(1, len(points) // DOTS)].detach().cpu()  # more dots hide one another


def _codes(
    ax: Axes, codes: Tensor, label: Tensor | None, classes: Sequence[str] | None, legend: bool
) -> None:
    points = _thin(codes)
    if label is None:
        _dots(ax, points, COLORS[0])
        return
    kinds = _thin(label)
    names = {}
    for i, kind in enumerate(kinds.unique().tolist()):
        name = classes[kind] if classes is not None and 0 <= kind < len(classes) else str(kind)
        names[name] = _dots(ax, points[kinds == kind], COLORS[i % len(COLORS)])
    if legend and len(names) <= len(COLORS):
        style = {"fontsize": 6.5, "frameon": False, "markerscale": 4, "handletextpad": 0.1}
        ax.legend(names.values(), names, loc="upper left", **style)


def _dots(ax: Axes, points: Tensor, color: str) -> Dots:
    return cloud(ax, points, color, size=2, alpha=0.6)
