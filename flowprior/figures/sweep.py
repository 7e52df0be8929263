"""The figure "sweep" of a study: a metric along a sweep of one setting, a line for each model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowprior.figures.runs import NotApplicable, StudyRuns
from flowprior.figures.style import COLORS, Figure, panels, ruled
from flowprior.metrics.summary import summary
from flowprior.registry import figure


@dataclass(frozen=True)
class SweepLine:
    """A model at several values of the setting: what they are called, means and standard deviations, (V,)."""

    label: str
    ticks: Sequence[str]
    means: Sequence[float]
    deviations: Sequence[float | None]  # None where there is one value


@figure("sweep", of="study")
def sweep(runs: StudyRuns) -> Figure:
    """The first distance of samples along each sweep, a panel for each variant (Morrow & Chiu, Fig. 3, 5)."""
    reports = [report for row in runs.rows for report in runs.reports(row)[:1]]
    metrics = [key for report in reports for key in report["metrics"] if _is_distance(key)]
    groups: dict[str, list[SweepLine]] = {}
    for variant in runs.variants:
        for label, line in runs.sweeps.items():
            named = {value: f"{variant}/{row}".removeprefix("/") for value, row in line.items()}
            rows = {value: row for value, row in named.items() if row in runs.rows}
            if rows and metrics:
                groups.setdefault(variant, []).append(_line(runs, label, rows, metrics[0]))
    if not groups:
        raise NotApplicable("no sweep of the study has rows with a distance of samples.")
    return sweep_panels(groups, metric=metrics[0])


def _line(runs: StudyRuns, label: str, rows: Mapping[str, str], metric: str) -> SweepLine:
    seeds = [[report["metrics"].get(metric) for report in runs.reports(row)] for row in rows.values()]
    values = [summary(each) for each in seeds]
    return SweepLine(label, list(rows), *([value[key] for value in values] for key in ("mean", "std")))


def _is_distance(metric: str) -> bool:
    return metric.startswith(("fid", "fd_")) and not metric.endswith("_reconstruction")


def sweep_panels(groups: Mapping[str, Sequence[SweepLine]], metric: str) -> Figure:
    """`metric` along the sweep, a panel for each group; ticks stand evenly, as in the paper, by number."""
    labels = list(dict.fromkeys(line.label for lines in groups.values() for line in lines))
    figure, axes = panels(1, len(groups), 4.2, 3.2)
    for ax, (name, lines) in zip(axes, groups.items(), strict=True):
        ticks = sorted({tick for line in lines for tick in line.ticks}, key=_number)
        for line in lines:
            color = COLORS[labels.index(line.label) % len(COLORS)]
            at = [ticks.index(tick) for tick in line.ticks]
            at, means, deviations = np.array(
                sorted(zip(at, line.means, line.deviations, strict=True)), float
            ).T
            style: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.6, "capsize": 2.5}
            ax.errorbar(at, means, deviations, color=color, label=line.label, **style)
        ax.set_xticks(range(len(ticks)), ticks)
        ax.set_title(name, fontsize=10)
        ax.set_ylim(bottom=0)
        ruled(ax, "y")
    axes[0].set_ylabel(metric, fontsize=9)
    if len(labels) > 1:
        pairs = (zip(*ax.get_legend_handles_labels(), strict=True) for ax in axes)
        handles = {label: handle for panel in pairs for handle, label in panel}
        columns = 3 if len(groups) > 1 else 1  # one panel is not wide enough for more
        style = {"loc": "outside lower center", "ncols": columns, "fontsize": 8, "frameon": False}
        figure.legend(handles.values(), handles, **style)
    return figure


def _number(tick: str) -> tuple[float, str]:
    try:
        return float(tick), tick
    except ValueError:
        return float("inf"), tick
