"""The figure "attributes": attributes added to test images, through z0 and through z."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from flowprior.figures.gathering import added_attributes, between, decoded
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import path_sheet
from flowprior.registry import figure

if TYPE_CHECKING:
    from PIL import Image

IMAGES, STEPS = 2, 11  # of each attribute


@figure("attributes", needs=("images", "invertible prior", "unconditional", "attributes"))
def attributes(run: FigureRun) -> Image.Image:
    """Attributes added to test images without them, through z0 and through z (Morrow & Chiu, Fig. 6)."""
    names, images, ends = [], [], []
    for name, vector, x in added_attributes(run, IMAGES):
        names += [f"+ {name}"] * len(x)
        images.append(x)
        ends.append(run.model.encode(x).mean + vector)
    x = torch.cat(images)
    both = between(run, run.model.encode(x).mean, torch.cat(ends), STEPS)
    return path_sheet({"z0": decoded(run, both.z0), "z": decoded(run, both.z)}, x, names=names)
