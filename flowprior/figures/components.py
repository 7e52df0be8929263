"""Principal components of the codes."""

import torch

from flowprior.figures.gathering import STEPS, decoded
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, path_sheet
from flowprior.latent import principal_components
from flowprior.registry import figure

MOVED = 5  # test images along components
COMPONENTS, REACH = 3, 1.5  # standard deviations, as in the paper


@figure("components", needs=("images", "unconditional"))
def components(run: FigureRun) -> Sheet:
    """Test images moved along the principal components of the codes (Morrow & Chiu, Fig. 7)."""
    codes, _ = run.training_codes()
    axes = principal_components(codes, min(COMPONENTS, codes[0].numel()))
    x = run.random_images(MOVED)
    moved = axes.traverse(run.model.encode(x).mean, torch.linspace(-REACH, REACH, STEPS))  # (K, V, N, *event)
    rows = {f"PC {k + 1}": decoded(run, path) for k, path in enumerate(moved)}
    return path_sheet(rows, x, tops={0: f"-{REACH} std", STEPS // 2: "0", STEPS - 1: f"+{REACH} std"})
