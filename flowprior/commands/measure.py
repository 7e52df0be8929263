"""Metrics of a trained model against its data set's test examples, by name."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowprior.bindings import nearest
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.metrics.features import FeatureNetwork
from flowprior.models import Autoencoder
from flowprior.training.stages import with_context

CHUNK = 500  # examples at once through encoder and decoder
Values = dict[str, float]
Facts = dict[str, Any]


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


def measure(
    model: Autoencoder,
    source: Source,
    names: Sequence[str],
    *,
    count: int = 10_000,
    weights: Path | None = None,
    download: bool = False,
    seed: int = 0,
) -> Measured:
    """The metrics `names` of `model`, which is in evaluation mode.

    - reconstruction: mean squared error per pixel of reconstructed test images in [0, 1].
    - nll: E_q[-log p(z)] of the latents of the test images, in nats.
    - fid, fd_squeezenet, fd_classifier: Fréchet distance of `count` samples from the test images.
    - the same with `_reconstruction`: of reconstructed test images, which samples can hardly beat.
    - prd, prd_squeezenet, prd_classifier: F8 (recall) and F1/8 (precision) of as many samples as test images.
    - kid: the kernel distance on Inception's features.

    Args:
        count: samples drawn.
        weights: folder of the feature networks' weights; by default FLOWPRIOR_WEIGHTS.
        download: whether the Inception weights may be downloaded.
        seed: of the samples and of posterior noise.

    Raises:
        InputError: on an unknown name, one that does not suit the data, or missing weights.
    """
    check_metrics(names, source)
    job = _Job(model, source, count, weights, download, seed)
    found = Measured()
    for name in dict.fromkeys(names):
        with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values, facts = METRICS[name](job)
        notes = sorted({str(warning.message) for warning in caught})
        found.values.update(values)
        found.facts[name] = facts | ({"notes": notes + facts.get("notes", [])} if notes else {})
    return found


class _Job:
    """What the metrics share: the data, the samples, the feature networks."""

    def __init__(
        self, model: Autoencoder, source: Source, count: int, weights: Path | None, download: bool, seed: int
    ) -> None:
        self.model, self.source, self.count, self.seed = model, source, count, seed
        self.weights, self.download = weights, download
        self.test = source.test()
        self.networks: dict[str, FeatureNetwork] = {}

    def images(self) -> Iterator[Tensor]:
        """The test examples as the model reads them, in chunks."""
        for chunk in self.test.x.split(CHUNK):
            yield as_input(chunk.to(self.model.device))

    def context(self) -> Tensor | None:
        """A context for each test example, where the prior needs one."""
        if self.model.prior.context_features is None:
            return None
        return with_context(self.model.prior, self.test.tensors()).get("context")

    def reconstructions(self) -> Iterator[Tensor]:
        for x in self.images():
            yield self.model.reconstruct(x)

    def samples(self, count: int | None = None) -> Iterator[Tensor]:
        """Samples in chunks, the same each time; conditional ones on the test set's contexts, in turn."""
        torch.manual_seed(self.seed)
        count, context = count or self.count, self.context()
        if context is None:
            z = self.model.prior.sample(count)
        else:
            rows = torch.arange(count) % len(context)
            z = self.model.prior.sample(1, context[rows].to(self.model.device))[0]
        for chunk in z.split(CHUNK):
            yield self.model.decode(chunk)

    def network(self, kind: str) -> FeatureNetwork:
        """The feature network "inception", "squeezenet" or "classifier", made once."""
        if kind not in self.networks:
            self.networks[kind] = _NETWORKS[kind](self).to(self.model.device)
        return self.networks[kind]


def as_input(x: Tensor) -> Tensor:
    """Stored examples as a model reads them: bytes become floats in [0, 1]."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _reconstruction(job: _Job) -> tuple[Values, Facts]:
    from flowprior.metrics.reconstruction import reconstruction_error

    error = reconstruction_error(job.test.x, job.model.reconstruct, device=job.model.device)
    return {"reconstruction": error.mse}, {"unit": "squared error per pixel"} | asdict(error)


def _nll(job: _Job) -> tuple[Values, Facts]:
    from flowprior.metrics.likelihood import latent_nll

    torch.manual_seed(job.seed)
    z = torch.cat([job.model.encode(x).sample() for x in job.images()])
    try:
        nll = latent_nll(job.model.prior.log_prob, z, job.context(), device=job.model.device)
    except (
        InputError
    ) as error:  # a flow that leaves the range of floats on some latents: measured, not hidden
        return {"nll": math.inf}, {"notes": [str(error)]}
    return {"nll": nll.mean}, {"unit": "nats per latent"} | asdict(nll)


def _frechet(name: str, kind: str, reconstructed: bool = False) -> Callable[[_Job], tuple[Values, Facts]]:
    def distance(job: _Job) -> tuple[Values, Facts]:
        from flowprior.metrics.frechet import cached_statistics, frechet

        network = job.network(kind)
        real = cached_statistics(job.test.x, network, data_fingerprint=job.test.fingerprint)
        result = frechet(job.reconstructions() if reconstructed else job.samples(), real, network)
        facts = {key: value for key, value in asdict(result).items() if key not in ("metric", "value")}
        return {name: result.value}, facts | {"real_set": "test", "preprocessing": job.test.preprocessing}

    return distance


def _features(job: _Job, kind: str) -> tuple[Tensor, Tensor, Facts]:
    """Features of samples and of test images, equally many, and what they depend on."""
    from flowprior.metrics.features import extract

    network = job.network(kind)
    count = min(job.count, len(job.test))
    ours = torch.cat([part for chunk in job.samples(count) for part in extract(chunk, network)]).cpu()
    theirs = torch.cat(list(extract(job.test.x[:count], network))).cpu()
    facts = {"resize": network.resize, "checksum": network.checksum, "real_set": "test", "real": count}
    return ours, theirs, facts | {"facts": dict(network.facts)}


def _prd(name: str, kind: str) -> Callable[[_Job], tuple[Values, Facts]]:
    def summary(job: _Job) -> tuple[Values, Facts]:
        from flowprior.metrics.precision_recall import prd

        ours, theirs, facts = _features(job, kind)
        result = prd(ours, theirs, seed=job.seed)
        values = {f"{name}_f8": result.f8, f"{name}_f1_8": result.f1_8}
        return values, facts | {"samples": result.samples}

    return summary


def _kid(job: _Job) -> tuple[Values, Facts]:
    from flowprior.metrics.kernel_distance import kernel_distance

    ours, theirs, facts = _features(job, "inception")
    result = kernel_distance(ours, theirs, subset_size=min(1000, len(theirs)), seed=job.seed)
    return {"kid": result.mean}, facts | {"standard_deviation": result.std, "samples": result.samples}


def _inception(job: _Job) -> FeatureNetwork:
    from flowprior.metrics.features import inception_features

    return inception_features(job.weights, download=job.download)


def _squeezenet(job: _Job) -> FeatureNetwork:
    from flowprior.metrics.features import squeezenet_features

    return squeezenet_features(job.weights)


def _classifier(job: _Job) -> FeatureNetwork:
    from flowprior.metrics.classifier import classifier_features

    train, test = job.source.train(), job.test
    if train.label is None:
        raise InputError(
            f"The classifier's metrics need labels, and {job.source.name!r} has none: leave them out."
        )
    return classifier_features(
        train.x,
        train.label,
        test.x,
        test.label,
        data_fingerprint=f"{train.fingerprint} {test.fingerprint}",
        device=job.model.device,
    )


_NETWORKS = {"inception": _inception, "squeezenet": _squeezenet, "classifier": _classifier}
_FRECHET = {"fid": "inception", "fd_squeezenet": "squeezenet", "fd_classifier": "classifier"}
_PRD = {"prd": "inception", "prd_squeezenet": "squeezenet", "prd_classifier": "classifier"}
OF_ANYTHING = ("reconstruction", "nll")
METRICS: dict[str, Callable[[_Job], tuple[Values, Facts]]] = {
    "reconstruction": _reconstruction,
    "nll": _nll,
    **{name: _frechet(name, kind) for name, kind in _FRECHET.items()},
    **{f"{n}_reconstruction": _frechet(f"{n}_reconstruction", kind, True) for n, kind in _FRECHET.items()},
    **{name: _prd(name, kind) for name, kind in _PRD.items()},
    "kid": _kid,
}
