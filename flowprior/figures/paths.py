"""The figure "paths": from one test image to another, through z0 and through z."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowprior.figures.gathering import between, decoded
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import path_sheet
from flowprior.registry import figure

if TYPE_CHECKING:
    from PIL import Image

PAIRS, STEPS = 5, 11


@figure("paths", needs=("images", "invertible prior", "unconditional"))
def paths(run: FigureRun) -> Image.Image:
    """Between test images, through z0 and through z (Morrow & Chiu, ICLR version, Fig. 6)."""
    start, end = run.random_images(2 * PAIRS).chunk(2)
    both = between(run, run.model.encode(start).mean, run.model.encode(end).mean, STEPS)
    return path_sheet({"z0": decoded(run, both.z0), "z": decoded(run, both.z)}, start, after=end)
