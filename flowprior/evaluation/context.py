"""What metrics share: the data, the draws and the networks of one evaluation, made when first asked for."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from flowprior.checks import check_known
from flowprior.data.dataset import Dataset
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.latent import least_supported
from flowprior.metrics import AggregatePosterior, FeatureNetwork
from flowprior.models import Autoencoder
from flowprior.models.posteriors import normal_moments
from flowprior.priors import InvertiblePrior
from flowprior.tensors import as_input
from flowprior.training.stages import with_context

CHUNK = 500  # examples at once through encoder and decoder
DIVERGED = 0.01  # share of samples that may not be finite
LP_DRAWS = 5  # draws of the prior for each low-posterior sample kept, as in dpVAE's code
Values = dict[str, float]
Facts = dict[str, Any]
Result = tuple[Values, Facts]
Rows = TypeVar("Rows", bound=tuple[Tensor, ...])
Make = TypeVar("Make", bound=Callable[["Evaluation"], Any])


class Diverged(InputError):
    """A prior whose samples are not finite."""


class Backbone(NamedTuple):
    """A network, or whatever else sees images for metrics: how it is made, and what the data must have."""

    make: Callable[["Evaluation"], Any]
    needs: tuple[str, ...] = ("images",)


BACKBONES: dict[str, Backbone] = {}


def backbone(name: str, *, needs: tuple[str, ...] = ("images",)) -> Callable[[Make], Make]:
    """Let metrics need, under `name`, what a function of the evaluation makes."""

    def enter(make: Make) -> Make:
        BACKBONES[name] = Backbone(make, needs)
        return make

    return enter


@dataclass(eq=False)
class Trained:
    """A trained model, in evaluation mode, and its data, with what metrics and figures read of both."""

    model: Autoencoder
    source: Source

    @property
    def test(self) -> Dataset:
        """The test examples."""
        return self.source.test()

    @cached_property
    def contexts(self) -> Tensor | None:
        """A context for each test example, as stored, where the model needs one; raises as `contexts_of`."""
        return contexts_of(self.model, self.test)

    def context(self, rows: Tensor) -> Tensor | None:
        """The contexts of rows of the test set, which repeats itself, as the model reads them."""
        if self.contexts is None:
            return None
        return as_input(self.contexts[rows % len(self.contexts)].to(self.model.device))

    @cached_property
    def aggregate(self) -> AggregatePosterior:
        """The aggregate posterior over the training examples."""
        chunks = self.source.train().x.split(CHUNK)
        posteriors = [self.model.encode(as_input(chunk.to(self.model.device))) for chunk in chunks]
        means, deviations = zip(*map(normal_moments, posteriors), strict=True)
        return AggregatePosterior(torch.cat(means), torch.cat(deviations))


@dataclass(eq=False)
class Evaluation(Trained):
    """A model on a data set: all that its metrics share.

    Args:
        count: samples drawn.
        weights: folder of the feature networks' weights; by default FLOWPRIOR_WEIGHTS.
        download: whether the Inception weights may be downloaded.
        seed: of the samples and of posterior noise.
        importance_samples: draws for each test example of iw_nll; dpVAE takes 21,000.
    """

    count: int = 10_000
    weights: Path | None = None
    download: bool = False
    seed: int = 0
    importance_samples: int = 1000
    _backbones: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _made: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def chunks(self) -> tuple[Tensor, ...]:
        """The rows of all test examples, in chunks."""
        return torch.arange(len(self.test)).split(CHUNK)

    def examples(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The test examples as the model reads them, with their contexts, in chunks."""
        for rows in self.chunks():
            yield as_input(self.test.x[rows].to(self.model.device)), self.context(rows)

    def reconstructions(self) -> Iterator[Tensor]:
        """The test examples through the posterior's mean and back, in chunks."""
        for x, context in self.examples():
            yield self.model.reconstruct(x, context)

    def posterior_draws(self) -> tuple[Tensor, Tensor | None]:
        """A draw z of q for each test example, and what the prior sees of its context."""
        z, seen = [], []
        for x, context in self.examples():
            z.append(self.model.encode(x, context).sample())
            seen.append(self.model.prior_context(self.model.condition(context)))
        return torch.cat(z), None if seen[0] is None else torch.cat([s for s in seen if s is not None])

    def samples(self, count: int | None = None) -> Iterator[Tensor]:
        """Samples in chunks, the same each time; conditional ones on the test set's contexts, in turn.

        Raises:
            Diverged: as `finite`.
        """
        count = count or self.count
        if self.contexts is not None:
            yield from (images[:, 0] for _, images in self.at_conditions(count, 1))
            return
        torch.manual_seed(self.seed)
        if not self.model.single_latent:
            sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
            yield from (images for (images,) in finite(((self.model.sample(n),) for n in sizes), "samples"))
            return
        latents = self.model.prior.sample(count).split(CHUNK)
        for (images,) in finite(((self.model.decode(z),) for z in latents), "samples"):
            yield images

    def at_conditions(self, count: int, each: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Test examples (n,) and samples at their contexts (n, each, *data), in turn, as `samples`."""
        torch.manual_seed(self.seed)
        chunks = (torch.arange(count) % len(self.test)).split(CHUNK // each)
        drawn = ((rows, self.model.sample(each, self.context(rows)).transpose(0, 1)) for rows in chunks)
        yield from finite(drawn, "samples")

    def draws(self, count: int) -> tuple[Tensor, Tensor | None]:
        """At most `count` draws z of the prior, an even number, and any z0 of theirs, as `samples`."""
        prior = self.model.prior
        torch.manual_seed(self.seed)
        z = torch.cat([part for (part,) in finite(((z,) for z in prior.sample(count).split(CHUNK)), "draws")])
        z = z[: len(z) // 2 * 2]
        if not isinstance(prior, InvertiblePrior):
            return z, None
        return z, torch.cat([prior.to_base(part)[0] for part in z.split(CHUNK)])

    @cached_property
    def low_posterior(self) -> Tensor:
        """The `count` of `LP_DRAWS` times as many draws of the prior with the least aggregate posterior."""
        return self._least(self.model.prior.sample, self.aggregate.log_prob)

    def low_posterior_samples(self) -> Iterator[Tensor]:
        """`low_posterior`, decoded, in chunks."""
        yield from map(self.model.decode, self.low_posterior.split(CHUNK))

    def low_posterior_floor(self) -> Iterator[Tensor]:
        """The same slice of the aggregate posterior's own draws, decoded: what a perfect prior would give."""
        least = self._least(self.aggregate.sample, self.aggregate.log_prob)
        yield from map(self.model.decode, least.split(CHUNK))

    def low_ratio_samples(self) -> Iterator[Tensor]:
        """As `low_posterior_samples`, the draws with the least log q - log p: what the prior overrates."""
        prior, log_q = self.model.prior, self.aggregate.log_prob
        least = self._least(prior.sample, lambda z: log_q(z) - prior.log_prob(z))
        yield from map(self.model.decode, least.split(CHUNK))

    def aggregate_samples(self) -> Iterator[Tensor]:
        """`count` draws of the aggregate posterior, decoded: the best that any prior can do."""
        torch.manual_seed(self.seed)
        yield from map(self.model.decode, self.aggregate.sample(self.count).split(CHUNK))

    def _least(self, draw: Callable[[int], Tensor], support: Callable[[Tensor], Tensor]) -> Tensor:
        torch.manual_seed(self.seed)
        return least_supported(draw, support, self.count, LP_DRAWS * self.count)[0]

    def backbone(self, name: str) -> Any:
        """What `@backbone(name)` makes, made once; `InputError` if there is none, or no weights."""
        check_known("backbone", name, BACKBONES)
        if name not in self._backbones:
            made = BACKBONES[name].make(self)
            self._backbones[name] = made.to(self.model.device) if isinstance(made, nn.Module) else made
        return self._backbones[name]

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gives, made when it is first asked for under `name`."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def learned(
        self, make: Callable[..., FeatureNetwork], train: Tensor | None = None, test: Tensor | None = None
    ) -> FeatureNetwork:
        """A small network that `make`, such as `classifier_features`, trains on the data set and keeps.

        What belongs to the training and test examples are their labels, unless `train` and `test` are given.
        """
        a, b = self.source.train(), self.test
        train, test = (a.label, b.label) if train is None else (train, test)
        known = {"data_fingerprint": f"{a.fingerprint} {b.fingerprint}", "device": self.model.device}
        return make(a.x, train, b.x, test, **known)


def finite(parts: Iterable[Rows], what: str) -> Iterator[Rows]:
    """Parts of tensors (n, ...) without the rows whose last tensor is not finite; a warning counts them.

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


def contexts_of(model: Autoencoder, dataset: Dataset) -> Tensor | None:
    """A context for each example, as stored; None for a model that needs none.

    Raises:
        InputError: if the model needs contexts and the data has none.
    """
    if not model.conditional:
        return None
    contexts = with_context(model, dataset.tensors()).get("context")
    if contexts is None:
        raise InputError(
            f"The model needs a context for each example, but {dataset.name!r} has neither contexts nor "
            "labels: take a data set of pairs, or a model without contexts."
        )
    return contexts
