"""Metrics of a trained model against its data set's test examples, by name."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from flowprior.checks import nearest
from flowprior.data.dataset import thin
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation import conditional, overlap, spaces
from flowprior.evaluation.context import Diverged, Evaluation
from flowprior.evaluation.overlap import Facts, Values
from flowprior.models import Autoencoder
from flowprior.tensors import as_input

Metric = Callable[[Evaluation], tuple[Values, Facts]]


@dataclass(frozen=True)
class Measured:
    """Values by metric, and what each depends on."""

    values: Values = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)


def check_metrics(names: Sequence[str], source: Source) -> None:
    """Refuse unknown metrics and those that do not suit the data, before any work is done.

    Raises:
        InputError: as said.
    """
    if not names:
        raise InputError("No metric is named: write e.g. --metrics reconstruction,nll,fd_classifier.")
    for name in names:
        if name not in METRICS:
            offer = nearest(name, METRICS) or f": there are {', '.join(METRICS)}."
            raise InputError(f"Unknown metric '{name}'{offer}")
        if name not in OF_ANYTHING and len(source.image_shape) != 3:
            raise InputError(f"'{name}' needs images, but {source.name!r} holds vectors: leave it out.")
        conditional.check_source(name, source)


def measure(
    model: Autoencoder,
    source: Source,
    names: Sequence[str],
    *,
    count: int = 10_000,
    weights: Path | None = None,
    download: bool = False,
    seed: int = 0,
    importance_samples: int = 1000,
) -> Measured:
    """The metrics `names` of `model`, which is in evaluation mode.

    - reconstruction: mean squared error per pixel of reconstructed test images in [0, 1].
    - nll: E_q[-log p(z)] of the latents of the test images, in nats; the prior must have a density.
    - fid, fd_squeezenet, fd_classifier: Fréchet distance of `count` samples from the test images.
    - the same with `_reconstruction`: of reconstructed test images, which samples can hardly beat.
    - prd, prd_squeezenet, prd_classifier: F8 (recall) and F1/8 (precision) of as many samples as test images.
    - kid: the kernel distance on Inception's features.

    Of models with a posterior density (`pockets`), and of the prior but for off_manifold and lp_...; the
    aggregate posterior is taken over all training examples:
    - skl: both KL divergences between prior and aggregate posterior, in nats, and skl_density.
    - leakage: the leakage score at three thresholds.
    - off_manifold: the share of low-posterior samples, `count` of them, that lie farther from the training
      examples than 99 percent of the test examples do.
    - lp_fid, lp_fd_squeezenet, lp_fd_classifier: Fréchet distances of low-posterior samples, `count` of them.
    - iw_nll: the importance-weighted -log p(x) in nats (`nll` is that of latents).

    Of conditional models (`translation`), two samples or more at each of the test set's contexts in turn:
    - lpips, diversity_vgg, diversity_squeezenet: distance of two samples at one condition, `count` pairs.
    - condition_error: of the condition read back from samples, for data where it can be; also
      condition_error_reconstruction, of reconstructed test images.
    - factors: the appearance of sampled stick figures against its true law, also _energy and _spread.
    - context_gain: nats of log p(z|y) that the true condition gains over another example's.

    - is, is_classifier: the inception score of samples, by Inception and by a classifier of the data.

    Of z against z0 (`disentanglement`):
    - separability: how far hyperplanes decide a classifier's attributes, of 20 `count` draws.
    - ppl, ppl_lpips, ppl_squeezenet: perceptual path length of `count` pairs, by three networks' features.

    Args:
        count: samples drawn.
        weights: folder of the feature networks' weights; by default FLOWPRIOR_WEIGHTS.
        download: whether the Inception weights may be downloaded.
        seed: of the samples and of posterior noise.
        importance_samples: draws for each test example of iw_nll; the paper takes 21,000.

    Raises:
        InputError: on an unknown name, one that does not suit the data or the model, or missing weights.
    """
    check_metrics(names, source)
    check_densities(names, model)
    job = Evaluation(model, source, count, weights, download, seed, importance_samples)
    found = Measured()
    for name in dict.fromkeys(names):
        with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                values, facts = METRICS[name](job)
            except Diverged as error:
                worst = -math.inf if higher_is_better(name) else math.inf
                values, facts = {name: worst}, {"notes": [str(error)]}
        notes = sorted({str(warning.message) for warning in caught})
        found.values.update(values)
        found.facts[name] = facts | ({"notes": notes + facts.get("notes", [])} if notes else {})
    return found


def check_densities(names: Sequence[str], model: Autoencoder) -> None:
    """Refuse metrics of densities which `model` does not have.

    Raises:
        InputError: as said.
    """
    for name in names:
        if name in OF_PRIOR_DENSITY and not model.prior.has_density:
            raise InputError(
                f"'{name}' needs a density of the prior, but {type(model.prior).__name__} has only samples: "
                "leave it out."
            )
        if name in OF_CONDITIONS:
            conditional.check(name, model)
        if name in _OF_DENSITIES:
            overlap.check_overlap(model, name, conditional=name == "iw_nll")


def prepare(
    model: Autoencoder,
    source: Source,
    names: Sequence[str],
    *,
    weights: Path | None = None,
    download: bool = False,
) -> None:
    """Read the data and make the feature networks of the metrics `names`: what is missing is said now.

    Raises:
        InputError: on missing data, labels or weights.
    """
    job = Evaluation(model, source, 0, weights, download, 0, 0)
    for name in names:
        distance = conditional.DIVERSITIES.get(name, name)
        if distance in spaces.DISTANCES:
            spaces.DISTANCES[distance](model.device, weights)
        if name.startswith("condition_error") and source.name == "stick_figures":
            job.network("pose")
        for table in (_FRECHET, _PRD, {"kid": "inception"}, SCORED):
            kind = table.get(name.removeprefix("lp_").removesuffix("_reconstruction"))
            if kind is not None:
                job.network(kind)


def higher_is_better(metric: str) -> bool:
    """Whether a value says better when it is higher: precision, recall and diversity do, distances not."""
    return metric.startswith(_HIGHER)


def _reconstruction(job: Evaluation) -> tuple[Values, Facts]:
    from flowprior.metrics.reconstruction import reconstruction_error

    error = reconstruction_error(job.test.x, job.model.reconstruct, job.contexts, device=job.model.device)
    return {"reconstruction": error.mse}, {"unit": "squared error per pixel"} | asdict(error)


def _seeded(*names: str) -> Callable[[Metric], Metric]:
    """A metric of draws and densities: its own random state, and infinity where it cannot be had.

    A flow that leaves the range of floats on some latents is measured, not hidden.
    """

    def around(metric: Metric) -> Metric:
        def seeded(job: Evaluation) -> tuple[Values, Facts]:
            torch.manual_seed(job.seed)
            try:
                return metric(job)
            except InputError as error:
                return dict.fromkeys(names, math.inf), {"notes": [str(error)]}

        return seeded

    return around


@_seeded("nll")
def _nll(job: Evaluation) -> tuple[Values, Facts]:
    from flowprior.metrics.likelihood import latent_nll

    z, context = conditional.latents(job)
    nll = latent_nll(job.model.prior.log_prob, z, context, device=job.model.device)
    return {"nll": nll.mean}, {"unit": "nats per latent"} | asdict(nll)


@_seeded("skl", "skl_density")
def _skl(job: Evaluation) -> tuple[Values, Facts]:
    return overlap.skl(job.model, job.aggregate)


@_seeded(*(f"leakage_{share}" for share in overlap.SHARES))
def _leakage(job: Evaluation) -> tuple[Values, Facts]:
    return overlap.leakage(job.model, job.aggregate)


@_seeded("iw_nll")
def _importance(job: Evaluation) -> tuple[Values, Facts]:
    rows = thin(len(job.test), overlap.EXAMPLES)
    return overlap.importance(
        job.model, as_input(job.test.x[rows]), job.context(rows), job.importance_samples
    )


@_seeded("off_manifold")
def _off_manifold(job: Evaluation) -> tuple[Values, Facts]:
    low = torch.cat(list(job.low_posterior_samples())).cpu()
    return overlap.off_manifold(low, as_input(job.source.train().x), as_input(job.test.x))


def _frechet(name: str, kind: str, images: Callable[[Evaluation], Iterator[Tensor]]) -> Metric:
    def distance(job: Evaluation) -> tuple[Values, Facts]:
        from flowprior.metrics.frechet import cached_statistics, frechet

        network = job.network(kind)
        real = cached_statistics(job.test.x, network, data_fingerprint=job.test.fingerprint)
        result = frechet(images(job), real, network)
        facts = {key: value for key, value in asdict(result).items() if key not in ("metric", "value")}
        return {name: result.value}, facts | {"real_set": "test", "preprocessing": job.test.preprocessing}

    return distance


def _features(job: Evaluation, kind: str) -> tuple[Tensor, Tensor, Facts]:
    """Features of samples and of test images, equally many, and what they depend on."""
    from flowprior.metrics.features import extract

    network = job.network(kind)
    count = min(job.count, len(job.test))
    ours = torch.cat([part for chunk in job.samples(count) for part in extract(chunk, network)]).cpu()
    theirs = torch.cat(list(extract(job.test.x[:count], network))).cpu()
    facts = {"resize": network.resize, "checksum": network.checksum, "real_set": "test", "real": count}
    return ours, theirs, facts | {"facts": dict(network.facts)}


def _prd(name: str, kind: str) -> Metric:
    def summary(job: Evaluation) -> tuple[Values, Facts]:
        from flowprior.metrics.precision_recall import prd

        ours, theirs, facts = _features(job, kind)
        result = prd(ours, theirs, seed=job.seed)
        values = {f"{name}_f8": result.f8, f"{name}_f1_8": result.f1_8}
        return values, facts | {"samples": result.samples}

    return summary


def _inception_score(name: str) -> Metric:
    def score(job: Evaluation) -> tuple[Values, Facts]:
        from flowprior.metrics import extract, inception_score

        network = job.network(SCORED[name])
        logits = torch.cat([part.cpu() for chunk in job.samples() for part in extract(chunk, network)])
        found = inception_score(logits, seed=job.seed)
        return {name: found.value}, asdict(found) | {"checksum": network.checksum, "resize": network.resize}

    return score


def _kid(job: Evaluation) -> tuple[Values, Facts]:
    from flowprior.metrics.kernel_distance import kernel_distance

    ours, theirs, facts = _features(job, "inception")
    result = kernel_distance(ours, theirs, subset_size=min(1000, len(theirs)), seed=job.seed)
    return {"kid": result.mean}, facts | {"standard_deviation": result.std, "samples": result.samples}


def _separability(job: Evaluation) -> tuple[Values, Facts]:
    return spaces.separability(job.model, job.source, job.count, job.seed)


def _path_length(name: str) -> Metric:
    return lambda job: spaces.path_length(name, job.model, job.count, job.seed, job.weights)


_FRECHET = {"fid": "inception", "fd_squeezenet": "squeezenet", "fd_classifier": "classifier"}
_PRD = {"prd": "inception", "prd_squeezenet": "squeezenet", "prd_classifier": "classifier"}
SCORED = {"is": "inception_logits", "is_classifier": "classifier_logits"}
OF_CONDITIONS = (*conditional.DIVERSITIES, *conditional.SOURCES, "context_gain")
OF_ANYTHING = ("reconstruction", "nll", "skl", "leakage", "off_manifold", "iw_nll", "context_gain")
OF_PRIOR_DENSITY = ("nll", "skl", "leakage", "iw_nll", "context_gain")
_HIGHER = ("prd", "is", *conditional.DIVERSITIES, "factors_spread", "context_gain")
_OF_DENSITIES = ("skl", "leakage", "off_manifold", "iw_nll", *(f"lp_{name}" for name in _FRECHET))
METRICS: dict[str, Metric] = {
    "reconstruction": _reconstruction,
    "nll": _nll,
    "skl": _skl,
    "leakage": _leakage,
    "off_manifold": _off_manifold,
    "iw_nll": _importance,
    **{name: _frechet(name, kind, Evaluation.samples) for name, kind in _FRECHET.items()},
    **{
        f"lp_{n}": _frechet(f"lp_{n}", kind, Evaluation.low_posterior_samples) for n, kind in _FRECHET.items()
    },
    **{
        f"{n}_reconstruction": _frechet(f"{n}_reconstruction", kind, Evaluation.reconstructions)
        for n, kind in _FRECHET.items()
    },
    **{name: _prd(name, kind) for name, kind in _PRD.items()},
    "kid": _kid,
    "separability": _separability,
    **{name: _path_length(name) for name in spaces.DISTANCES},
    **{name: partial(conditional.diversity, name) for name in conditional.DIVERSITIES},
    **{name: _inception_score(name) for name in SCORED},
    "condition_error": conditional.condition_error,
    "condition_error_reconstruction": conditional.condition_error_reconstruction,
    "factors": conditional.factors,
    "context_gain": _seeded("context_gain")(conditional.context_gain),
}
