"""What a config may build, and the functions that only configs need: choices, the model, the experiment."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from flowprior import registry
from flowprior.checks import check_count, check_known, check_one_of
from flowprior.data import Dataset, Source
from flowprior.errors import InputError, shown
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.study import Study
from flowprior.models import (
    Autoencoder,
    DeterministicPosterior,
    Likelihood,
    Posterior,
    UnitGaussianPosterior,
    VariationalUnet,
)
from flowprior.networks import AppearanceEncoder, ShapeBranch, ShapeEmbedding, UnetDecoder, UnetScales
from flowprior.priors import DecoupledPrior, EmbeddedPrior, HierarchicalPrior, Prior
from flowprior.tensors import as_event_shape, numel, within_memory
from flowprior.training import Stage

NOTHING = object()
MOST_SEED, MOST_THREADS = 2**62, 1024

Maps = Sequence[tuple[int, int, int]]  # shapes (channels, height, width), coarse first


def by_size(size: str, cpu: Any, paper: Any) -> Any:
    """The value of the chosen size; a config binds `size` to its macro SIZE (else an InputError)."""
    return {"cpu": cpu, "paper": paper}[check_one_of("SIZE", size, ("cpu", "paper"))]


def by_data(name: str, values: dict[str, Any], otherwise: Any = NOTHING) -> Any:
    """The value for one of several data sets; a config binds `name` to its macro DATA.

    Raises:
        InputError: if `values` does not name the data set, and there is no value `otherwise`.
    """
    if otherwise is NOTHING:
        check_known("DATA", name, values)
    return values.get(name, otherwise)


def autoencoder(
    features: int | tuple[int, ...],
    encoder: Callable[..., nn.Module],
    decoder: Callable[..., nn.Module],
    prior: Callable[..., Prior],
    posterior: Posterior | None = None,
    likelihood: Likelihood | None = None,
) -> Autoencoder:
    """An autoencoder whose parts agree on `features`, the prior's event shape.

    Args:
        encoder, decoder, prior: take `out_features`, `in_features` and `features`.
        posterior, likelihood: as for `Autoencoder`.
    """
    posterior = DeterministicPosterior() if posterior is None else posterior
    shape = as_event_shape(features)
    return Autoencoder(
        encoder(out_features=posterior.out_features(shape)),
        decoder(in_features=numel(shape)),
        prior(features=features),
        posterior=posterior,
        likelihood=likelihood,
    )


def variational_unet(
    size: int,
    channels: int,
    context_channels: int,
    prior: Callable[..., Prior],
    latent_channels: int = 128,
    filters: int = 32,
    max_filters: int = 128,
    blocks: int = 2,
    bottleneck: int = 4,
    dropout: float = 0.1,
    prior_branch: bool = False,
    posterior: Posterior | None = None,
    likelihood: Likelihood | None = None,
) -> VariationalUnet:
    """A Variational U-net whose parts agree on sizes; the defaults are the published ones at 256 pixels.

    Args:
        size, filters, max_filters, blocks, bottleneck, dropout: as for `UnetScales`.
        channels, context_channels: of image and condition.
        prior: takes `features` and `context_features`, each the shapes of the coarse and the fine map.
        latent_channels: C of the latent maps (C, s, s) and (C, 2s, 2s), s the bottleneck.
        prior_branch: whether the prior sees the condition through a shape branch of its own.
        posterior, likelihood: as for `VariationalUnet`.
    """
    posterior = UnitGaussianPosterior() if posterior is None else posterior
    scales = UnetScales(size, filters, max_filters, blocks, bottleneck, dropout)
    built: Any = prior(features=scales.latent_shapes(latent_channels), context_features=scales.context_shapes)
    if prior_branch:
        embedding = ShapeEmbedding(ShapeBranch(context_channels, scales))
        built = EmbeddedPrior(built, embedding, (context_channels, size, size))
    return VariationalUnet(
        ShapeBranch(context_channels, scales),
        AppearanceEncoder(
            channels, context_channels, latent_channels, scales, multiplier=posterior.multiplier
        ),
        UnetDecoder(channels, latent_channels, scales),
        built,
        posterior=posterior,
        likelihood=likelihood,
    )


def hierarchical_prior(
    features: Maps,
    context_features: Maps,
    prior: Callable[..., Prior],
    fine: Callable[..., Prior] | None = None,
) -> Prior:
    """p(z1|c1) p(z2|c2, z1): a `prior` for each scale, the finer on its own context and the coarser latents.

    The scales behind the first have the prior `fine`, if given. Both take `features` and `context_features`.
    """
    children: list[Any] = []  # whether they are invertible is checked there
    below = 0  # channels of the coarser latents
    for shape, (maps, *sides) in zip(features, context_features, strict=True):
        make = fine if children and fine is not None else prior
        children.append(make(features=shape, context_features=(maps + below, *sides)))
        below += shape[0]
    return HierarchicalPrior(children)


def concatenated_prior(features: Maps, context_features: Maps, prior: Callable[..., Prior]) -> Prior:
    """One prior of all latent maps as one vector, on all context maps as one vector."""
    return prior(features=sum(map(numel, features)), context_features=sum(map(numel, context_features)))


def decoupled_prior(features: int | tuple[int, ...], prior: Callable[..., Prior]) -> DecoupledPrior:
    """The two spaces of dpVAE over an invertible `prior`, in the place of a prior."""
    return DecoupledPrior(prior(features=features))  # type: ignore[arg-type]  # checked there


def fitting_model() -> AbstractContextManager[None]:
    """Inside, a model is built, and refused before it takes more than the memory of this machine."""
    return within_memory("The model", "make `features`, the widths of the networks or `transforms` smaller")


def check_name(name: str) -> None:
    """Refuse a name of an experiment that would lead out of the folder of runs, or is no folder's."""
    parts = name.split("/")
    if (
        not name.isprintable()
        or len(name) > 200
        or any(part.strip() in ("", ".", "..") or part[0] == "~" for part in parts)
    ):
        expected = "must be a name such as 'glf/digits', below the folder of runs"
        raise InputError(f"`experiment.name` (={shown(name)}) {expected}: use letters, digits, '_' and '-'.")


@runtime_checkable
class DataSet(Protocol):
    """A `Source`, or a data set of one's own; it has a `name`, `image_shape` and `context_shape` as well."""

    def train(self) -> Dataset: ...
    def test(self) -> Dataset: ...


@dataclass(frozen=True)
class Setup:
    """The top of every config, `experiment` there.

    Args:
        name, source, seed, metrics: as for `Experiment`; the name is by default that of the config.
        model: makes the model, such as `@autoencoder`.
        stages: such as `[@joint_stage, @prior_stage]`, each called with the model and the data.
        precision: of Lightning Fabric.
        steps: optimizer steps at most; None trains all stages to their ends.
        compile: compile the steps of training, see `train`.
        threads: of the CPU; None takes torch's own number. Small networks run best on one.
    """

    name: str
    source: DataSet
    model: Callable[[], Autoencoder]
    stages: Sequence[Callable[..., Stage]]
    seed: int = 0
    metrics: tuple[str, ...] = ("reconstruction", "nll")
    precision: str = "32-true"
    steps: int | None = None
    compile: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_count("experiment.seed", self.seed, least=0, most=MOST_SEED)
        if self.steps is not None:
            check_count("experiment.steps", self.steps, least=0)
        if self.threads is not None:
            check_count("experiment.threads", self.threads, most=MOST_THREADS)

    def build(self) -> Experiment:
        """The experiment, whose first weights follow from the seed, those of critics included."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            with fitting_model():
                model = self.model()
            stages = [make(model, lambda: self.source.train().tensors()) for make in self.stages]
        return Experiment(self.name, cast(Source, self.source), model, stages, self.seed, self.metrics)


def facts_of(source: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """Facts for `Builder`, of the data set that `source` gives: None where it has no such thing."""

    def image(dimension: int) -> int | None:
        shape = source().image_shape
        return shape[dimension] if len(shape) == 3 else None

    def classes() -> int | None:
        label = source().train().label
        return None if label is None else int(label.max()) + 1

    return {
        "channels": lambda: image(0),
        "size": lambda: image(2),
        "context_channels": lambda: (source().context_shape or [None])[0],
        "encoder.in_features": lambda: prod(source().image_shape),
        "decoder.out_features": lambda: prod(source().image_shape),
        "data_shape": lambda: source().image_shape,
        "dataset_size": lambda: len(source().train()),
        "classes": classes,
    }


def buildable() -> dict[str, Callable[..., Any]]:
    """All that a config may name: our own parts, and what plugins have registered.

    Raises:
        InputError: if a plugin's part has the name of one of our own.
    """
    own: dict[str, Callable[..., Any]] = {
        name: getattr(import_module(module), name) for module, names in OWN.items() for name in names.split()
    }
    own |= {"experiment": Setup, "study": Study}
    for name in own.keys() & registry.PARTS:
        raise InputError(
            f"`{name}` of {registry.PARTS[name].__module__} has the name of one of flowprior's own parts: "
            f'give it another, as in `@flowprior.register(name="My{name}")`.'
        )
    return own | registry.PARTS


OWN = {
    "flowprior.data": "Source",
    "flowprior.networks": "ImageCritic InfoGANEncoder InfoGANDecoder LadderDecoder LadderEncoder "
    "LatentCritic MLP PublishedEncoder PublishedDecoder ResNetEncoder ResNetDecoder SmallEncoder "
    "SmallDecoder VGGFeatures",
    "flowprior.models": "ConstantGaussianPosterior DeterministicPosterior FlowPosterior GaussianPosterior "
    "UnitGaussianPosterior BernoulliLikelihood GaussianLikelihood LaplaceLikelihood PerceptualLikelihood",
    "flowprior.bijectors": "MultiScale Recipe",
    "flowprior.experiments.image_models": "ladder partially_invertible",
    "flowprior.priors": "EmbeddedPrior FlowPrior GaussianPrior HierarchicalPrior ImplicitPrior MixturePrior "
    "StandardNormal VampPrior VariationalPrior",
    "flowprior.objectives": "AdversarialAutoencoder BetaTCVAE Bilevel CapacityELBO CoverageQuality ELBO "
    "FactorVAE InfoVAE LatentFlow LinearAnnealing MomentMatching RegularizedAutoencoder",
    "flowprior.training": "OptimizerSettings joint_stage prior_stage",
    __name__: "autoencoder by_data by_size concatenated_prior decoupled_prior hierarchical_prior "
    "variational_unet",
}
"""Our own parts by the module that exports them: a new one is entered here."""
