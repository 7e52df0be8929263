"""What metrics need, and the sentences that refuse them where it is missing."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from flowprior.checks import check_known
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation.context import BACKBONES, Evaluation
from flowprior.models import Autoencoder
from flowprior.registry import METRICS, Metric


class Need(NamedTuple):
    """Something that a model, a source or, once it is read, its examples have or lack."""

    of: Literal["model", "source", "examples"]
    has: Callable[[Any], bool]
    lacks: str  # how the sentence goes on after "needs", formatted with the model or the source


_NO_DENSITY = "a density of the prior, but {.prior.__class__.__name__} has only samples"
_DETERMINISTIC = (
    "a posterior with a density, such as GaussianPosterior(), but this model's is a "
    "{.posterior.__class__.__name__}"
)
_CONTINUOUS = (
    "a model whose likelihood is of stored pixels, such as a PartiallyInvertible with `pixels`, but "
    "{.__class__.__name__} has a density of continuous ones"
)
_SEVERAL = "a model that is encoder, draw and decoder, but {.__class__.__name__} infers in a way of its own"
_UNCONDITIONAL = "a conditional model, but this one has no context"
_CONDITIONAL = "one prior for all examples, but this model is conditional"
NEEDS = {
    "images": Need("source", lambda s: len(s.image_shape) == 3, "images, but {.name!r} holds vectors"),
    "labels": Need("examples", lambda s: s.train().label is not None, "labels, but {.name!r} has none"),
    "discrete factors": Need(
        "examples",
        lambda s: _discrete(s.test().known.get("factors")),
        "factors known by number, as those of sprites, but {.name!r} has none",
    ),
    "prior density": Need("model", lambda m: m.prior.has_density, _NO_DENSITY),
    "posterior density": Need("model", lambda m: not m.posterior.deterministic, _DETERMINISTIC),
    "stored pixels": Need("model", lambda m: m.levels is not None, _CONTINUOUS),
    "one latent": Need("model", lambda m: m.single_latent, _SEVERAL),
    "conditional model": Need("model", lambda m: m.conditional, _UNCONDITIONAL),
    "unconditional model": Need("model", lambda m: not m.conditional, _CONDITIONAL),
}


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
            check_known(f"need of the metric '{name}',", need, (*NEEDS, *BACKBONES))
        _check(record, "source", source)
        if record.data and source.name not in record.data:
            known = " or ".join(record.data)
            raise InputError(f"'{name}' is for {known}, and not for {source.name!r}: leave it out.")
        if model is not None:
            _check(record, "model", model)


def make_ready(evaluation: Evaluation, names: Sequence[str]) -> None:
    """Check metrics, read the data and make their backbones.

    Raises:
        InputError: as `check_metrics`, and on missing data, contexts, labels or weights.
    """
    check_metrics(names, evaluation.source, evaluation.model)
    _ = evaluation.contexts
    for name in names:
        _check(METRICS[name], "examples", evaluation.source)
        for need in METRICS[name].needs:
            if need in BACKBONES:
                evaluation.backbone(need)


def _discrete(factors: Tensor | None) -> bool:
    return factors is not None and bool((factors == factors.round()).all())


def applicable(names: Sequence[str], model: Autoencoder) -> tuple[str, ...]:
    """`names` without the metrics that need a density of a prior which has samples only."""
    density = model.prior.has_density
    return tuple(n for n in names if density or n not in METRICS or "prior density" not in METRICS[n].needs)


def _check(record: Metric, of: str, subject: Source | Autoencoder) -> None:
    inherited = (need for name in record.needs if name in BACKBONES for need in BACKBONES[name].needs)
    for name in (*record.needs, *inherited):
        need = NEEDS.get(name)
        if need is not None and need.of == of and not need.has(subject):
            raise InputError(f"'{record.name}' needs {need.lacks.format(subject)}: leave it out.")
