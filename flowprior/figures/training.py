"""The study figure "training": what several runs logged while they trained, laid over one another."""

import math

from flowprior.figures.curves import Line, draw_term, read_metrics
from flowprior.figures.runs import NotApplicable, StudyRuns, refusal_as_reason, short, variant
from flowprior.figures.style import Figure, panels
from flowprior.registry import figure

_SPLITS = ("valid", "train")  # the held-out curve where there is one


@figure("training", of="study")
def training(runs: StudyRuns) -> Figure:
    """Reconstruction, NLL and entropy of every row along training, first seed (GLF, Fig. 3 and 4)."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for row in runs.rows:
        with refusal_as_reason():
            logged = read_metrics(runs.restore(row).folder / "metrics.csv")
        for term in ("reconstruction", "nll", "entropy"):
            name = next((f"{split}/{term}" for split in _SPLITS if f"{split}/{term}" in logged), None)
            if name is not None:
                groups.setdefault((variant(row), term), []).append((short(row), *logged[name]))
    if not groups:
        raise NotApplicable("no row logged a reconstruction, an NLL or an entropy.")
    columns = min(3, len(groups))
    picture, axes = panels(math.ceil(len(groups) / columns), columns, 4.2, 3.0)
    for ax in axes[len(groups) :]:
        ax.remove()
    for ax, ((name, term), lines) in zip(axes, groups.items(), strict=False):
        draw_term(ax, term, lines)
        if name:
            ax.set_title(f"{name}: {ax.get_title()}", fontsize=10)
    return picture
