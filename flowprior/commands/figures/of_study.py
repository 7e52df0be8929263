"""The figures of a study: of regularized VAEs and their decoupled twins (dpVAE, Fig. 3 to 6), of sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from flowprior.commands.figures import conditional, latents
from flowprior.commands.figures.drawing import NotApplicable, Picture, check_names, needs_images, save
from flowprior.commands.figures.of_run import sample_sheet
from flowprior.experiments.comparison import summary
from flowprior.experiments.experiment import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from flowprior.plots.leakage import LeakageLine

SAMPLES = 25  # of each row
BESIDE = 3  # sheets in a line of rows that are no twins


@dataclass(frozen=True)
class StudyRuns:
    """The trained rows of a study.

    Args:
        rows: their names, such as "10d/beta_vae_h"; what stands before "/" is a variant of the study.
        twins: pairs of rows, that with N(0, I) and that with a decoupled prior.
        restore: row -> the experiment of its first seed, with trained weights and in evaluation mode.
        reports: row -> what the report.json of each of its seeds holds.
        sweeps: {line: {value: row without its variant}}, as `Study.sweeps`.
    """

    rows: tuple[str, ...]
    twins: tuple[tuple[str, str], ...]
    restore: Callable[[str], Experiment]
    reports: Callable[[str], list[dict[str, Any]]]
    sweeps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def check(names: Sequence[str]) -> None:
    """Refuse names that are not among the figures of a study.

    Raises:
        InputError: as said.
    """
    check_names(names, STUDY_FIGURES)


def draw(runs: StudyRuns, names: Sequence[str], folder: Path) -> list[Path]:
    """Write the figures `names` to `folder`/NAME.png; returns where they are.

    A figure that no row suits, such as where only some rows were run, is left out and that is printed.

    Raises:
        InputError: on an unknown name, before anything is drawn.
    """
    check(names)
    written = []
    for name in names:
        try:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(0)
                picture = STUDY_FIGURES[name](runs)
        except NotApplicable as reason:
            print(f"'{name}' is not drawn: {reason}")
            continue
        written.append(folder / f"{name}.png")
        save(picture, written[-1])
    return written


def _pockets(runs: StudyRuns) -> Figure:
    """A line for each pair of twins with 2-dimensional latents (Fig. 3)."""
    from flowprior.plots.pockets import pocket_panels

    lines = []
    for twins in runs.twins:
        try:
            lines.append([(name, latents.pockets_of(runs.restore(name))) for name in twins])
        except NotApplicable:
            continue
    if not lines:
        raise NotApplicable("it needs a pair of twins with 2-dimensional latents.")
    return pocket_panels(lines)


def _leakage(runs: StudyRuns) -> Figure:
    """LS(τ) of all twins, a panel for each variant (Fig. 4)."""
    from flowprior.plots.leakage import leakage_panels

    groups: dict[str, list[LeakageLine]] = {}
    for twins in runs.twins:
        for row, decoupled in zip(twins, (False, True), strict=True):
            label = twins[0].rpartition("/")[2]
            curves = list(_curves(runs.reports(row)))
            if curves:
                groups.setdefault(_variant(row), []).append(_mean_line(label, curves, decoupled))
    if not groups:
        raise NotApplicable("no report of twins holds a curve of leakage: measure `leakage`.")
    several = any(len(runs.reports(row)) > 1 for twins in runs.twins for row in twins)
    return leakage_panels(groups, band="standard deviation over seeds" if several else "standard error")


def _curves(reports: Sequence[dict[str, Any]]) -> Iterator[dict[str, list[float]]]:
    for report in reports:
        curve = report.get("metric_facts", {}).get("leakage", {}).get("curve")
        if curve is not None:
            yield curve


def _mean_line(label: str, curves: Sequence[dict[str, list[float]]], decoupled: bool) -> LeakageLine:
    """The mean over seeds, of a seed without draws below τ zero; around it their standard deviation."""
    from flowprior.plots.leakage import LeakageLine

    scores = np.array([curve["scores"] for curve in curves])
    band = scores.std(0, ddof=1) if len(curves) > 1 else np.array(curves[0]["standard_errors"])
    shares = np.array([curve["shares"] for curve in curves]).mean(0)
    thresholds = curves[0]["thresholds"]
    return LeakageLine(label, thresholds, scores.mean(0).tolist(), band.tolist(), shares.tolist(), decoupled)


def _traversal(runs: StudyRuns) -> Figure:
    """The ways between two test examples in both twins: FactorVAE's, or the first with 2-D latents (Fig. 5).

    Of the candidate pairs it is the one whose straight line in z falls deep below its ends in both models:
    the shallower of the two falls is deepest.
    """
    from flowprior.plots.traversals import traversal_panels

    for twins in sorted(runs.twins, key=lambda twins: not _is_factor(twins[0])):
        experiments = [runs.restore(name) for name in twins]
        if all(tuple(each.model.prior.event_shape) == (2,) for each in experiments):
            break
    else:
        raise NotApplicable("it needs a pair of twins with 2-dimensional latents.")
    pairs = latents.candidates(experiments[0].source.test())
    aggregates = [latents.aggregate_of(each) for each in experiments]
    depths = [
        latents.crossing_depths(each, aggregate, pairs)
        for each, aggregate in zip(experiments, aggregates, strict=True)
    ]
    pair = pairs[torch.maximum(*depths).argmin()]
    return traversal_panels(
        [
            latents.traversal_of(each, aggregate, pair, name)
            for each, aggregate, name in zip(experiments, aggregates, twins, strict=True)
        ]
    )


def _factors(runs: StudyRuns) -> Image.Image:
    """Factors of the decoupled FactorVAE, else of the last decoupled row with most dimensions (Fig. 6)."""
    rows = [decoupled for _, decoupled in runs.twins]
    rows = [row for row in rows if _is_factor(row)] or rows
    if not rows:
        raise NotApplicable("it needs a row with a decoupled prior.")
    experiments = reversed([runs.restore(row) for row in rows])
    return latents.factor_sheet(max(experiments, key=lambda each: each.model.prior.event_shape.numel()))


def _samples(runs: StudyRuns) -> Image.Image:
    """Samples of all rows: of each variant the N(0, I) twins, below them the decoupled ones, then others.

    Rows that stand in several pairs, as in a sweep, are no twins: they follow one another.
    """
    from flowprior.plots.grids import sheets_beside

    lines: list[list[str]] = []
    for variant in dict.fromkeys(map(_variant, runs.rows)):
        twins = [pair for pair in runs.twins if _variant(pair[0]) == variant]
        paired = [row for pair in twins for row in pair]
        if len(paired) > len(set(paired)):
            twins, paired = [], []
        rest = [row for row in runs.rows if _variant(row) == variant and row not in paired]
        lines += [[pair[0] for pair in twins], [pair[1] for pair in twins]]
        lines += [rest[k : k + BESIDE] for k in range(0, len(rest), BESIDE)]
    return sheets_beside([[_sheet(runs, row) for row in line] for line in lines if line])


def _sheet(runs: StudyRuns, row: str) -> Image.Image:
    experiment = runs.restore(row)
    needs_images(experiment)
    return sample_sheet(experiment, title=row, count=SAMPLES)


def _conditions(runs: StudyRuns) -> Image.Image:
    """Samples of each pair of twins at the same conditions, the better row's below (Fig. 9)."""
    from flowprior.plots.conditional import condition_sheet
    from flowprior.plots.grids import sheets_beside

    sheets = []
    for twins in runs.twins:
        lesser, better = (runs.restore(row) for row in twins)
        x, context = conditional.examples(lesser, conditional.LINES)
        drawn = {
            row.rpartition("/")[2]: each.model.sample(conditional.SAMPLES, context)
            for row, each in zip(twins, (lesser, better), strict=True)
        }
        sheets.append(condition_sheet(context, x, drawn, title=_variant(twins[0]) or None))
    if not sheets:
        raise NotApplicable("it needs a pair of conditional twins.")
    return sheets_beside([sheets])


def _sweep(runs: StudyRuns) -> Figure:
    """The first distance of samples along each sweep, a panel for each variant (Morrow & Chiu, Fig. 3, 5)."""
    from flowprior.plots.sweeps import SweepLine, sweep_panels

    groups: dict[str, list[SweepLine]] = {}
    reports = [report for row in runs.rows for report in runs.reports(row)[:1]]
    metrics = [key for report in reports for key in report["metrics"] if _is_distance(key)]
    for variant in dict.fromkeys(map(_variant, runs.rows)):
        for label, line in runs.sweeps.items():
            found = {value: f"{variant}/{row}".removeprefix("/") for value, row in line.items()}
            found = {value: row for value, row in found.items() if row in runs.rows}
            if found and metrics:
                values = [
                    summary([report["metrics"].get(metrics[0]) for report in runs.reports(row)])
                    for row in found.values()
                ]
                means, deviations = ([value[key] for value in values] for key in ("mean", "std"))
                groups.setdefault(variant, []).append(SweepLine(label, list(found), means, deviations))
    if not groups:
        raise NotApplicable("no sweep of the study has rows with a distance of samples.")
    return sweep_panels(groups, metric=metrics[0])


def _is_distance(metric: str) -> bool:
    return metric.startswith(("fid", "fd_")) and not metric.endswith("_reconstruction")


def _variant(row: str) -> str:
    return row.rpartition("/")[0]


def _is_factor(row: str) -> bool:
    return row.rpartition("/")[2].startswith("factor")


STUDY_FIGURES: dict[str, Callable[[StudyRuns], Picture]] = {
    "pockets": _pockets,
    "leakage": _leakage,
    "traversal": _traversal,
    "factors": _factors,
    "samples": _samples,
    "sweep": _sweep,
    "conditions": _conditions,
}
