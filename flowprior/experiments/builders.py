"""What a config may build, and the functions that only configs need: choices, the model, the experiment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowprior.checks import nearest
from flowprior.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from flowprior.data.images import Source
    from flowprior.experiments.experiment import Experiment
    from flowprior.experiments.study import Study
    from flowprior.models import Autoencoder, Likelihood, Posterior, VariationalUnet
    from flowprior.priors.decoupled import DecoupledPrior
    from flowprior.priors.prior import Prior
    from flowprior.training.stages import Stage

SIZES = ("cpu", "paper")

Maps = Sequence[tuple[int, int, int]]  # shapes (channels, height, width), coarse first


@dataclass(frozen=True)
class Loaded:
    """What a config says: the experiment, how it runs, and the operative config, as text and as a table."""

    experiment: "Experiment"
    precision: str
    steps: int | None
    threads: int | None
    text: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def by_size(size: str, cpu: Any, paper: Any) -> Any:
    """The value of the chosen size; a config binds `size` to its macro SIZE.

    Raises:
        InputError: if `size` is neither 'cpu' nor 'paper'.
    """
    if size not in SIZES:
        raise InputError(f"SIZE (={size!r}) must be 'cpu' or 'paper'.")
    return cpu if size == "cpu" else paper


def by_data(name: str, values: dict[str, Any]) -> Any:
    """The value for one of several data sets; a config binds `name` to its macro DATA.

    Raises:
        InputError: if there is no value for that data set.
    """
    if name not in values:
        offer = nearest(name, values) or f": there are {', '.join(values)}."
        raise InputError(f"DATA (={name!r}) is not among the data sets of this config{offer}")
    return values[name]


def autoencoder(
    features: int | tuple[int, ...],
    encoder: "Callable[..., nn.Module]",
    decoder: "Callable[..., nn.Module]",
    prior: "Callable[..., Prior]",
    posterior: "Posterior | None" = None,
    likelihood: "Likelihood | None" = None,
) -> "Autoencoder":
    """An autoencoder whose parts agree on the latent: `features` is said once.

    Args:
        features: of the latent, the prior's event shape.
        encoder: takes `out_features`, as the posterior needs them.
        decoder: takes `in_features`.
        prior: takes `features`.
        posterior, likelihood: as for `Autoencoder`.
    """
    from flowprior.models import Autoencoder, DeterministicPosterior
    from flowprior.tensors import as_event_shape, numel

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
    prior: "Callable[..., Prior]",
    latent_channels: int = 128,
    filters: int = 32,
    max_filters: int = 128,
    blocks: int = 2,
    bottleneck: int = 4,
    dropout: float = 0.1,
    prior_branch: bool = False,
    posterior: "Posterior | None" = None,
    likelihood: "Likelihood | None" = None,
) -> "VariationalUnet":
    """A Variational U-net whose parts agree on sizes; the defaults are the published ones at 256 pixels.

    Args:
        size: pixels a side of image and condition.
        channels, context_channels: of image and condition.
        prior: takes `features` and `context_features`, each the shapes of the coarse and the fine map:
            `@hierarchical_prior` or `@concatenated_prior`.
        latent_channels: C of the latent maps (C, s, s) and (C, 2s, 2s), s the bottleneck.
        filters, max_filters, blocks, bottleneck, dropout: as for `UnetScales`.
        prior_branch: whether the prior sees the condition through a shape branch of its own.
        posterior, likelihood: as for `VariationalUnet`.
    """
    from flowprior.models import UnitGaussianPosterior, VariationalUnet
    from flowprior.networks import AppearanceEncoder, ShapeBranch, ShapeEmbedding, UnetDecoder, UnetScales
    from flowprior.priors.embedded import EmbeddedPrior

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
    prior: "Callable[..., Prior]",
    fine: "Callable[..., Prior] | None" = None,
) -> "Prior":
    """p(z1|c1) p(z2|c2, z1): a prior for each scale, the finer on its own context and the coarser latents.

    Args:
        features, context_features: shapes of latent and context maps, coarse first, given by
            `variational_unet`.
        prior: takes `features` and `context_features`, such as `@FlowPrior` or `@GaussianPrior`.
        fine: the same for the scales behind the first; None for `prior` there as well.
    """
    from flowprior.priors.hierarchical import HierarchicalPrior

    children: list[Any] = []  # whether they are invertible is checked there
    below = 0  # channels of the coarser latents
    for shape, (maps, *sides) in zip(features, context_features, strict=True):
        make = fine if children and fine is not None else prior
        children.append(make(features=shape, context_features=(maps + below, *sides)))
        below += shape[0]
    return HierarchicalPrior(children)


def concatenated_prior(features: Maps, context_features: Maps, prior: "Callable[..., Prior]") -> "Prior":
    """One prior of all latent maps as one vector, on all context maps as one vector.

    Args:
        features, context_features: as for `hierarchical_prior`.
        prior: takes `features` and `context_features`, such as `@FlowPrior`.
    """
    from flowprior.tensors import numel

    return prior(features=sum(map(numel, features)), context_features=sum(map(numel, context_features)))


def decoupled_prior(features: int | tuple[int, ...], prior: "Callable[..., Prior]") -> "DecoupledPrior":
    """The two spaces of dpVAE over `prior`, in the place of a prior: twins differ in one binding.

    Args:
        features: the prior's event shape, given by `autoencoder`.
        prior: takes `features`, such as `@FlowPrior`; must be invertible.
    """
    from flowprior.priors.decoupled import DecoupledPrior

    return DecoupledPrior(prior(features=features))  # type: ignore[arg-type]  # checked there


def experiment(
    name: str,
    source: "Source",
    model: "Callable[[], Autoencoder]",
    stages: "Sequence[Callable[..., Stage]]",
    seed: int = 0,
    metrics: tuple[str, ...] = ("reconstruction", "nll"),
    precision: str = "32-true",
    steps: int | None = None,
    threads: int | None = None,
) -> Loaded:
    """The top of every config.

    Args:
        name: of the experiment, by default that of the config.
        source: the data set.
        model: makes the model, such as `@autoencoder`.
        stages: such as `[@joint_stage, @prior_stage]`, each called with the model and the data.
        seed: of the first weights, of the data's order and of all noise.
        metrics: what is measured when training is done.
        precision: of Lightning Fabric.
        steps: optimizer steps at most; None trains all stages to their ends.
        threads: of the CPU; None takes torch's own number. Small networks run best on one.
    """
    import torch

    from flowprior.experiments.experiment import Experiment

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = model()
        # Objectives may have weights of their own, such as critics, which follow from the seed as well.
        ready = [_ready(make(built, lambda: source.train().tensors())) for make in stages]
    return Loaded(Experiment(name, source, built, ready, seed, metrics), precision, steps, threads)


def _ready(stage: "Stage") -> "Callable[..., Stage]":
    """A stage that was made while gin's bindings held, as the function that an experiment wants."""
    return lambda *_: stage


def study(
    rows: dict[str, tuple[str, ...]],
    configs: dict[str, str] | None = None,
    variants: dict[str, tuple[str, ...]] | None = None,
    orders: tuple[tuple[str, ...], ...] = (),
    sweeps: dict[str, dict[str, str]] | None = None,
    metrics: tuple[str, ...] | dict[str, tuple[str, ...]] = ("reconstruction", "nll"),
    figures: tuple[str, ...] = (),
    paper: dict[str, dict[str, float]] | None = None,
    samples: int = 10_000,
    importance_samples: int = 1000,
) -> "Study":
    """What `flowprior compare` makes of a config: its arguments are those of `Study`."""
    from flowprior.experiments.study import Study

    return Study(
        rows=rows,
        configs=configs or {},
        variants=variants or {},
        orders=orders,
        sweeps=sweeps or {},
        metrics=metrics,
        figures=figures,
        paper=paper or {},
        samples=samples,
        importance_samples=importance_samples,
    )


def buildable() -> dict[str, Callable[..., Any]]:
    """All that a config may name."""
    from flowprior.bijectors.recipes import Recipe
    from flowprior.data.images import Source
    from flowprior.models import likelihoods, posteriors
    from flowprior.networks import critics, infogan, mlp, resnet, small, vgg
    from flowprior.objectives import (
        ELBO,
        AdversarialAutoencoder,
        BetaTCVAE,
        Bilevel,
        CapacityELBO,
        FactorVAE,
        InfoVAE,
        LatentFlow,
        LinearAnnealing,
        MomentMatching,
    )
    from flowprior.priors.embedded import EmbeddedPrior
    from flowprior.priors.flow import FlowPrior
    from flowprior.priors.gaussian import GaussianPrior
    from flowprior.priors.hierarchical import HierarchicalPrior
    from flowprior.priors.implicit import ImplicitPrior
    from flowprior.priors.mixture import MixturePrior
    from flowprior.priors.standard_normal import StandardNormal
    from flowprior.training.optimizers import OptimizerSettings
    from flowprior.training.stages import joint_stage, prior_stage

    things: list[Callable[..., Any]] = [
        experiment,
        study,
        autoencoder,
        variational_unet,
        by_size,
        by_data,
        Source,
    ]
    things += [
        infogan.InfoGANEncoder,
        infogan.InfoGANDecoder,
        resnet.ResNetEncoder,
        resnet.ResNetDecoder,
        small.SmallEncoder,
        small.SmallDecoder,
        mlp.MLP,
        critics.LatentCritic,
    ]
    things += [
        posteriors.DeterministicPosterior,
        posteriors.GaussianPosterior,
        posteriors.UnitGaussianPosterior,
        vgg.VGGFeatures,
    ]
    things += [
        likelihoods.GaussianLikelihood,
        likelihoods.LaplaceLikelihood,
        likelihoods.BernoulliLikelihood,
        likelihoods.PerceptualLikelihood,
    ]
    things += [FlowPrior, Recipe, StandardNormal, MixturePrior, ImplicitPrior]
    things += [GaussianPrior, HierarchicalPrior, EmbeddedPrior]
    things += [decoupled_prior, hierarchical_prior, concatenated_prior]
    things += [LatentFlow, ELBO, CapacityELBO, BetaTCVAE, FactorVAE, InfoVAE]
    things += [Bilevel, AdversarialAutoencoder, MomentMatching, LinearAnnealing]
    things += [joint_stage, prior_stage, OptimizerSettings]
    return {thing.__name__: thing for thing in things}
