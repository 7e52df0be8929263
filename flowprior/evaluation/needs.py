"""What metrics need, and the sentences that refuse them where it is missing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowprior.checks import check_known
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation.context import BACKBONES, Evaluation
from flowprior.models import Autoencoder
from flowprior.registry import METRICS, Metric

Missing = Mapping[str, Callable[[Any], str | None]]
"""By need: of what should have it, how a sentence that begins with "needs" goes on where it is missing."""


def check_metrics(names: Sequence[str], source: Source, model: Autoencoder | None = None) -> None:
    """Refuse unknown metrics, and those that suit neither the data nor, if given, the model; no data is read.

    Raises:
        InputError: in one sentence with the metric, what it needs and what there is.
    """
    if not names:
        raise InputError("No metric is named: write e.g. --metrics reconstruction,nll,fd_classifier.")
    for name in names:
        check_known("metric", name, METRICS)
        record = METRICS[name]
        for need in record.needs:
            known = (*OF_SOURCE, *OF_EXAMPLES, *OF_MODEL, *BACKBONES)
            check_known(f"need of the metric '{name}',", need, known)
        _check(record, OF_SOURCE, source)
        if record.data and source.name not in record.data:
            raise InputError(
                f"'{name}' is for {' or '.join(record.data)}, and not for {source.name!r}: leave it out."
            )
        if model is not None:
            _check(record, OF_MODEL, model)


def make_ready(evaluation: Evaluation, names: Sequence[str]) -> None:
    """Read the data and make the backbones of metrics.

    Raises:
        InputError: on missing data, contexts, labels or weights.
    """
    _ = evaluation.contexts
    for name in names:
        _check(METRICS[name], OF_EXAMPLES, evaluation.source)
        for need in METRICS[name].needs:
            if need in BACKBONES:
                evaluation.backbone(need)


def applicable(names: Sequence[str], model: Autoencoder) -> tuple[str, ...]:
    """`names` without the metrics that need a density of a prior which has samples only."""
    if model.prior.has_density:
        return tuple(names)
    return tuple(name for name in names if name not in METRICS or "prior density" not in METRICS[name].needs)


def _check(record: Metric, table: Missing, subject: Source | Autoencoder) -> None:
    also = (need for name in record.needs if name in BACKBONES for need in BACKBONES[name].needs)
    for need in (*record.needs, *also):
        missing = table[need](subject) if need in table else None
        if missing is not None:
            raise InputError(f"'{record.name}' needs {missing}: leave it out.")


def _images(source: Source) -> str | None:
    return None if len(source.image_shape) == 3 else f"images, but {source.name!r} holds vectors"


def _labels(source: Source) -> str | None:
    return None if source.train().label is not None else f"labels, but {source.name!r} has none"


def _prior_density(model: Autoencoder) -> str | None:
    if model.prior.has_density:
        return None
    return f"a density of the prior, but {type(model.prior).__name__} has only samples"


def _posterior_density(model: Autoencoder) -> str | None:
    if not model.posterior.deterministic:
        return None
    kind = type(model.posterior).__name__
    return f"a posterior with a density, such as GaussianPosterior(), but this model's is a {kind}"


def _conditional(model: Autoencoder) -> str | None:
    return None if model.conditional else "a conditional model, but this one has no context"


def _unconditional(model: Autoencoder) -> str | None:
    return "one prior for all examples, but this model is conditional" if model.conditional else None


OF_SOURCE: Missing = {"images": _images}
OF_EXAMPLES: Missing = {"labels": _labels}  # known once the data is read
OF_MODEL: Missing = {
    "prior density": _prior_density,
    "posterior density": _posterior_density,
    "conditional model": _conditional,
    "unconditional model": _unconditional,
}
