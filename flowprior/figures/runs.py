"""What figures are drawn of, a trained run or the rows of a study, and what they may need of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from flowprior.checks import check_known
from flowprior.data.attributes import Attributes, read_attributes
from flowprior.data.dataset import thin
from flowprior.errors import InputError
from flowprior.evaluation.context import Trained
from flowprior.latent import lerp, slerp
from flowprior.latent.interpolation import Line
from flowprior.priors import DecoupledPrior, InvertiblePrior, StandardNormal
from flowprior.tensors import as_input

CODES = 20_000  # training examples encoded for means and components
DOTS = 4000  # points of a cloud


class NotApplicable(Exception):
    """Why a figure makes no sense for this run."""


@contextmanager
def refusal_as_reason() -> Iterator[None]:
    """What is refused inside, such as a density that is not finite, is a reason not to draw."""
    try:
        yield
    except InputError as error:
        raise NotApplicable(str(error)) from None


@dataclass(eq=False)
class FigureRun(Trained):
    """A trained run, as its figures take it; what several figures need is computed once.

    Args:
        folder: of the run, where the figures go.
        name: of the experiment, such as "glf/digits".
        weights: folder of the feature networks' weights; by default FLOWPRIOR_WEIGHTS.
    """

    folder: Path
    name: str
    weights: Path | None = None

    @property
    def of_images(self) -> bool:
        """Whether the data are images, not vectors."""
        return len(self.source.image_shape) == 3

    @property
    def invertible(self) -> InvertiblePrior:
        """The prior, which maps z to a z0 and back; else `NotApplicable`."""
        check_needs(("invertible prior",), self)
        return cast(InvertiblePrior, self.model.prior)

    @property
    def spaces(self) -> DecoupledPrior:
        """The invertible prior as two spaces; those of N(0, I) are one, see `one_space`."""
        prior = self.invertible
        return prior if isinstance(prior, DecoupledPrior) else DecoupledPrior(prior)

    @property
    def one_space(self) -> bool:
        """Whether z0 is z."""
        return isinstance(self.spaces.prior, StandardNormal)

    @property
    def line(self) -> Line:
        """The path between two z0: along the sphere for a base N(0, I), straight for others."""
        return slerp if self.model.prior.has_normal_base else lerp

    @cached_property
    def attributes(self) -> tuple[Attributes, Attributes]:
        """Binary attributes of the training and of the test examples; `NotApplicable` if there are none."""
        with refusal_as_reason():
            return read_attributes(self.source, train=True), read_attributes(self.source, train=False)

    def test_images(self, rows: Tensor) -> Tensor:
        """Test examples as the model reads them, on its device: (N, *data)."""
        return as_input(self.test.x[rows].to(self.model.device))

    def random_images(self, count: int) -> Tensor:
        """At most `count` random test examples, as `test_images`."""
        return self.test_images(torch.randperm(len(self.test))[:count])

    def samples(self, count: int) -> Tensor:
        """(count, *data); conditional ones on the contexts of the first test examples."""
        context = self.context(torch.arange(count))
        return self.model.sample(count) if context is None else self.model.sample(1, context)[0]

    def test_codes(self, rows: Tensor) -> Tensor:
        """Codes of rows of the test set, on the model's device."""
        return self.model.codes(self.test_images(rows))

    def training_codes(self) -> tuple[Tensor, Tensor]:
        """Codes of at most `CODES` training examples, on the model's device, and their rows."""
        train = self.source.train()
        rows = thin(len(train), CODES)
        codes = self.model.codes(as_input(part) for part in train.x[rows].split(512))
        return codes.to(self.model.device), rows

    def training_cloud(self) -> Tensor | None:
        """At most `DOTS` training vectors (N, D); None of images."""
        train = self.source.train().x
        return None if self.of_images else train[thin(len(train), DOTS)]


def _has_normal_base(run: FigureRun) -> bool:
    return isinstance(run.model.prior, InvertiblePrior) and run.model.prior.has_normal_base


_VECTORS = "{0.source.name!r} holds vectors, not images."
_NO_PLANE = "it needs images or 2-dimensional data, and {0.source.name!r} has neither."
_NOT_2D = "it is for 2-dimensional latents, and z has {1}."
_NO_DENSITY = "it shows the density of the prior, and {0.model.prior.__class__.__name__} has only samples."
_NO_BASE = "it needs a prior with a z0, and a {0.model.prior.__class__.__name__} has none."
_NO_SPHERE = (
    "its paths run along the sphere of z0 ~ N(0, I), which this {0.model.prior.__class__.__name__} does not "
    "map z to: train a FlowPrior with `FlowPrior.base = 'normal'`."
)
_NO_SPREAD = "it needs a posterior with a density, and this one is a {0.model.posterior.__class__.__name__}."
_NO_PICTURES = "it is for models whose conditions are pictures."
_NO_LABELS = "it needs labels, and {0.source.name!r} has none."
NEEDS: dict[str, tuple[Callable[[FigureRun], bool], str]] = {
    "images": (lambda run: run.of_images, _VECTORS),
    "images or 2-D data": (lambda run: run.of_images or tuple(run.source.image_shape) == (2,), _NO_PLANE),
    "2-D latents": (lambda run: tuple(run.model.prior.event_shape) == (2,), _NOT_2D),
    "density": (lambda run: run.model.prior.has_density, _NO_DENSITY),
    "invertible prior": (lambda run: isinstance(run.model.prior, InvertiblePrior), _NO_BASE),
    "normal base": (_has_normal_base, _NO_SPHERE),
    "posterior density": (lambda run: not run.model.posterior.deterministic, _NO_SPREAD),
    "unconditional": (lambda run: not run.model.conditional, "it is for unconditional models."),
    "conditional": (lambda run: run.model.conditional, "it is for conditional models."),
    "pictures as conditions": (lambda run: len(run.model.context_shape or ()) == 3, _NO_PICTURES),
    "labels": (lambda run: run.source.train().label is not None, _NO_LABELS),
    "attributes": (lambda run: len(run.attributes) > 0, "it needs attributes."),
}
"""Name -> whether a run has it, and the sentence if not. A figure's needs are checked in its own order."""


def check_needs(needs: Iterable[str], run: FigureRun) -> None:
    """Raise `NotApplicable` where a run lacks what a figure needs, `InputError` on a need not in `NEEDS`."""
    for need in needs:
        check_known("need of a figure", need, NEEDS)
        has, sentence = NEEDS[need]
        if not has(run):
            raise NotApplicable(sentence.format(run, tuple(run.model.prior.event_shape)))


@dataclass(frozen=True)
class StudyRuns:
    """The trained rows of a study.

    Args:
        rows: their names, such as "10d/beta_vae_h"; what stands before "/" is a variant of the study.
        twins: pairs of rows, the one with N(0, I) and the one with a decoupled prior.
        restore: row -> the run of its first seed, with trained weights and in evaluation mode.
        reports: row -> what the report.json of each of its seeds holds.
        sweeps: {line: {value: row without its variant}}, as `Study.sweeps`.
    """

    rows: tuple[str, ...]
    twins: tuple[tuple[str, str], ...]
    restore: Callable[[str], FigureRun]
    reports: Callable[[str], list[dict[str, Any]]]
    sweeps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def variants(self) -> tuple[str, ...]:
        """Those of the rows, each once; one without a name where the study has none."""
        return tuple(dict.fromkeys(map(variant, self.rows)))

    def twins_with(self, needs: Iterable[str]) -> list[dict[str, FigureRun]]:
        """Pairs of twins, {row: run}, of which both have what a figure needs."""
        suitable = []
        for pair in self.twins:
            twins = {row: self.restore(row) for row in pair}
            with suppress(NotApplicable):
                for run in twins.values():
                    check_needs(needs, run)
                suitable.append(twins)
        return suitable


def variant(row: str) -> str:
    """What stands before "/" in the name of a row."""
    return row.rpartition("/")[0]


def short(row: str) -> str:
    """The name of a row without its variant; "factor..." is a FactorVAE, whose traversals dpVAE shows."""
    return row.rpartition("/")[2]
