"""The figure of `flowprior benchmark`: time and memory over the depth of a flow."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from flowprior.figures.style import COLORS, Figure, panels


def cost_panels(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Time of each operation and memory of a step over depth; a curve for each width, contestant, precision.

    `rows`: of `evaluation.costs.measure`; each number of features and batch size has its own line of panels.
    """
    blocks = list(dict.fromkeys((row["features"], row["batch"]) for row in rows))
    shown = [(name, "ms", 1.0) for name in dict.fromkeys(row["operation"] for row in rows)]
    shown.append(("step", "memory", 1e6))
    depths = sorted({row["depth"] for row in rows})
    figure, axes = panels(len(blocks), len(shown), 3.0, 2.6)
    for ax, ((features, batch), (operation, key, unit)) in zip(axes, product(blocks, shown), strict=True):
        curves: dict[str, dict[int, float]] = {}
        for row in rows:
            if (row["features"], row["batch"], row["operation"]) == (features, batch, operation):
                label = f"{row['contestant']}, {row['precision']}, width {row['width']}"
                curves.setdefault(label, {})[row["depth"]] = row[key] / unit
        for index, (label, curve) in enumerate(curves.items()):
            ax.plot(depths, [curve[depth] for depth in depths], COLORS[index % len(COLORS)], label=label)
        ax.set(xscale="log", yscale="log", xlabel="couplings")
        ax.set_xticks(depths, [str(depth) for depth in depths])
        ax.xaxis.minorticks_off()
        name = f"{operation}, {'ms' if key == 'ms' else 'MB'}"
        ax.set_title(f"{name}\n{features} features, batch {batch}", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure
