"""What figures need of a model or its data, by name, and the sentence that says that it is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from flowprior.checks import check_known
from flowprior.errors import InputError
from flowprior.figures.runs import FigureRun, NotApplicable


@contextmanager
def refusal_as_reason() -> Iterator[None]:
    """What is refused inside, such as a density that is not finite, is a reason not to draw."""
    try:
        yield
    except InputError as error:
        raise NotApplicable(str(error)) from None


def check_needs(needs: Iterable[str], run: FigureRun) -> None:
    """See that a run has what a figure needs.

    Raises:
        NotApplicable: the sentence says what is missing.
        InputError: on a need that is not among `NEEDS`.
    """
    for need in needs:
        check_known("need of a figure", need, NEEDS)
        reason = NEEDS[need](run)
        if reason is not None:
            raise NotApplicable(reason)


def _images(run: FigureRun) -> str | None:
    return None if run.of_images else f"{run.source.name!r} holds vectors, not images."


def _flat_data(run: FigureRun) -> str | None:
    if run.of_images or tuple(run.source.image_shape) == (2,):
        return None
    return f"it needs images or 2-dimensional data, and {run.source.name!r} has neither."


def _flat_latents(run: FigureRun) -> str | None:
    shape = tuple(run.model.prior.event_shape)
    return None if shape == (2,) else f"it is for 2-dimensional latents, and z has {shape}."


def _density(run: FigureRun) -> str | None:
    prior = run.model.prior
    return None if prior.has_density else f"it shows a density, and {type(prior).__name__} has only samples."


def _invertible(run: FigureRun) -> str | None:
    try:
        _ = run.invertible
    except NotApplicable as reason:
        return str(reason)
    return None


def _normal_base(run: FigureRun) -> str | None:
    prior = run.model.prior
    if prior.has_normal_base and _invertible(run) is None:
        return None
    return (
        f"its paths run along the sphere of z0 ~ N(0, I), which this {type(prior).__name__} does not map z "
        "to: train a FlowPrior with `FlowPrior.base = 'normal'`."
    )


def _posterior_density(run: FigureRun) -> str | None:
    posterior = run.model.posterior
    if not posterior.deterministic:
        return None
    return f"it needs a posterior with a density, and this one is a {type(posterior).__name__}."


def _unconditional(run: FigureRun) -> str | None:
    return "it is for unconditional models." if run.model.conditional else None


def _conditional(run: FigureRun) -> str | None:
    return None if run.model.conditional else "it is for conditional models."


def _pictures_as_conditions(run: FigureRun) -> str | None:
    pictures = len(run.model.context_shape or ()) == 3
    return None if pictures else "it is for models whose conditions are pictures."


def _labels(run: FigureRun) -> str | None:
    if run.source.train().label is not None:
        return None
    return f"it needs labels, and {run.source.name!r} has none."


def _attributes(run: FigureRun) -> str | None:
    try:
        _ = run.attributes
    except InputError as error:
        return str(error)
    return None


NEEDS: dict[str, Callable[[FigureRun], str | None]] = {
    "images": _images,
    "images or 2-D data": _flat_data,
    "2-D latents": _flat_latents,
    "density": _density,
    "invertible prior": _invertible,
    "normal base": _normal_base,
    "posterior density": _posterior_density,
    "unconditional": _unconditional,
    "conditional": _conditional,
    "pictures as conditions": _pictures_as_conditions,
    "labels": _labels,
    "attributes": _attributes,
}
"""Name -> what is missing, in one sentence, or None; the order of a figure's needs is that of its checks."""
