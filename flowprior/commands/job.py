"""What the metrics of one model share: the data, the samples, the feature networks."""

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from flowprior.commands import pockets
from flowprior.data.dataset import Dataset
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.metrics.aggregate import AggregatePosterior
from flowprior.metrics.features import FeatureNetwork
from flowprior.models import Autoencoder
from flowprior.tensors import as_input
from flowprior.training.stages import with_context

CHUNK = 500  # examples at once through encoder and decoder
DIVERGED = 0.01  # share of samples that may not be finite


class Diverged(InputError):
    """A prior whose samples are not finite."""


class Job:
    """The data, the samples and the feature networks of one call of `measure`, whose arguments these are."""

    def __init__(
        self,
        model: Autoencoder,
        source: Source,
        count: int,
        weights: Path | None,
        download: bool,
        seed: int,
        importance_samples: int,
    ) -> None:
        self.importance_samples = importance_samples
        self.model, self.source, self.count, self.seed = model, source, count, seed
        self.weights, self.download = weights, download
        self.test = source.test()
        self.networks: dict[str, FeatureNetwork] = {}

    @cached_property
    def contexts(self) -> Tensor | None:
        """A context for each test example, as stored, where the model needs one."""
        return contexts_of(self.model, self.test)

    def context(self, rows: Tensor) -> Tensor | None:
        """The contexts of some test examples as the model reads them."""
        found = self.contexts
        return None if found is None else as_input(found[rows].to(self.model.device))

    def examples(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The test examples as the model reads them, with their contexts, in chunks."""
        for rows in torch.arange(len(self.test)).split(CHUNK):
            yield as_input(self.test.x[rows].to(self.model.device)), self.context(rows)

    def reconstructions(self) -> Iterator[Tensor]:
        for x, context in self.examples():
            yield self.model.reconstruct(x, context)

    def samples(self, count: int | None = None) -> Iterator[Tensor]:
        """Samples in chunks, the same each time; conditional ones on the test set's contexts, in turn.

        Those that are not finite, where a flow left the range of floats, are left out with a warning.

        Raises:
            Diverged: if more than `DIVERGED` of them are.
        """
        drawn = kept = 0
        for images in self._samples(count or self.count):
            finite = images[images.isfinite().flatten(1).all(1)]
            drawn, kept = drawn + len(images), kept + len(finite)
            yield finite
        if drawn - kept > DIVERGED * drawn:
            raise Diverged(f"{drawn - kept} of {drawn} samples are not finite: the prior has diverged.")
        if kept < drawn:
            warnings.warn(f"{drawn - kept} of {drawn} samples, not finite, were left out.", stacklevel=2)

    def _samples(self, count: int) -> Iterator[Tensor]:
        torch.manual_seed(self.seed)
        if self.contexts is None:
            for z in self.model.prior.sample(count).split(CHUNK):
                yield self.model.decode(z)
            return
        for rows in (torch.arange(count) % len(self.contexts)).split(CHUNK):
            yield self.model.sample(1, self.context(rows))[0]

    @cached_property
    def aggregate(self) -> AggregatePosterior:
        """The aggregate posterior over the training examples."""
        return aggregate_over_training(self.model, self.source)

    def low_posterior_samples(self) -> Iterator[Tensor]:
        torch.manual_seed(self.seed)
        for chunk in pockets.low_posterior(self.model, self.aggregate, self.count).split(CHUNK):
            yield self.model.decode(chunk)

    def network(self, kind: str) -> FeatureNetwork:
        """A network of features or logits, made once."""
        if kind not in self.networks:
            self.networks[kind] = _NETWORKS[kind](self).to(self.model.device)
        return self.networks[kind]


def contexts_of(model: Autoencoder, dataset: Dataset) -> Tensor | None:
    """A context for each example, as stored, or None for a model that needs none.

    Raises:
        InputError: if the model needs contexts and the data has none.
    """
    if not model.conditional:
        return None
    found = with_context(model, dataset.tensors()).get("context")
    if found is None:
        raise InputError(
            f"The model needs a context for each example, but {dataset.name!r} has neither contexts nor "
            "labels: take a data set of pairs, or a model without contexts."
        )
    return found


def aggregate_over_training(model: Autoencoder, source: Source) -> AggregatePosterior:
    """The aggregate posterior over all training examples."""
    chunks = source.train().x.split(CHUNK)
    return pockets.aggregate_of(model, (as_input(chunk.to(model.device)) for chunk in chunks))


def _inception(job: Job) -> FeatureNetwork:
    from flowprior.metrics.features import inception_features

    return inception_features(job.weights, download=job.download)


def _squeezenet(job: Job) -> FeatureNetwork:
    from flowprior.metrics.features import squeezenet_features

    return squeezenet_features(job.weights)


def _of_classes(make: Callable[..., FeatureNetwork]) -> Callable[[Job], FeatureNetwork]:
    """What `make` gives for the classifier of the data set."""

    def network(job: Job) -> FeatureNetwork:
        train, test = job.source.train(), job.test
        if train.label is None:
            raise InputError(
                f"The classifier's metrics need labels, and {job.source.name!r} has none: leave them out."
            )
        return make(
            train.x,
            train.label,
            test.x,
            test.label,
            data_fingerprint=f"{train.fingerprint} {test.fingerprint}",
            device=job.model.device,
        )

    return network


def _classifier(job: Job) -> FeatureNetwork:
    from flowprior.metrics.classifier import classifier_features

    return _of_classes(classifier_features)(job)


def _classifier_logits(job: Job) -> FeatureNetwork:
    from flowprior.metrics.classifier import classifier_logits

    return _of_classes(classifier_logits)(job)


def _inception_logits(job: Job) -> FeatureNetwork:
    from flowprior.metrics.features import inception_logits

    return inception_logits(job.weights, download=job.download)


_NETWORKS = {
    "inception": _inception,
    "squeezenet": _squeezenet,
    "classifier": _classifier,
    "inception_logits": _inception_logits,
    "classifier_logits": _classifier_logits,
}
