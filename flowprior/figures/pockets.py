"""The figure "pockets": where prior and aggregate posterior miss each other in 2-dimensional latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowprior.evaluation.overlap import DRAWS
from flowprior.figures.runs import DOTS, FigureRun, NotApplicable, StudyRuns, refusal_as_reason
from flowprior.figures.sheet import image_grid
from flowprior.figures.style import COLORS, Axes, Figure, as_array, cloud, square, tidy
from flowprior.registry import figure

NEEDS = ("posterior density", "unconditional", "invertible prior", "2-D latents", "images or 2-D data")
MARKED = 8  # low- and high-posterior points; the paper marks five
IMAGES = 36  # sampled images
MARKS: dict[str, dict[str, Any]] = {
    "low": {"marker": "o", "s": 34, "color": COLORS[1]},
    "high": {"marker": "^", "s": 42, "color": COLORS[2]},
}
_RARE, _LIKELY = "#e9b44c", "#12355b"
_RANGE = (-6.3, -1.84)  # of log N(z0; 0, I) in 2 dimensions, out to 3 standard deviations
_DASHED: dict[str, Any] = {"color": "#555555", "lw": 0.8, "ls": (0, (4, 3))}
_GAP = 0.12  # between two models on a line, in panels


@dataclass(frozen=True)
class Space:
    """Points of one space, (N, 2), or None of images; and low- and high-posterior ones, (k, 2) or images."""

    cloud: Tensor | None
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Pockets:
    """What one model shows."""

    samples: Tensor  # decoded draws of the prior, (N, 2) or (N, C, H, W)
    log_base: Tensor  # (N,) base density of each sample's z0, nats
    representation: Space  # draws of the aggregate posterior in z
    generation: Space | None  # the same draws in z0; None where z0 = z
    data: Space  # training data and decoded marks
    circles: bool = True  # whether the base is N(0, I), whose circles are drawn in z0

    @property
    def panels(self) -> int:
        return 3 if self.generation is None else 4


@figure("pockets", needs=NEEDS)
@refusal_as_reason()
def pockets(run: FigureRun) -> Figure:
    """Samples, q(z), generation space and data with low- and high-posterior points (dpVAE, Fig. 1 and 3)."""
    return pocket_panels([[("", pockets_of(run))]])


@figure("pockets", of="study", needs=NEEDS)
@refusal_as_reason()
def pockets_of_twins(runs: StudyRuns) -> Figure:
    """The pockets of each pair of twins, a line each (dpVAE, Fig. 3)."""
    lines = [[(row, pockets_of(run)) for row, run in twins.items()] for twins in runs.twins_with(NEEDS)]
    if not lines:
        raise NotApplicable("it needs a pair of twins with 2-dimensional latents.")
    return pocket_panels(lines)


def pockets_of(run: FigureRun) -> Pockets:
    """What the panels show of a run that has what `NEEDS` names."""
    model, spaces, aggregate = run.model, run.spaces, run.aggregate
    low, _ = spaces.low_posterior(aggregate, MARKED, DRAWS)
    high, _ = spaces.high_posterior(aggregate, MARKED, DRAWS)
    z, draws = spaces.sample(IMAGES if run.of_images else DOTS), aggregate.sample(DOTS)
    return Pockets(
        samples=model.decode(z),
        log_base=spaces.log_base(z),
        representation=Space(draws, low, high),
        generation=None if run.one_space else Space(*map(spaces.generation, (draws, low, high))),
        data=Space(run.training_cloud(), model.decode(low), model.decode(high)),
        circles=spaces.has_normal_base,
    )


def pocket_panels(lines: Sequence[Sequence[tuple[str, Pockets]]]) -> Figure:
    """Each model's samples, q(z), generation space and data, with low- and high-posterior points marked.

    A line of panels for each element of `lines`; three for a model whose z0 is z, four for another.
    """
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    longest = max(len(line) for line in lines)
    counts = [max(line[k][1].panels for line in lines if k < len(line)) for k in range(longest)]
    widths = [w for k, count in enumerate(counts) for w in ([_GAP] if k else []) + [1.0] * count]
    large = len(lines) == 1 and len(widths) <= 4
    side = 2.7 if large else 1.62
    size = side * sum(widths), side * len(lines) * (1.09 if large else 1.02) + 0.6
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=size, dpi=130, layout=layout)
    grid = GridSpec(len(lines), len(widths), figure, width_ratios=widths)
    for r, line in enumerate(lines):
        column = 0
        for k, (name, model) in enumerate(line):
            axes = [figure.add_subplot(grid[r, column + i]) for i in range(model.panels)]
            _model(axes, model, titled=r == 0, ticks=large)
            axes[0].set_ylabel(name, fontsize=9)
            column += counts[k] + 1
    models = [model for line in lines for _, model in line]
    _legend(figure, models, columns=max(2, round(sum(widths) * side / 4)))
    return figure


def _model(axes: Sequence[Axes], model: Pockets, titled: bool, ticks: bool) -> None:
    spaces = {"aggregate posterior q(z)" if ticks else "q(z)": model.representation}
    if model.generation is not None:
        spaces["generation space z0" if ticks else "generation space"] = model.generation
    names = ["samples", *spaces, "decoded" if model.data.cloud is None else "data"]
    for ax, name in zip(axes, names, strict=True):
        tidy(ax)
        if titled:
            ax.set_title(name, fontsize=10 if ticks else 9)
    _samples(axes[0], model)
    for ax, space in zip(axes[1:-1], spaces.values(), strict=True):
        _space(ax, space)
    if model.circles:
        _circles(axes[-2])
    _data(axes[-1], model)
    for ax in axes:
        if not ticks or ax.images:
            ax.set(xticks=[], yticks=[])


def _samples(ax: Axes, model: Pockets) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    if model.samples.dim() == 4:
        _images(ax, [(None, model.samples)], columns=round(len(model.samples) ** 0.5))
        return
    order = model.log_base.argsort(descending=True).cpu()  # rare ones on top
    (x, y), color = as_array(model.samples[order]).T, as_array(model.log_base[order])
    likely = LinearSegmentedColormap.from_list("likely", [_RARE, "#7fa8b8", "#3465a4", _LIKELY])
    ax.scatter(x, y, c=color, cmap=likely, vmin=_RANGE[0], vmax=_RANGE[1], s=2.5, lw=0, rasterized=True)
    square(ax, [model.samples, *_points(model.data)])  # as the panel of the data


def _space(ax: Axes, space: Space) -> None:
    if space.cloud is not None:
        cloud(ax, space.cloud)
    for kind, points in (("high", space.high), ("low", space.low)):
        x, y = as_array(points).T
        ax.scatter(x, y, edgecolors="white", linewidths=0.8, zorder=3, label=kind, **MARKS[kind])
    square(ax, _points(space))


def _data(ax: Axes, model: Pockets) -> None:
    data = model.data
    if data.cloud is None:
        columns = max(2, round((2 * len(data.low)) ** 0.5))
        _images(ax, [("low", data.low), ("high", data.high)], columns)
    else:
        _space(ax, data)
        square(ax, [model.samples, *_points(data)])


def _points(space: Space) -> list[Tensor]:
    return [space.low, space.high] if space.cloud is None else [space.cloud, space.low, space.high]


def _circles(ax: Axes) -> None:
    from matplotlib.patches import Circle

    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, zorder=2, **_DASHED))
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    square(ax, [torch.tensor([[-3.1, -3.1], [3.1, 3.1]]), torch.tensor([[x0, y0], [x1, y1]])], margin=0)


def _images(ax: Axes, groups: Sequence[tuple[str | None, Tensor]], columns: int) -> None:
    """Images below one another, those of a kind of mark in a frame of its color."""
    from matplotlib.patches import Rectangle

    sheets = [np.asarray(image_grid(images, columns)) for _, images in groups]
    ax.imshow(np.concatenate(sheets), interpolation="antialiased")
    top = 0
    for (kind, _), sheet in zip(groups, sheets, strict=True):
        height, width = sheet.shape[:2]
        if kind is not None:
            style = {"fill": False, "lw": 2.2, "color": MARKS[kind]["color"]}
            ax.add_patch(Rectangle((2, top + 2), width - 5, height - 5, **style))
        top += height
    ax.spines[:].set_visible(False)
    square(ax, [torch.tensor([[0, 0], [sheets[0].shape[1], top]])], margin=0)
    ax.invert_yaxis()


def _legend(figure: Figure, models: Sequence[Pockets], columns: int) -> None:
    from matplotlib.lines import Line2D

    said = {"low": "drawn by the prior, hardly in q(z)", "high": "in q(z), hardly drawn by the prior"}
    dots = [(MARKS[k]["marker"], MARKS[k]["color"], 6, f"{k} posterior: {text}") for k, text in said.items()]
    if any(model.samples.dim() == 2 for model in models):
        dots += [("o", _LIKELY, 4, "sample of a likely z0"), ("o", _RARE, 4, "sample of a rare z0")]
    handles = [Line2D([], [], ls="", marker=m, color=c, ms=size, label=text) for m, c, size, text in dots]
    if any(model.circles for model in models):
        handles.append(Line2D([], [], **_DASHED, label="1, 2, 3 standard deviations of N(0, I)"))
    style = {"fontsize": 8, "frameon": False, "handletextpad": 0.4, "columnspacing": 1.6}
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **style)
