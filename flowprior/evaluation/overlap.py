"""What is measured of prior against aggregate posterior: overlap, leakage, samples off the manifold."""

from dataclasses import asdict

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.evaluation.context import Evaluation, Result
from flowprior.evaluation.images import FRECHET
from flowprior.latent import nearest_neighbors
from flowprior.priors import InvertiblePrior, Prior
from flowprior.registry import metric
from flowprior.tensors import as_input

DRAWS = 5000  # of each kind (dpVAE, section 5.1)
SHARES = (0.1, 0.01, 0.001)  # of N(0, I)'s own draws below the thresholds of the leakage: its levels
LEAKAGES = tuple(f"leakage_{part}{share}" for part in ("", "share_", "mean_") for share in SHARES)
ON_MANIFOLD = 0.99  # of the test examples: as near to the training examples as they are, a sample is on it
ONE_POSTERIOR = ("posterior density", "unconditional model")
DENSITIES = ("prior density", *ONE_POSTERIOR)


@metric("skl", better="lower", unit="nats", needs=DENSITIES, values=("skl", "skl_density"), undefined="worst")
def _skl(evaluation: Evaluation) -> Result:
    """KL(p ‖ q) + KL(q ‖ p) in z: by nearest neighbors ("skl") and from both densities ("skl_density")."""
    prior, aggregate = evaluation.model.prior, evaluation.aggregate
    p, q = prior.sample(DRAWS), aggregate.sample(DRAWS)
    near = metrics.neighbor_skl(p, q)
    exact = metrics.density_skl(p, q, prior.log_prob, aggregate.log_prob)
    values = {"skl": near.value, "skl_density": exact.value}
    return values, {"neighbors": asdict(near), "density": asdict(exact)}


@metric("leakage", better="lower", unit="nats", needs=DENSITIES, values=LEAKAGES, undefined="worst")
def _leakage(evaluation: Evaluation) -> Result:
    """LS(τ), share and conditional mean of draws of q(z) below the base density's 10, 1 and 0.1 % levels.

    The facts hold the whole "curve" over τ too, from the same draws, and the score as Eq. 6 prints it.
    """
    aggregate = evaluation.aggregate
    features = aggregate.event_shape.numel()
    z = aggregate.sample(DRAWS)
    log_q, (log_p, base) = aggregate.log_prob(z), densities(evaluation.model.prior, z)
    thresholds = metrics.normal_thresholds(features, SHARES)
    result = metrics.leakage(log_q, log_p, thresholds, base)
    facts = asdict(result) | {"curve": asdict(metrics.leakage_curve(log_q, log_p, features, base))}
    printed = metrics.leakage(log_q, log_p, thresholds, base, as_printed=True)
    facts["as_printed"] = {"scores": printed.scores, "conditional_means": printed.conditional_means}
    numbers = (*result.scores, *result.shares, *result.conditional_means)
    return dict(zip(LEAKAGES, numbers, strict=True)), facts


def densities(prior: Prior, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(z) and log p0(g(z)) of draws z (S, *event): the base density, or p(z) of a prior without z0."""
    log_p = prior.log_prob(z)
    return log_p, log_p - prior.to_base(z)[1] if isinstance(prior, InvertiblePrior) else log_p


@metric("off_manifold", better="lower", unit="share", needs=ONE_POSTERIOR, undefined="worst")
def _off_manifold(evaluation: Evaluation) -> Result:
    """Share of low-posterior samples farther from the training examples than 99 % of the test examples."""
    low = torch.cat(list(evaluation.low_posterior_samples())).cpu()
    return _named("off_manifold", low, as_input(evaluation.source.train().x), as_input(evaluation.test.x))


def _register_off_manifold(kind: str) -> None:
    name = f"off_manifold_{kind}"
    about = f"Share of low-posterior samples that are off the manifold by {kind} features."

    @metric(name, better="lower", unit="share", needs=(*ONE_POSTERIOR, kind), summary=about)
    def off(evaluation: Evaluation) -> Result:
        network = evaluation.backbone(kind)
        images = evaluation.low_posterior_samples(), [evaluation.source.train().x], [evaluation.test.x]
        low, train, test = (
            torch.cat([part.cpu() for chunk in chunks for part in metrics.extract(chunk, network)])
            for chunks in images
        )
        values, facts = _named(name, low, train, test)
        return values, facts | {"resize": network.resize, "checksum": network.checksum}


for _kind in FRECHET:
    _register_off_manifold(_kind)


def _named(name: str, samples: Tensor, train: Tensor, test: Tensor) -> Result:
    share, threshold = off_manifold(samples, train, test)
    return {name: share}, {"threshold": threshold, "quantile": ON_MANIFOLD, "samples": len(samples)}


def off_manifold(samples: Tensor, train: Tensor, test: Tensor) -> tuple[float, float]:
    """The share of `samples` (N, *event), as `train` and `test`, farther from their nearest training example
    than `ON_MANIFOLD` of `test` are, by Euclidean distance; and that threshold."""
    threshold = nearest_neighbors(test, train, 1)[0].quantile(ON_MANIFOLD).item()
    distance = nearest_neighbors(samples, train, 1)[0]
    return (distance > threshold).double().mean().item(), threshold
