"""Metrics of a trained model against its data set's test examples, by name."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowprior.bindings import nearest
from flowprior.data.dataset import Dataset
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.metrics.features import FeatureNetwork
from flowprior.models import Autoencoder
from flowprior.tensors import numel
from flowprior.training.stages import with_context

CHUNK = 500  # examples at once through encoder and decoder


@dataclass(frozen=True)
class Measured:
    """Values by metric, and what each depends on."""

    values: dict[str, float] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


def measure(
    model: Autoencoder,
    source: Source,
    names: Sequence[str],
    *,
    count: int = 10_000,
    weights: Path | None = None,
    seed: int = 0,
) -> Measured:
    """The metrics `names` of `model`, which is in evaluation mode.

    - reconstruction: mean squared error per pixel of reconstructed test images, in units of [0, 1]².
    - nll: E_q[-log p(z)] of the latents of the test images, in nats.
    - fid, fd_squeezenet, fd_classifier: Fréchet distance of `count` samples from the test images.
    - the same with `_reconstruction`: of reconstructed test images, which samples can hardly beat.

    Args:
        count: samples drawn.
        weights: folder of the feature networks' weights; by default FLOWPRIOR_WEIGHTS.
        seed: of the samples and of posterior noise.

    Raises:
        InputError: on an unknown name, or one that does not suit the data.
    """
    for name in names:
        if name not in METRICS:
            offer = nearest(name, METRICS) or f": there are {', '.join(METRICS)}."
            raise InputError(f"Unknown metric '{name}'{offer}")
    job = _Job(model, source, count, weights, seed)
    found = Measured()
    for name in dict.fromkeys(names):
        with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.manual_seed(seed)
            found.values[name], facts = METRICS[name](job)
        notes = sorted({str(warning.message) for warning in caught})
        found.facts[name] = facts | ({"notes": notes} if notes else {})
    return found


class _Job:
    """What the metrics share: the data, the samples' latents, the feature networks."""

    def __init__(
        self, model: Autoencoder, source: Source, count: int, weights: Path | None, seed: int
    ) -> None:
        self.model, self.source, self.count, self.weights, self.seed = model, source, count, weights, seed
        self.networks: dict[str, FeatureNetwork] = {}

    @property
    def test(self) -> Dataset:
        return self.source.test()

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

    def samples(self) -> Iterator[Tensor]:
        """`count` samples in chunks; conditional ones on the contexts of the test set, in turn."""
        context = self.context()
        if context is None:
            z = self.model.prior.sample(self.count)
        else:
            rows = torch.arange(self.count) % len(context)
            z = self.model.prior.sample(1, context[rows].to(self.model.device))[0]
        for chunk in z.split(CHUNK):
            yield self.model.decode(chunk)

    def network(self, metric: str) -> FeatureNetwork:
        """The feature network of a Fréchet distance."""
        if metric not in self.networks:
            self.networks[metric] = _NETWORKS[metric](self).to(self.model.device)
        return self.networks[metric]


def as_input(x: Tensor) -> Tensor:
    """Stored examples as a model reads them: bytes become floats in [0, 1]."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def _reconstruction(job: _Job) -> tuple[float, dict[str, Any]]:
    total = 0.0
    for x in job.images():
        total += (x - job.model.reconstruct(x)).square().double().sum().item()
    unit = "mean squared error per pixel" if job.test.x.dtype == torch.uint8 else "mean squared error"
    return total / job.test.x.numel(), {"unit": unit, "examples": len(job.test)}


def _nll(job: _Job) -> tuple[float, dict[str, Any]]:
    context, total, start = job.context(), 0.0, 0
    for x in job.images():
        z = job.model.encode(x).sample()
        rows = None if context is None else context[start : start + len(x)].to(z.device)
        total -= job.model.prior.log_prob(z, rows).double().sum().item()
        start += len(x)
    facts = {"unit": "nats per latent", "dimensions": numel(job.model.prior.event_shape)}
    return total / len(job.test), facts | {"examples": len(job.test)}


def _frechet(metric: str, reconstructed: bool) -> Callable[[_Job], tuple[float, dict[str, Any]]]:
    def distance(job: _Job) -> tuple[float, dict[str, Any]]:
        from flowprior.metrics.frechet import cached_statistics, frechet

        test = job.test
        if test.x.dim() != 4:
            raise InputError(f"'{metric}' needs images, but {job.source.name!r} holds vectors: leave it out.")
        network = job.network(metric)
        real = cached_statistics(test.x, network, data_fingerprint=test.fingerprint)
        torch.manual_seed(job.seed)  # whatever the network's training or loading drew
        result = frechet(job.reconstructions() if reconstructed else job.samples(), real, network)
        facts = {name: value for name, value in asdict(result).items() if name not in ("metric", "value")}
        return result.value, facts | {"real_set": "test", "preprocessing": test.preprocessing}

    return distance


def _classifier(job: _Job) -> FeatureNetwork:
    from flowprior.metrics.classifier import classifier_features

    train, test = job.source.train(), job.test
    if train.label is None:
        raise InputError(f"'fd_classifier' needs labels, and {job.source.name!r} has none: leave it out.")
    with torch.enable_grad():
        return classifier_features(
            train.x,
            train.label,
            test.x,
            test.label,
            data_fingerprint=f"{train.fingerprint} {test.fingerprint}",
            device=job.model.device,
        )


def _squeezenet(job: _Job) -> FeatureNetwork:
    from flowprior.metrics.features import squeezenet_features

    return squeezenet_features(job.weights)


_NETWORKS: dict[str, Callable[[_Job], FeatureNetwork]] = {
    "fd_squeezenet": _squeezenet,
    "fd_classifier": _classifier,
}
METRICS: dict[str, Callable[[_Job], tuple[float, dict[str, Any]]]] = {
    "reconstruction": _reconstruction,
    "nll": _nll,
    **{name: _frechet(name, reconstructed=False) for name in _NETWORKS},
    **{f"{name}_reconstruction": _frechet(name, reconstructed=True) for name in _NETWORKS},
}
