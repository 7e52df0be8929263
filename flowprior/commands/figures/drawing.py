"""What all figures share: how one is saved, and why one may make no sense."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from flowprior.checks import nearest
from flowprior.errors import InputError
from flowprior.experiments.experiment import Experiment
from flowprior.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

Picture: TypeAlias = Union["Figure", "Image.Image"]


class NotApplicable(Exception):
    """Why a figure makes no sense for this run."""


def save(figure: Picture, path: Path) -> None:
    """A figure or sheet as PNG, whole or not at all."""
    from PIL.Image import Image

    stream = io.BytesIO()
    if isinstance(figure, Image):
        figure.save(stream, format="PNG")
    else:
        figure.savefig(stream, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, stream.getvalue())


def check_names(names: Sequence[str], figures: Collection[str]) -> None:
    """Refuse names that are not among `figures`.

    Raises:
        InputError: as said.
    """
    for name in names:
        if name not in figures:
            offer = nearest(name, figures) or f": there are {', '.join(figures)}."
            raise InputError(f"Unknown figure '{name}'{offer}")


def needs_images(experiment: Experiment) -> None:
    """Raises `NotApplicable` on vectors."""
    if len(experiment.source.image_shape) != 3:
        raise NotApplicable(f"{experiment.source.name!r} holds vectors, not images.")
