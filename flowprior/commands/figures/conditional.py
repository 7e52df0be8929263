"""Figures of conditional models: samples at a condition, appearance moved to another one, and between two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowprior.commands.figures.drawing import NotApplicable, Picture, needs_images
from flowprior.data.dataset import thin
from flowprior.evaluation import contexts_of
from flowprior.experiments.experiment import Experiment
from flowprior.latent import lerp, slerp
from flowprior.models import Autoencoder
from flowprior.priors import InvertiblePrior
from flowprior.tensors import as_input

if TYPE_CHECKING:
    from PIL import Image

Pair = tuple[Tensor, Tensor]
LINES, SAMPLES = 8, 8  # conditions, samples at each
APPEARANCES, STEPS = 8, 9


def conditions(experiment: Experiment, folder: Path) -> Image.Image:
    """A condition, its original, and samples at that condition, a line each (Morrow & Chiu, Fig. 9)."""
    from flowprior.plots.conditional import condition_sheet

    x, context = examples(experiment, LINES)
    return condition_sheet(context, x, {"": experiment.model.sample(SAMPLES, context)})


def _transfer(experiment: Experiment, folder: Path) -> Image.Image:
    """The appearance of the images at the side on the shapes at the top (Esser et al., Fig. 6).

    Appearance is what the prior leaves open, z0, which does not depend on the condition: z = from_base(z0|y).
    """
    from flowprior.plots.conditional import transfer_sheet

    (appearances, _), (own, others) = _halves(experiment, APPEARANCES)
    z0 = _to_base(experiment, appearances, own)
    return transfer_sheet(appearances, others, torch.stack([_at(experiment, row, others) for row in z0]))


def _appearance(experiment: Experiment, folder: Path) -> Image.Image:
    """Between the appearances of two images, at the shape of the first: a path in z0."""
    from flowprior.plots.conditional import appearance_rows

    (first, last), (shapes, others) = _halves(experiment, LINES)
    start, end = _to_base(experiment, first, shapes), _to_base(experiment, last, others)
    path = slerp if experiment.model.prior.has_normal_base else lerp
    points = path(start, end, torch.linspace(0, 1, STEPS))  # (steps, N, D)
    drawn = torch.stack([_decode(experiment.model, z0, shapes) for z0 in points])
    return appearance_rows(shapes, first, last, drawn)


def examples(experiment: Experiment, count: int) -> tuple[Tensor, Tensor]:
    """Test images, evenly spaced, and their contexts, as the model reads them.

    Raises:
        NotApplicable: if the model has no pictures for conditions.
    """
    needs_images(experiment)
    model = experiment.model
    test = experiment.source.test()
    seen = contexts_of(model, test)
    if seen is None or len(model.context_shape or ()) != 3:
        raise NotApplicable("it is for models whose conditions are pictures.")
    rows = thin(len(test), count)
    return as_input(test.x[rows].to(model.device)), as_input(seen[rows].to(model.device))


def _halves(experiment: Experiment, count: int) -> tuple[Pair, Pair]:
    """`count` test images and as many others, or fewer if there are not so many; and their contexts.

    Raises:
        NotApplicable: if there is only one test image.
    """
    x, context = examples(experiment, 2 * count)
    half = len(x) // 2
    if half == 0:
        raise NotApplicable("it needs two test images.")
    return (x[:half], x[half : 2 * half]), (context[:half], context[half : 2 * half])


def _invertible(model: Autoencoder) -> InvertiblePrior:
    if not isinstance(model.prior, InvertiblePrior):
        raise NotApplicable(f"it needs a prior with a z0, and a {type(model.prior).__name__} has none.")
    return model.prior


def _to_base(experiment: Experiment, x: Tensor, context: Tensor) -> Tensor:
    """z0 of the codes of images at their own conditions: (N, D)."""
    model = experiment.model
    seen = model.prior_context(model.condition(context))
    return _invertible(model).to_base(model.encode(x, context).mean, seen)[0]


def _decode(model: Autoencoder, z0: Tensor, context: Tensor) -> Tensor:
    """Images of z0 (N, D) at the conditions (N, Cy, H, W)."""
    condition = model.condition(context)
    z, _ = _invertible(model).from_base(z0, model.prior_context(condition))
    return model.likelihood.mean(model.conditioned_output(z, condition))


def _at(experiment: Experiment, z0: Tensor, context: Tensor) -> Tensor:
    """One z0 (D,) at all the conditions."""
    return _decode(experiment.model, z0.expand(len(context), -1), context)


DRAWERS: dict[str, Callable[[Experiment, Path], Picture]] = {
    "conditions": conditions,
    "transfer": _transfer,
    "appearance": _appearance,
}
