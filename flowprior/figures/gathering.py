"""What several figures gather: paths between codes, added attributes, examples with their conditions."""

from collections.abc import Iterator

import torch
from torch import Tensor

from flowprior.data.attributes import Attributes
from flowprior.data.dataset import thin
from flowprior.figures.runs import FigureRun, NotApplicable
from flowprior.latent import attribute_vector, both_paths
from flowprior.latent.interpolation import Paths

ATTRIBUTES = ("Eyeglasses", "Smiling", "Male", "Blond_Hair")  # of CelebA; elsewhere as many classes


def between(run: FigureRun, start: Tensor, end: Tensor, steps: int) -> Paths:
    """The paths through z and through z0 between codes (N, *event)."""
    return both_paths(run.invertible.to_base, run.invertible.from_base, start, end, steps, run.line)


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
