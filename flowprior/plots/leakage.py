"""Leakage against the threshold: dpVAE, Fig. 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowprior.errors import InputError
from flowprior.plots.style import COLORS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LeakageLine:
    """LS(τ) of one model: thresholds, scores, half widths of the band and shares below τ, each (T,)."""

    label: str
    thresholds: Sequence[float]
    scores: Sequence[float]
    band: Sequence[float]
    shares: Sequence[float]
    decoupled: bool = True

    def __post_init__(self) -> None:
        sizes = {len(each) for each in (self.thresholds, self.scores, self.band, self.shares)}
        if len(sizes) != 1:
            raise InputError(
                f"The thresholds, scores, band and shares of {self.label!r} have {sorted(sizes)} values but "
                "must have equally many: give one for each threshold."
            )


def leakage_panels(
    groups: Mapping[str, Sequence[LeakageLine]], *, band: str = "standard error", title: str | None = None
) -> Figure:
    """LS(τ) against τ: a panel for each group, a color for each label, dashed for N(0, I).

    Points below whose τ no draw lies are left out, as in the paper.

    Args:
        groups: name of the panel -> its lines.
        band: what the bands around the lines are.
        title: a line above the panels.

    Raises:
        InputError: if there is no line.
    """
    from matplotlib.lines import Line2D

    labels = list(dict.fromkeys(line.label for lines in groups.values() for line in lines))
    if not labels:
        raise InputError("`groups` holds no line: give at least one.")
    colors = {label: COLORS[i % len(COLORS)] for i, label in enumerate(labels)}
    figure, axes = panels(1, len(groups), 4.4, 3.4)
    for ax, (name, lines) in zip(axes, groups.items(), strict=True):
        for line in lines:
            _line(ax, line, colors[line.label])
        ax.axhline(0, color="#888888", linewidth=0.6, zorder=1)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("threshold τ of log p(z) (nats)", fontsize=8)
        ax.grid(True, color="#e6e6e6", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[0].set_ylabel(f"leakage score LS(τ), ± {band} (nats)", fontsize=8)
    handles = [Line2D([], [], color=color, linewidth=1.6, label=label) for label, color in colors.items()]
    kinds = {line.decoupled for lines in groups.values() for line in lines}
    if len(kinds) == 2:
        for text, style in (("N(0, I)", "--"), ("decoupled prior", "-")):
            handles.append(Line2D([], [], color="#444444", linewidth=1.4, linestyle=style, label=text))
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _line(ax: Axes, line: LeakageLine, color: str) -> None:
    keep = np.asarray(line.shares) > 0
    x, y, band = (np.asarray(each, float)[keep] for each in (line.thresholds, line.scores, line.band))
    style = "-" if line.decoupled else "--"
    ax.plot(x, y, color=color, linewidth=1.6, linestyle=style, marker="o", markersize=2.4, label=line.label)
    ax.fill_between(x, y - band, y + band, color=color, alpha=0.15, linewidth=0)
