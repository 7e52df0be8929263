"""Figures of z against z0: paths between codes, attributes added to codes, principal components."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowprior.commands.figures.drawing import NotApplicable, Picture, needs_images
from flowprior.data.attributes import Attributes, read_attributes
from flowprior.data.dataset import thin
from flowprior.errors import InputError
from flowprior.evaluation.spaces import vgg_distance
from flowprior.experiments.experiment import Experiment
from flowprior.latent import attribute_vector, both_paths, lerp, principal_components, rate_of_change, slerp
from flowprior.latent.interpolation import Paths
from flowprior.models import Autoencoder
from flowprior.priors import InvertiblePrior
from flowprior.tensors import as_input

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

PAIRS, STEPS = 5, 11
PLANES, PLANE_STEPS = 3, 200
CANDIDATES = 16  # pairs, of which the plane shows those that lie furthest apart in it
CODES = 20_000  # training examples encoded for densities, means and components
COMPONENTS, REACH = 3, 1.5  # standard deviations, as Fig. 7
RATE_STEPS = 16  # images of a sequence, as Fig. 8
RATE_IMAGES = {"cpu": 64}  # elsewhere 5000, as Fig. 8
ATTRIBUTES = ("Eyeglasses", "Smiling", "Male", "Blond_Hair")  # of CelebA; elsewhere as many classes


def _paths(experiment: Experiment, folder: Path) -> Image.Image:
    """Between test images, through z0 and through z (ICLR version, Fig. 6)."""
    from flowprior.plots.grids import path_sheet

    model = _of_images(experiment)
    start, end = _test_images(experiment, 2 * PAIRS).chunk(2)
    found = _between(model, model.encode(start).mean, model.encode(end).mean, STEPS)
    return path_sheet(_rows(model, found), start, end)


def _plane(experiment: Experiment, folder: Path) -> Figure:
    """Such paths in the plane of the first two principal components (ICLR version, Fig. 4)."""
    from flowprior.plots.paths import path_plane

    model = _of_images(experiment)
    codes, _ = _codes(experiment)
    plane = principal_components(codes)
    start, end = model.encode(_test_images(experiment, 2 * CANDIDATES)).mean.chunk(2)
    apart = (plane.coordinates(end) - plane.coordinates(start)).norm(dim=1)
    far = apart.argsort(descending=True)[:PLANES]
    found = _between(model, start[far], end[far], PLANE_STEPS)
    line = "spherical" if model.prior.has_normal_base else "straight"
    curves = {"straight in z": found.z, f"{line} in z0": found.z0}
    return path_plane(
        plane.coordinates(codes),
        {name: plane.coordinates(curve) for name, curve in curves.items()},
        shares=plane.shares,
    )


def _attributes(experiment: Experiment, folder: Path) -> Image.Image:
    """Attributes added to test images without them, through z0 and through z (Fig. 6)."""
    from flowprior.plots.grids import path_sheet

    model = _of_images(experiment)
    names, images, ends = [], [], []
    for name, vector, x in _added(experiment, 2):
        names += [f"+ {name}"] * len(x)
        images.append(x)
        ends.append(model.encode(x).mean + vector)
    x = torch.cat(images)
    found = _between(model, model.encode(x).mean, torch.cat(ends), STEPS)
    return path_sheet(_rows(model, found), x, names=names)


def _change(experiment: Experiment, folder: Path) -> Figure:
    """How evenly images change while an attribute is added (Fig. 8), by local VGG features."""
    from flowprior.plots.paths import rate_curves

    model = _of_images(experiment)
    try:
        distance, _ = vgg_distance(model.device, None)
    except InputError as error:
        raise NotApplicable(str(error)) from None
    rates = {}
    for name, vector, x in _added(experiment, RATE_IMAGES.get(model.device.type, 5000)):
        z = model.codes(x)
        found = _between(model, z, z + vector, RATE_STEPS)
        lines = {"z": found.z, "z0": found.z0}
        rates[f"+ {name}"] = {
            space: rate_of_change(path, model.decode, distance) for space, path in lines.items()
        }
    return rate_curves(rates, ylabel="perceptual change (VGG-19)")


def _components(experiment: Experiment, folder: Path) -> Image.Image:
    """Test images moved along the principal components of the codes (Fig. 7)."""
    from flowprior.plots.grids import path_sheet

    model = _of_images(experiment, invertible=False)
    codes, _ = _codes(experiment)
    found = principal_components(codes, min(COMPONENTS, codes[0].numel()))
    x = _test_images(experiment, PAIRS)
    moved = found.traverse(model.encode(x).mean, torch.linspace(-REACH, REACH, STEPS))  # (K, V, N, *event)
    rows = {f"PC {k + 1}": _decode(model, path) for k, path in enumerate(moved)}
    return path_sheet(rows, x, tops={0: f"-{REACH} std", STEPS // 2: "0", STEPS - 1: f"+{REACH} std"})


def _of_images(experiment: Experiment, invertible: bool = True) -> Autoencoder:
    """The model, once it is known that the figures of this module apply to it."""
    prior = experiment.model.prior
    needs_images(experiment)
    if invertible and not isinstance(prior, InvertiblePrior):
        raise NotApplicable(f"it needs a prior with a z0, and a {type(prior).__name__} has none.")
    if experiment.model.conditional:
        raise NotApplicable("it is for unconditional models.")
    return experiment.model


def _test_images(experiment: Experiment, count: int) -> Tensor:
    """Random ones."""
    test = experiment.source.test()
    return as_input(test.x[torch.randperm(len(test))[:count]].to(experiment.model.device))


def _codes(experiment: Experiment) -> tuple[Tensor, Tensor]:
    """Codes of training images and the rows they have."""
    train = experiment.source.train()
    rows = thin(len(train), CODES)
    codes = experiment.model.codes(as_input(part) for part in train.x[rows].split(512))
    return codes.to(experiment.model.device), rows


def _between(model: Autoencoder, start: Tensor, end: Tensor, steps: int) -> Paths:
    prior = model.prior
    if not isinstance(prior, InvertiblePrior):
        raise NotApplicable(f"it needs a prior with a z0, and a {type(prior).__name__} has none.")
    return both_paths(
        prior.to_base, prior.from_base, start, end, steps, slerp if prior.has_normal_base else lerp
    )


def _rows(model: Autoencoder, paths: Paths) -> dict[str, Tensor]:
    return {"z0": _decode(model, paths.z0), "z": _decode(model, paths.z)}


def _decode(model: Autoencoder, path: Tensor) -> Tensor:
    """(steps, N, *event) -> images (steps, N, C, H, W), a step at a time."""
    return torch.stack([model.decode(z) for z in path])


def _added(experiment: Experiment, count: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Some attributes: their name, their vector in z, and at most `count` random test images without them."""
    try:
        training, testing = (read_attributes(experiment.source, train) for train in (True, False))
    except InputError as error:
        raise NotApplicable(str(error)) from None
    codes, rows = _codes(experiment)
    test = experiment.source.test()
    for k in _chosen(training):
        has, without = training.values[rows, k], (~testing.values[:, k]).nonzero().flatten()
        if has.all() or not has.any() or len(without) == 0:
            continue
        drawn = without[torch.randperm(len(without))[:count]]
        x = as_input(test.x[drawn].to(experiment.model.device))
        yield training.names[k], attribute_vector(codes, has), x


def _chosen(attributes: Attributes) -> list[int]:
    named = [attributes.names.index(name) for name in ATTRIBUTES if name in attributes.names]
    return named or thin(len(attributes.names), len(ATTRIBUTES)).tolist()


DRAWERS: dict[str, Callable[[Experiment, Path], Picture]] = {
    "paths": _paths,
    "plane": _plane,
    "attributes": _attributes,
    "change": _change,
    "components": _components,
}
