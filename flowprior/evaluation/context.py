"""What the metrics of one model share: the data, the samples, the feature networks."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor

from flowprior.data.dataset import Dataset
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation import overlap
from flowprior.metrics.aggregate import AggregatePosterior
from flowprior.metrics.features import FeatureNetwork
from flowprior.models import Autoencoder
from flowprior.tensors import as_input
from flowprior.training.stages import with_context

CHUNK = 500  # examples at once through encoder and decoder
DIVERGED = 0.01  # share of samples that may not be finite
Rows = TypeVar("Rows", bound=tuple[Tensor, ...])


class Diverged(InputError):
    """A prior whose samples are not finite."""


def finite(parts: Iterable[Rows], what: str) -> Iterator[Rows]:
    """Parts of tensors (n, ...) without the rows whose last tensor is not finite, as where a flow left the
    range of floats; a warning says how many of `what` there were.

    Raises:
        Diverged: at the end, if they are more than `DIVERGED` of all.
    """
    drawn = kept = 0
    for part in parts:
        good = part[-1].flatten(1).isfinite().all(1).cpu()
        drawn, kept = drawn + len(good), kept + int(good.sum())
        yield part if good.all() else cast(Rows, tuple(tensor[good.to(tensor.device)] for tensor in part))
    if drawn - kept > DIVERGED * drawn:
        raise Diverged(f"{drawn - kept} of {drawn} {what} are not finite: the prior has diverged.")
    if kept < drawn:
        warnings.warn(f"{drawn - kept} of {drawn} {what}, not finite, were left out.", stacklevel=2)


class Evaluation:
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

        Raises:
            Diverged: if too many are not finite, as `finite` has it.
        """
        count = count or self.count
        if self.contexts is not None:
            for _, images in self.at_conditions(count, 1):
                yield images[:, 0]
            return
        torch.manual_seed(self.seed)
        latents = self.model.prior.sample(count).split(CHUNK)
        for (images,) in finite(((self.model.decode(z),) for z in latents), "samples"):
            yield images

    def at_conditions(self, count: int, each: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`each` samples at `count` of the test set's contexts in turn, in chunks, the same each time: the
        test examples (n,), and (n, each, *data).

        Raises:
            Diverged: if too many are not finite, as `finite` has it.
        """

        def drawn() -> Iterator[tuple[Tensor, Tensor]]:
            torch.manual_seed(self.seed)
            for rows in (torch.arange(count) % len(self.test)).split(CHUNK // each):
                yield rows, self.model.sample(each, self.context(rows)).transpose(0, 1)

        yield from finite(drawn(), "samples")

    @cached_property
    def aggregate(self) -> AggregatePosterior:
        """The aggregate posterior over the training examples."""
        return aggregate_over_training(self.model, self.source)

    def low_posterior_samples(self) -> Iterator[Tensor]:
        torch.manual_seed(self.seed)
        for chunk in overlap.low_posterior(self.model, self.aggregate, self.count).split(CHUNK):
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
    return overlap.aggregate_of(model, (as_input(chunk.to(model.device)) for chunk in chunks))


def _inception(job: Evaluation) -> FeatureNetwork:
    from flowprior.metrics.features import inception_features

    return inception_features(job.weights, download=job.download)


def _squeezenet(job: Evaluation) -> FeatureNetwork:
    from flowprior.metrics.features import squeezenet_features

    return squeezenet_features(job.weights)


def _of_classes(make: Callable[..., FeatureNetwork]) -> Callable[[Evaluation], FeatureNetwork]:
    """What `make` gives for the classifier of the data set."""

    def network(job: Evaluation) -> FeatureNetwork:
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


def _classifier(job: Evaluation) -> FeatureNetwork:
    from flowprior.metrics.classifier import classifier_features

    return _of_classes(classifier_features)(job)


def _classifier_logits(job: Evaluation) -> FeatureNetwork:
    from flowprior.metrics.classifier import classifier_logits

    return _of_classes(classifier_logits)(job)


def _inception_logits(job: Evaluation) -> FeatureNetwork:
    from flowprior.metrics.features import inception_logits

    return inception_logits(job.weights, download=job.download)


def _pose(job: Evaluation) -> FeatureNetwork:
    """What finds joints, trained on the real images of the data set and kept."""
    from flowprior.metrics.pose import pose_regressor

    train, test = job.source.train(), job.test
    return pose_regressor(
        train.x,
        train.known["joints"],
        test.x,
        test.known["joints"],
        data_fingerprint=f"{train.fingerprint} {test.fingerprint}",
        device=job.model.device,
    )


_NETWORKS = {
    "pose": _pose,
    "inception": _inception,
    "squeezenet": _squeezenet,
    "classifier": _classifier,
    "inception_logits": _inception_logits,
    "classifier_logits": _classifier_logits,
}
