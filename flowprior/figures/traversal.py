"""The figure "traversal": two ways between two codes, straight in z and straight in z0."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowprior.data.dataset import Dataset
from flowprior.figures.runs import DOTS, FigureRun, NotApplicable, StudyRuns, refusal_as_reason, short
from flowprior.figures.sheet import image_grid
from flowprior.figures.style import COLORS, Axes, Figure, as_array, cloud, ruled, shade, square, tidy
from flowprior.latent import crossing_depth, lerp
from flowprior.registry import figure

NEEDS = ("posterior density", "unconditional", "invertible prior", "images or 2-D data")
CANDIDATES = 300  # pairs of test examples among which a traversal is chosen
STEPS = 129  # points of a path
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
    """The ways between two codes of one model."""

    name: str
    ways: Sequence[Way]  # one or two, from the same start to the same end
    log_density: Callable[[Tensor], Tensor]  # log q(z) of z (N, D), for the map of 2-dimensional latents
    codes: Tensor  # (N, D), draws of q(z) that set the range of the map
    data: Tensor | None = None  # (M, 2) behind decoded points; None for images


@figure("traversal", needs=NEEDS)
@refusal_as_reason()
def traversal(run: FigureRun) -> Figure:
    """The straight line in z and that in z0 between the same two test examples (dpVAE, Fig. 5)."""
    return _traversals({run.name: run})


@figure("traversal", of="study", needs=(*NEEDS, "2-D latents"))
@refusal_as_reason()
def traversal_of_twins(runs: StudyRuns) -> Figure:
    """The traversals of both twins: FactorVAE's, or the first with 2-dimensional latents (dpVAE, Fig. 5)."""
    suitable = runs.twins_with((*NEEDS, "2-D latents"))
    if not suitable:
        raise NotApplicable("it needs a pair of twins with 2-dimensional latents.")
    return _traversals(max(suitable, key=lambda pair: short(next(iter(pair))).startswith("factor")))


def _traversals(runs: Mapping[str, FigureRun]) -> Figure:
    """Those of the candidate pair whose straight line in z falls deepest in log q(z) below both its ends in
    all runs: the shallowest of its falls is deepest.
    """
    pairs = candidates(next(iter(runs.values())).test)
    pair = pairs[torch.stack([crossing_depths(run, pairs) for run in runs.values()]).amax(0).argmin()]
    return traversal_panels([traversal_of(run, pair, name) for name, run in runs.items()])


def candidates(test: Dataset) -> Tensor:
    """At most `CANDIDATES` pairs of test rows, (P, 2), of different classes if any; or `NotApplicable`."""
    pairs = torch.randint(len(test), (8 * CANDIDATES, 2))
    kinds = torch.arange(len(test)) if test.label is None else test.label
    pairs = pairs[kinds[pairs[:, 0]] != kinds[pairs[:, 1]]][:CANDIDATES]
    if len(pairs) == 0:
        raise NotApplicable(f"it needs test examples of two classes, and {test.name!r} has not.")
    return pairs


def crossing_depths(run: FigureRun, pairs: Tensor) -> Tensor:
    """How far log q(z) falls on the straight line between the codes of each pair of test rows: (P,), nats."""
    starts, ends = run.test_codes(pairs.T.flatten()).chunk(2)
    return crossing_depth(run.aggregate.log_prob, starts, ends).cpu()


def traversal_of(run: FigureRun, pair: Tensor, name: str) -> Traversal:
    """The ways between the codes of two test rows; only the straight one where z0 is z."""
    aggregate = run.aggregate
    start, end = run.test_codes(pair).split(1)

    def way(label: str, color: str, z: Tensor) -> Way:
        return Way(label, color, z.flatten(1), aggregate.log_prob(z), run.model.decode(z))

    line = lerp(start, end, torch.linspace(0, 1, STEPS, device=start.device))[:, 0]
    ways = [way("straight in z = z0" if run.one_space else "straight in z", STRAIGHT, line)]
    if not run.one_space:
        ways.append(way("straight in z0", DECOUPLED, run.spaces.path(start, end, STEPS)[:, 0]))
    codes = aggregate.sample(DOTS).flatten(1)
    return Traversal(name, ways, aggregate.log_prob, codes, run.training_cloud())


def traversal_panels(models: Sequence[Traversal]) -> Figure:
    """For each model the ways on a map of 2-dimensional z, log q(z) along them, and what is decoded."""
    from matplotlib.figure import Figure

    mapped = models[0].codes.shape[1] == 2
    widths = ([1.0] if mapped else []) + [1.0, 1.0 if models[0].data is not None else 1.9]
    figure = Figure(figsize=(2.9 * sum(widths), 2.95 * len(models) + 0.3), dpi=130, layout="constrained")
    rows = figure.subfigures(len(models), 1, squeeze=False)[:, 0]
    for row, model in zip(rows, models, strict=True):
        axes = [row.add_subplot(cell) for cell in row.add_gridspec(1, len(widths), width_ratios=widths)]
        for ax in axes:
            tidy(ax)
        if mapped:
            _map(axes[0], model)
        _profile(axes[-2], model)
        if model.data is not None:
            _decoded_points(axes[-1], model, model.data)
        else:
            _strips(axes[-1], model.ways)
    return figure


def _map(ax: Axes, model: Traversal) -> None:
    square(ax, [model.codes, *(way.z for way in model.ways)])
    low, high = zip(ax.get_xlim(), ax.get_ylim(), strict=True)
    shade(ax, model.log_density, model.codes, low, high, power=_FAINT)
    _lines(ax, {way.color: way.z for way in model.ways})
    ax.set_aspect("equal")
    ax.set_title(f"{model.name}: q(z)", fontsize=10)


def _lines(ax: Axes, paths: Mapping[str, Tensor]) -> None:
    """Paths (S, 2) in their colors, with stars at the ends that they share."""
    for color, path in paths.items():
        ax.plot(*as_array(path).T, color=color, linewidth=2)
    first = next(iter(paths.values()))
    for point, color in ((first[0], "#3f8f4f"), (first[-1], "#f2c230")):
        x, y = as_array(point)
        ax.plot(x, y, "*", markersize=14, color=color, markeredgecolor="black", markeredgewidth=0.8)


def _profile(ax: Axes, model: Traversal) -> None:
    for way in model.ways:
        along = np.linspace(0, 1, len(way.z))
        ax.plot(along, as_array(way.log_density), color=way.color, linewidth=1.8, label=way.label)
    ax.set_title("log q(z) along the way (nats)", fontsize=10)
    ax.set_xticks([0, 1], ["start", "end"])
    ruled(ax)
    ax.legend(fontsize=8, frameon=False, loc="best")


def _decoded_points(ax: Axes, model: Traversal, data: Tensor) -> None:
    cloud(ax, data)
    _lines(ax, {way.color: way.decoded for way in model.ways})
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
