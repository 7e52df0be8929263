"""A metric along a sweep of one setting, a line for each model (Morrow & Chiu, Fig. 3 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowprior.errors import InputError
from flowprior.plots.style import COLORS, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SweepLine:
    """A model at several values of the setting: what they are called, means and standard deviations, (V,)."""

    label: str
    ticks: Sequence[str]
    means: Sequence[float]
    deviations: Sequence[float]

    def __post_init__(self) -> None:
        sizes = {len(each) for each in (self.ticks, self.means, self.deviations)}
        if len(sizes) != 1 or sizes == {0}:
            raise InputError(
                f"The ticks, means and deviations of {self.label!r} have {sorted(sizes)} values but must "
                "have equally many, at least one."
            )


def sweep_panels(groups: Mapping[str, Sequence[SweepLine]], *, metric: str, setting: str = "") -> Figure:
    """`metric` along the sweep: a panel for each group, whose values stand evenly, as in the paper.

    Args:
        groups: name of the panel -> its lines; ticks of all lines are put in the order of their numbers.
        metric: what the means are of.
        setting: what is swept.

    Raises:
        InputError: if there is no line.
    """
    if not any(groups.values()):
        raise InputError("`groups` holds no line: give at least one.")
    labels = list(dict.fromkeys(line.label for lines in groups.values() for line in lines))
    figure, axes = panels(1, len(groups), 4.2, 3.2)
    for ax, (name, lines) in zip(axes, groups.items(), strict=True):
        ticks = sorted({tick for line in lines for tick in line.ticks}, key=_number)
        for line in lines:
            color = COLORS[labels.index(line.label) % len(COLORS)]
            order = np.argsort([ticks.index(tick) for tick in line.ticks])
            at = np.array([ticks.index(tick) for tick in line.ticks])[order]
            means, deviations = np.array(line.means)[order], np.array(line.deviations)[order]
            ax.errorbar(
                at, means, deviations, color=color, marker="o", markersize=3.5, linewidth=1.6, capsize=2.5,
                label=line.label,
            )  # fmt: skip
        ax.set_xticks(range(len(ticks)), ticks)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(setting, fontsize=9)
        ax.set_ylim(bottom=0)
        ax.grid(True, axis="y", color="#e6e6e6", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[0].set_ylabel(metric, fontsize=9)
    if len(labels) > 1:
        handles = {
            label: handle
            for ax in axes
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        columns = 3 if len(groups) > 1 else 1  # one panel is not wide enough for more
        figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )
    return figure


def _number(tick: str) -> tuple[float, str]:
    try:
        return float(tick), tick
    except ValueError:
        return float("inf"), tick
