"""The figure "leakage": the leakage score against the threshold of log p0(g(z))."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flowprior.evaluation.overlap import DRAWS, densities
from flowprior.figures.runs import FigureRun, NotApplicable, StudyRuns, refusal_as_reason, short, variant
from flowprior.figures.style import COLORS, Axes, Figure, panels, ruled
from flowprior.metrics import leakage_curve
from flowprior.registry import figure


@dataclass(frozen=True)
class LeakageLine:
    """LS(τ) of one model: thresholds, scores, half widths of the band and shares below τ, each (T,)."""

    label: str
    thresholds: Sequence[float]
    scores: Sequence[float]
    band: Sequence[float]
    shares: Sequence[float]
    decoupled: bool = True


@figure("leakage", needs=("posterior density", "unconditional", "density"))
@refusal_as_reason()
def leakage(run: FigureRun) -> Figure:
    """The leakage score LS(τ) against the threshold τ, with its standard error (dpVAE, Fig. 4)."""
    aggregate = run.aggregate
    z = aggregate.sample(DRAWS)
    log_p, base = densities(run.model.prior, z)
    score = leakage_curve(aggregate.log_prob(z), log_p, aggregate.event_shape.numel(), base)
    line = LeakageLine("", score.thresholds, score.scores, score.standard_errors, score.shares)
    return leakage_panels({run.name: [line]})


@figure("leakage", of="study")
def leakage_of_twins(runs: StudyRuns) -> Figure:
    """LS(τ) of all twins from their reports, a panel for each variant (dpVAE, Fig. 4)."""
    groups: dict[str, list[LeakageLine]] = {}
    for twins in runs.twins:
        for row, decoupled in zip(twins, (False, True), strict=True):
            facts = [report.get("metric_facts", {}).get("leakage", {}) for report in runs.reports(row)]
            if curves := [fact["curve"] for fact in facts if "curve" in fact]:
                line = _mean_line(short(twins[0]), curves, decoupled)
                groups.setdefault(variant(row), []).append(line)
    if not groups:
        raise NotApplicable("no report of twins holds a curve of leakage: measure `leakage`.")
    several = any(len(runs.reports(row)) > 1 for twins in runs.twins for row in twins)
    return leakage_panels(groups, band="standard deviation over seeds" if several else "standard error")


def _mean_line(label: str, curves: Sequence[dict[str, list[float]]], decoupled: bool) -> LeakageLine:
    """The mean over seeds, zero for a seed without draws below τ; around it their standard deviation."""
    scores, shares = (np.array([curve[key] for curve in curves]) for key in ("scores", "shares"))
    band = scores.std(0, ddof=1).tolist() if len(curves) > 1 else curves[0]["standard_errors"]
    means = scores.mean(0).tolist(), band, shares.mean(0).tolist()
    return LeakageLine(label, curves[0]["thresholds"], *means, decoupled)


def leakage_panels(groups: Mapping[str, Sequence[LeakageLine]], *, band: str = "standard error") -> Figure:
    """LS(τ) against τ: a panel for each group, a color for each label, dashed for N(0, I).

    Points below whose τ no draw lies are left out, as in the paper; `band` says what is around the lines.
    """
    from matplotlib.lines import Line2D

    labels = list(dict.fromkeys(line.label for lines in groups.values() for line in lines))
    colors = {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}
    figure, axes = panels(1, len(groups), 4.4, 3.4)
    for ax, (name, lines) in zip(axes, groups.items(), strict=True):
        for line in lines:
            _line(ax, line, colors[line.label])
        ax.axhline(0, color="#888888", linewidth=0.6, zorder=1)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("threshold τ of log p0(z0) (nats)", fontsize=8)
        ruled(ax)
    axes[0].set_ylabel(f"leakage score LS(τ), ± {band} (nats)", fontsize=8)
    handles = [Line2D([], [], color=color, linewidth=1.6, label=label) for label, color in colors.items()]
    kinds = {line.decoupled for lines in groups.values() for line in lines}
    if len(kinds) == 2:
        for text, style in (("N(0, I)", "--"), ("decoupled prior", "-")):
            handles.append(Line2D([], [], color="#444444", linewidth=1.4, linestyle=style, label=text))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    return figure


def _line(ax: Axes, line: LeakageLine, color: str) -> None:
    keep = np.asarray(line.shares) > 0
    x, y, band = (np.asarray(each, float)[keep] for each in (line.thresholds, line.scores, line.band))
    style = "-" if line.decoupled else "--"
    ax.plot(x, y, color=color, linewidth=1.6, linestyle=style, marker="o", markersize=2.4, label=line.label)
    ax.fill_between(x, y - band, y + band, color=color, alpha=0.15, linewidth=0)
