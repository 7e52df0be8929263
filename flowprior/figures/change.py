"""The figure "change": the rate at which images change while an attribute is added."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from flowprior.evaluation.spaces import vgg_distance
from flowprior.figures.gathering import added_attributes, between
from flowprior.figures.runs import FigureRun, refusal_as_reason
from flowprior.figures.style import PATH_COLORS, Figure, panels, ruled
from flowprior.latent import rate_of_change
from flowprior.registry import figure

STEPS = 16  # images of a sequence, as in the paper
IMAGES = {"cpu": 64}  # sequences of each attribute; elsewhere 5000, as in the paper


@figure("change", needs=("images", "invertible prior", "unconditional", "attributes"))
def change(run: FigureRun) -> Figure:
    """How evenly images change while an attribute is added, by VGG's features (Morrow & Chiu, Fig. 8)."""
    model = run.model
    with refusal_as_reason():  # VGG's weights may be missing
        distance, _ = vgg_distance(model.device, run.weights)
    rates = {}
    for name, vector, x in added_attributes(run, IMAGES.get(model.device.type, 5000)):
        z = model.codes(x)
        both = between(run, z, z + vector, STEPS)._asdict()
        rates[f"+ {name}"] = {at: rate_of_change(path, model.decode, distance) for at, path in both.items()}
    return rate_curves(rates)


def rate_curves(rates: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Median and 5th to 95th percentile of the change from step to step: {panel: {line: (steps, N)}}."""
    figure, axes = panels(1, len(rates), 3.3, 2.7)
    for ax, (panel, lines) in zip(axes, rates.items(), strict=True):
        for (name, line), color in zip(lines.items(), PATH_COLORS, strict=False):
            low, middle, high = np.quantile(line.detach().double().cpu().numpy(), [0.05, 0.5, 0.95], axis=1)
            steps = np.arange(1, len(middle) + 1)
            ax.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
            ax.plot(steps, middle, color=color, linewidth=1.6, label=name)
        ax.set_title(panel, fontsize=10)
        ax.set_xlabel("step", fontsize=8)
        ax.set_ylim(bottom=0)
        ax.margins(x=0.02)
        ruled(ax)
    axes[0].set_ylabel("perceptual change (VGG-19)", fontsize=8)
    axes[0].legend(fontsize=7.5, frameon=False)
    return figure
