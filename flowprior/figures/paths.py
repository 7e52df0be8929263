"""Images along paths: between test images or draws of z0, towards attributes, along components."""

import torch
from einops import rearrange
from torch import Tensor

from flowprior.figures.gathering import added_attributes, between
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, draw_sheet, path_sheet
from flowprior.latent import interpolate, principal_components
from flowprior.registry import figure

STEPS = 11
PAIRS = 5  # of test images
DRAWS = 6  # pairs of z0
ADDED = 2  # test images of each attribute
MOVED = 5  # test images along components
COMPONENTS, REACH = 3, 1.5  # standard deviations, as in the paper


@figure("attributes", needs=("images", "invertible prior", "unconditional", "attributes"))
def attributes(run: FigureRun) -> Sheet:
    """Attributes added to test images without them, through z0 and through z (Morrow & Chiu, Fig. 6)."""
    names, images, ends = [], [], []
    for name, vector, x in added_attributes(run, ADDED):
        names += [f"+ {name}"] * len(x)
        images.append(x)
        ends.append(run.model.encode(x).mean + vector)
    x = torch.cat(images)
    return path_sheet(_rows_between(run, run.model.encode(x).mean, torch.cat(ends)), x, names=names)


@figure("components", needs=("images", "unconditional"))
def components(run: FigureRun) -> Sheet:
    """Test images moved along the principal components of the codes (Morrow & Chiu, Fig. 7)."""
    codes, _ = run.training_codes()
    axes = principal_components(codes, min(COMPONENTS, codes[0].numel()))
    x = run.random_images(MOVED)
    moved = axes.traverse(run.model.encode(x).mean, torch.linspace(-REACH, REACH, STEPS))  # (K, V, N, *event)
    rows = {f"PC {k + 1}": _decoded(run, path) for k, path in enumerate(moved)}
    return path_sheet(rows, x, tops={0: f"-{REACH} std", STEPS // 2: "0", STEPS - 1: f"+{REACH} std"})


@figure("interpolation", needs=("images", "normal base"))
def interpolation(run: FigureRun) -> Sheet:
    """Spherical paths between draws of z0, a row each (GLF, Fig. 2f)."""
    model, prior = run.model, run.invertible
    start, end = torch.randn(2, DRAWS, *prior.event_shape, device=prior.device, dtype=prior.dtype)
    context = run.context(torch.arange(DRAWS))
    seen = model.prior_context(model.condition(context))
    z = interpolate(lambda z0: prior.from_base(z0, seen), start, end, STEPS)
    return draw_sheet([rearrange(model.decode(z, context), "step path ... -> path step ...")])


@figure("paths", needs=("images", "invertible prior", "unconditional"))
def paths(run: FigureRun) -> Sheet:
    """Paths between test images, through z0 and through z (Morrow & Chiu, ICLR version, Fig. 6)."""
    start, end = run.random_images(2 * PAIRS).chunk(2)
    rows = _rows_between(run, run.model.encode(start).mean, run.model.encode(end).mean)
    return path_sheet(rows, start, after=end)


def _rows_between(run: FigureRun, start: Tensor, end: Tensor) -> dict[str, Tensor]:
    """The rows of a sheet: images decoded on both paths, (steps, N, C, H, W) each."""
    both = between(run, start, end, STEPS)
    return {"z0": _decoded(run, both.z0), "z": _decoded(run, both.z)}


def _decoded(run: FigureRun, path: Tensor) -> Tensor:
    """(steps, N, *event) -> images (steps, N, C, H, W), a step at a time."""
    return torch.stack([run.model.decode(z) for z in path])
