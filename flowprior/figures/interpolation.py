"""Interpolation of draws."""

import torch
from einops import rearrange

from flowprior.figures.gathering import STEPS
from flowprior.figures.runs import FigureRun
from flowprior.figures.sheet import Sheet, draw_sheet
from flowprior.latent import interpolate
from flowprior.registry import figure

DRAWS = 6  # pairs of z0


@figure("interpolation", needs=("images", "normal base"))
def interpolation(run: FigureRun) -> Sheet:
    """Spherical paths between draws of z0, a row each (GLF, Fig. 2f)."""
    model, prior = run.model, run.invertible
    start, end = torch.randn(2, DRAWS, *prior.event_shape, device=prior.device, dtype=prior.dtype)
    context = run.context(torch.arange(DRAWS))
    seen = model.prior_context(model.condition(context))
    z = interpolate(lambda z0: prior.from_base(z0, seen), start, end, STEPS)
    return draw_sheet([rearrange(model.decode(z, context), "step path ... -> path step ...")])
