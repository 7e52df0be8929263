"""The figures of prior against aggregate posterior (dpVAE): pockets, leakage, traversal, factors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from flowprior.commands.figures.drawing import NotApplicable, needs_images
from flowprior.data.dataset import Dataset, thin
from flowprior.errors import InputError
from flowprior.evaluation import aggregate_over_training
from flowprior.evaluation.overlap import DRAWS
from flowprior.experiments.experiment import Experiment
from flowprior.latent import crossing_depth, lerp
from flowprior.metrics.aggregate import AggregatePosterior
from flowprior.priors import DecoupledPrior, InvertiblePrior, StandardNormal
from flowprior.tensors import as_input

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from flowprior.plots.pockets import Pockets
    from flowprior.plots.traversals import Traversal, Way

T = TypeVar("T")
MARKED = 8  # low- and high-posterior points; the paper marks five
DOTS, IMAGES = 4000, 36  # points of a cloud, sampled images
CANDIDATES = 300  # pairs of test examples among which a traversal is chosen
STEPS = 129  # points of a path
FACTORS, VALUES, REACH = 5, 11, 5.0  # dimensions, images a row, standard deviations (Fig. 6)


def _said(drawer: Callable[[Experiment, Path], T]) -> Callable[[Experiment, Path], T]:
    """A density that is not finite is a reason not to draw."""

    @functools.wraps(drawer)
    def draw(experiment: Experiment, folder: Path) -> T:
        try:
            return drawer(experiment, folder)
        except InputError as error:
            raise NotApplicable(str(error)) from None

    return draw


@_said
def pockets(experiment: Experiment, folder: Path) -> Figure:
    """Samples, q(z), generation space and data with low- and high-posterior points (Fig. 1 and 3)."""
    from flowprior.plots.pockets import pocket_panels

    return pocket_panels([[("", pockets_of(experiment))]])


@_said
def leakage(experiment: Experiment, folder: Path) -> Figure:
    """LS(τ) against τ with its standard error (Fig. 4)."""
    from flowprior.metrics import leakage_curve
    from flowprior.plots.leakage import LeakageLine, leakage_panels

    _needs_one_density(experiment)
    prior, aggregate = experiment.model.prior, aggregate_of(experiment)
    z = aggregate.sample(DRAWS)
    found = leakage_curve(aggregate.log_prob(z), prior.log_prob(z), aggregate.event_shape.numel())
    line = LeakageLine("", found.thresholds, found.scores, found.standard_errors, found.shares)
    return leakage_panels({experiment.name: [line]})


@_said
def traversal(experiment: Experiment, folder: Path) -> Figure:
    """The straight line in z and that in z0 between the same two test examples (Fig. 5).

    Of `CANDIDATES` pairs of test examples of different classes it is the one whose straight line in z falls
    deepest in log q(z) below both its ends.
    """
    from flowprior.plots.traversals import traversal_panels

    spaces_of(experiment)
    aggregate, pairs = aggregate_of(experiment), candidates(experiment.source.test())
    pair = pairs[crossing_depths(experiment, aggregate, pairs).argmin()]
    return traversal_panels([traversal_of(experiment, aggregate, pair, experiment.name)])


@_said
def factors(experiment: Experiment, folder: Path) -> Image.Image:
    """The dimensions of z that say most about the data, each moved by itself (Fig. 6)."""
    return factor_sheet(experiment)


def spaces_of(experiment: Experiment) -> DecoupledPrior:
    """The prior of a model with a density over z as two spaces; those of N(0, I) are one.

    Raises:
        NotApplicable: if the posterior has no density, or the prior a context or no base space.
    """
    _needs_one_density(experiment)
    prior = experiment.model.prior
    if not isinstance(prior, InvertiblePrior):
        raise NotApplicable(f"it needs an invertible prior, and this one is a {type(prior).__name__}.")
    return prior if isinstance(prior, DecoupledPrior) else DecoupledPrior(prior)


def aggregate_of(experiment: Experiment) -> AggregatePosterior:
    """The aggregate posterior over the training examples of an experiment."""
    return aggregate_over_training(experiment.model, experiment.source)


def pockets_of(experiment: Experiment) -> Pockets:
    """What the panels of pockets show of a model.

    Raises:
        NotApplicable: as `spaces_of`, or if z, or data of vectors, is not 2-dimensional.
    """
    from flowprior.plots.pockets import Pockets, Space

    model, source, spaces = experiment.model, experiment.source, spaces_of(experiment)
    if tuple(spaces.event_shape) != (2,):
        raise NotApplicable(f"it is for 2-dimensional latents, and z has {tuple(spaces.event_shape)}.")
    image = len(source.image_shape) == 3
    if not image and tuple(source.image_shape) != (2,):
        raise NotApplicable(f"it needs images or 2-dimensional data, and {source.name!r} has neither.")
    aggregate = aggregate_of(experiment)
    low, _ = spaces.low_posterior(aggregate, MARKED, DRAWS)
    high, _ = spaces.high_posterior(aggregate, MARKED, DRAWS)
    z, draws = spaces.sample(IMAGES if image else DOTS), aggregate.sample(DOTS)
    train = source.train().x
    return Pockets(
        samples=model.decode(z),
        log_base=spaces.log_base(z),
        representation=Space(draws, low, high),
        generation=None if _is_one_space(spaces) else Space(*map(spaces.generation, (draws, low, high))),
        data=Space(None if image else train[thin(len(train), DOTS)], model.decode(low), model.decode(high)),
        circles=spaces.has_normal_base,
    )


def candidates(test: Dataset) -> Tensor:
    """Pairs of rows of a test set, of different classes where there are classes: (at most `CANDIDATES`, 2).

    Raises:
        NotApplicable: if there is none.
    """
    pairs = torch.randint(len(test), (8 * CANDIDATES, 2))
    kinds = torch.arange(len(test)) if test.label is None else test.label
    pairs = pairs[kinds[pairs[:, 0]] != kinds[pairs[:, 1]]][:CANDIDATES]
    if len(pairs) == 0:
        raise NotApplicable(f"it needs test examples of two classes, and {test.name!r} has not.")
    return pairs


def crossing_depths(experiment: Experiment, aggregate: AggregatePosterior, pairs: Tensor) -> Tensor:
    """How far log q(z) falls on the straight line between the codes of each pair of test rows: (P,), nats."""
    starts, ends = _codes(experiment, pairs.T.flatten()).unflatten(0, (2, len(pairs)))
    return crossing_depth(aggregate.log_prob, starts, ends).cpu()


def traversal_of(experiment: Experiment, aggregate: AggregatePosterior, pair: Tensor, name: str) -> Traversal:
    """The ways between the codes of two test rows; only the straight one where z0 is z.

    Raises:
        NotApplicable: as `spaces_of`, or if vectors of data are not 2-dimensional.
    """
    from flowprior.plots.traversals import DECOUPLED, STRAIGHT, Traversal, Way

    model, source, spaces = experiment.model, experiment.source, spaces_of(experiment)
    image = len(source.image_shape) == 3
    if not image and tuple(source.image_shape) != (2,):
        raise NotApplicable(f"it needs images or 2-dimensional data, and {source.name!r} has neither.")
    start, end = _codes(experiment, pair).split(1)

    def way(label: str, color: str, z: Tensor) -> Way:
        return Way(label, color, z.flatten(1), aggregate.log_prob(z), model.decode(z))

    line = lerp(start, end, torch.linspace(0, 1, STEPS, device=start.device))[:, 0]
    if _is_one_space(spaces):
        ways = [way("straight in z = z0", STRAIGHT, line)]
    else:
        curve = spaces.path(start, end, STEPS)[:, 0]
        ways = [way("straight in z", STRAIGHT, line), way("straight in z0", DECOUPLED, curve)]
    train = source.train().x
    return Traversal(
        name=name,
        ways=ways,
        log_density=aggregate.log_prob,
        codes=aggregate.sample(DOTS).flatten(1),
        data=None if image else train[thin(len(train), DOTS)],
    )


def factor_sheet(experiment: Experiment) -> Image.Image:
    """From the reconstruction of the first test image, in the middle, along the most informed dimensions.

    Dimensions are ranked by the variance of the posterior mean over the mean posterior variance, r, which the
    scale of a dimension does not change; beside each row stands ½ log(1 + r), the nats that a Gaussian
    channel of that ratio carries. A row moves by `REACH` standard deviations of the aggregate posterior.

    Raises:
        NotApplicable: without images, or as the figure of leakage.
    """
    from flowprior.plots.grids import interpolation_rows

    needs_images(experiment)
    _needs_one_density(experiment)
    model, aggregate = experiment.model, aggregate_of(experiment)
    noise = aggregate.scale.square().flatten(1).mean(0)
    signal = aggregate.loc.flatten(1).var(0, correction=0)
    ratio = signal / noise
    rows = ratio.argsort(descending=True)[:FACTORS]
    z = _codes(experiment, torch.tensor([0])).flatten()
    steps = torch.linspace(-REACH, REACH, VALUES).to(z)[:, None] * (signal + noise).sqrt()[rows]
    moved = z.repeat(VALUES, len(rows), 1)  # (values, rows, D)
    moved[:, torch.arange(len(rows)), rows] += steps
    nats = (0.5 * ratio[rows].log1p()).tolist()
    return interpolation_rows(
        model.decode(moved.unflatten(-1, model.prior.event_shape)),
        sides=[f"z[{row}], {value:.2f} nats" for row, value in zip(rows.tolist(), nats, strict=True)],
        tops={0: f"-{REACH:g} sd", VALUES // 2: "reconstruction", VALUES - 1: f"+{REACH:g} sd"},
    )


def _needs_one_density(experiment: Experiment) -> None:
    model = experiment.model
    if model.posterior.deterministic:
        raise NotApplicable(
            f"it needs a posterior with a density, and this one is a {type(model.posterior).__name__}."
        )
    if model.conditional:
        raise NotApplicable("it is for unconditional models.")


def _is_one_space(spaces: DecoupledPrior) -> bool:
    return isinstance(spaces.prior, StandardNormal)


def _codes(experiment: Experiment, rows: Tensor) -> Tensor:
    """The codes of rows of the test set, on the model's device."""
    model = experiment.model
    return model.codes(as_input(experiment.source.test().x[rows]).to(model.device))
