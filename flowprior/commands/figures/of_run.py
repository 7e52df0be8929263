"""The figures of a run, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowprior.commands.figures import conditional, latents, paths
from flowprior.commands.figures.drawing import NotApplicable, Picture, check_names, needs_images, save
from flowprior.errors import InputError
from flowprior.evaluation import contexts_of
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.runs import FIGURES, METRICS
from flowprior.tensors import as_input

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

SIDE = 8  # images along a side of a sheet
PATHS, PATH_STEPS = 6, 11
NEIGHBORS = 5


def draw(experiment: Experiment, folder: Path, names: Sequence[str] = (), seed: int = 0) -> list[Path]:
    """Draw the figures `names` into the run folder, or all that apply; returns where they are.

    Raises:
        InputError: on an unknown name, or a figure that does not apply; the sentence says why.
    """
    check_names(names, DRAWERS)
    written = []
    for name in names or DRAWERS:
        try:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(seed)
                figure = DRAWERS[name](experiment, folder)
        except NotApplicable as reason:
            if name in names and names is not OF_TRAINING:
                raise InputError(f"'{name}' cannot be drawn: {reason}") from None
            continue
        path = folder / f"{name}.png" if name in AT_TOP else folder / FIGURES / f"{name}.png"
        save(figure, path)
        written.append(path)
    return written


def sample_sheet(
    experiment: Experiment, title: str | None = None, seed: int = 0, count: int = SIDE**2
) -> Image.Image:
    """`count` samples; the same draws each time."""
    from flowprior.plots.grids import image_grid

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return image_grid(_samples(experiment, count), title=title)


def _samples(experiment: Experiment, count: int) -> Tensor:
    """(count, C, H, W); conditional ones on the contexts of the first test examples."""
    needs_images(experiment)
    context = _context(experiment, count)
    return experiment.model.sample(count) if context is None else experiment.model.sample(1, context)[0]


def _context(experiment: Experiment, count: int) -> Tensor | None:
    """The contexts of the first test examples, in turn, as the model reads them."""
    found = contexts_of(experiment.model, experiment.source.test())
    if found is None:
        return None
    return as_input(found[torch.arange(count) % len(found)].to(experiment.model.device))


def _curves(experiment: Experiment, folder: Path) -> Figure:
    from flowprior.plots.curves import read_metrics, training_curves

    try:
        metrics = read_metrics(folder / METRICS)
    except InputError as error:  # stopped before the first line was logged
        raise NotApplicable(str(error)) from None
    terms = {
        name: points for name, points in metrics.items() if name != "epoch" and not name.startswith("lr/")
    }
    return training_curves({folder.name: terms}, title=experiment.name)


def _samples_sheet(experiment: Experiment, folder: Path) -> Image.Image:
    from flowprior.plots.grids import image_grid

    return image_grid(_samples(experiment, SIDE**2))


def _reconstructions(experiment: Experiment, folder: Path) -> Image.Image:
    from flowprior.plots.grids import reconstruction_pairs

    needs_images(experiment)
    x = as_input(experiment.source.test().x[: SIDE * 4].to(experiment.model.device))
    context = _context(experiment, len(x))
    return reconstruction_pairs(x, experiment.model.reconstruct(x, context), columns=SIDE)


def _interpolation(experiment: Experiment, folder: Path) -> Image.Image:
    """Spherical paths between draws of z0 (GLF Fig. 2f)."""
    from flowprior.latent.interpolation import interpolate
    from flowprior.plots.grids import interpolation_rows
    from flowprior.priors.invertible import InvertiblePrior

    needs_images(experiment)
    model, prior = experiment.model, experiment.model.prior
    if not (prior.has_normal_base and isinstance(prior, InvertiblePrior)):
        raise NotApplicable(
            f"its paths run along the sphere of z0 ~ N(0, I), which this {type(prior).__name__} does not map "
            "z to: train a FlowPrior with `FlowPrior.base = 'normal'`."
        )
    ends = torch.randn(2, PATHS, *prior.event_shape, device=prior.device, dtype=prior.dtype)
    context = _context(experiment, PATHS)
    seen = model.prior_context(model.condition(context))
    z = interpolate(lambda z0: prior.from_base(z0, seen), ends[0], ends[1], PATH_STEPS)
    return interpolation_rows(model.decode(z, context))


def _neighbours(experiment: Experiment, folder: Path) -> Image.Image:
    """Samples beside the nearest training images (GLF Appendix G)."""
    from flowprior.latent.neighbors import nearest_neighbors
    from flowprior.plots.grids import neighbor_sheet

    samples = _samples(experiment, SIDE).cpu()
    examples = experiment.source.train().x
    distances, rows = nearest_neighbors(samples, examples, min(NEIGHBORS, len(examples)))
    return neighbor_sheet(samples, as_input(examples[rows]), distances)


def _latent(experiment: Experiment, folder: Path) -> Figure:
    """Codes in z0 and z, density and samples of a 2-dimensional latent (Morrow & Chiu, Fig. 2)."""
    from flowprior.plots.densities import latent_panels
    from flowprior.priors.invertible import InvertiblePrior

    model = experiment.model
    if tuple(model.prior.event_shape) != (2,):
        raise NotApplicable(f"it is for 2-dimensional latents, and z has {tuple(model.prior.event_shape)}.")
    if model.conditional:
        raise NotApplicable("it is for unconditional models.")
    if not model.prior.has_density:
        raise NotApplicable(f"it shows a density, and {type(model.prior).__name__} has only samples.")
    test = experiment.source.test()
    prior, codes = model.prior, model.codes(as_input(test.x))
    return latent_panels(
        lambda z: prior.log_prob(z.to(model.device)),
        codes,
        test.label,
        prior.sample(len(codes)).cpu(),
        base_codes=prior.to_base(codes.to(model.device))[0] if isinstance(prior, InvertiblePrior) else None,
        classes=test.classes,
    )


DRAWERS: dict[str, Callable[[Experiment, Path], Picture]] = {
    "curves": _curves,
    "samples": _samples_sheet,
    "reconstructions": _reconstructions,
    "interpolation": _interpolation,
    "neighbours": _neighbours,
    "latent": _latent,
    "pockets": latents.pockets,
    "leakage": latents.leakage,
    "traversal": latents.traversal,
    "factors": latents.factors,
    **paths.DRAWERS,
    **conditional.DRAWERS,
}
AT_TOP = ("samples", "reconstructions")  # beside the config; the others lie in RUN/figures
OF_TRAINING = ("samples", "reconstructions", "curves")
