"""What several figures gather: paths between codes, added attributes, examples with their conditions."""

from collections.abc import Iterator

import torch
from torch import Tensor

from flowprior.data.attributes import Attributes
from flowprior.data.dataset import thin
from flowprior.figures.runs import FigureRun, NotApplicable
from flowprior.latent import attribute_vector, both_paths
from flowprior.latent.interpolation import Paths

STEPS = 11  # images of a path
ATTRIBUTES = ("Eyeglasses", "Smiling", "Male", "Blond_Hair")  # of CelebA; elsewhere as many classes


def between(run: FigureRun, start: Tensor, end: Tensor, steps: int) -> Paths:
    """The paths through z and through z0 between codes (N, *event)."""
    return both_paths(run.invertible.to_base, run.invertible.from_base, start, end, steps, run.line)


def rows_between(run: FigureRun, start: Tensor, end: Tensor) -> dict[str, Tensor]:
    """The rows of a sheet: images decoded on both paths, (steps, N, C, H, W) each."""
    both = between(run, start, end, STEPS)
    return {"z0": decoded(run, both.z0), "z": decoded(run, both.z)}


def decoded(run: FigureRun, path: Tensor) -> Tensor:
    """(steps, N, *event) -> images (steps, N, C, H, W), a step at a time."""
    return torch.stack([run.model.decode(z) for z in path])


def added_attributes(run: FigureRun, count: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Some attributes: their name, their vector in z, and at most `count` random test images without them;
    `NotApplicable` at the end if there is none that some examples have and others lack.
    """
    training, testing = run.attributes
    codes, rows = run.training_codes()
    divided = False
    for k in chosen(training):
        has, without = training.values[rows, k], (~testing.values[:, k]).nonzero().flatten()
        if has.all() or not has.any() or len(without) == 0:
            continue
        divided = True
        drawn = without[torch.randperm(len(without))[:count]]
        yield training.names[k], attribute_vector(codes, has), run.test_images(drawn)
    if not divided:
        raise NotApplicable(f"it needs attributes that some examples of {run.source.name!r} lack.")


def chosen(attributes: Attributes) -> list[int]:
    """Which attributes are shown: `ATTRIBUTES`, or as many evenly spaced ones."""
    named = [attributes.names.index(name) for name in ATTRIBUTES if name in attributes.names]
    return named or thin(len(attributes.names), len(ATTRIBUTES)).tolist()


def examples(run: FigureRun, count: int) -> tuple[Tensor, Tensor]:
    """Evenly spaced test images and their contexts; `NotApplicable` if the model needs none."""
    rows = thin(len(run.test), count)
    context = run.context(rows)
    if context is None:
        raise NotApplicable("it is for conditional models.")
    return run.test_images(rows), context


def halves(run: FigureRun, count: int) -> list[tuple[Tensor, Tensor]]:
    """`count` test images and as many others, and both contexts; `NotApplicable` if there is one only."""
    both = examples(run, 2 * count)
    half = len(both[0]) // 2
    if half == 0:
        raise NotApplicable("it needs two test images.")
    return [(each[:half], each[half : 2 * half]) for each in both]


def appearance_of(run: FigureRun, x: Tensor, context: Tensor) -> Tensor:
    """z0 of the codes of images at their own conditions, (N, D): what the prior leaves open given those."""
    seen = run.model.prior_context(run.model.condition(context))
    return run.invertible.to_base(run.model.encode(x, context).mean, seen)[0]


def at_conditions(run: FigureRun, z0: Tensor, context: Tensor) -> Tensor:
    """Images of z0 (N, D) at the conditions (N, Cy, H, W)."""
    condition = run.model.condition(context)
    z, _ = run.invertible.from_base(z0, run.model.prior_context(condition))
    return run.model.likelihood.mean(run.model.conditioned_output(z, condition))
