"""What is measured of prior against aggregate posterior: overlap, leakage, samples off the manifold."""

from dataclasses import asdict

import torch
from torch import Tensor

from flowprior import metrics
from flowprior.evaluation.context import Evaluation, Result
from flowprior.latent import nearest_neighbors
from flowprior.priors import InvertiblePrior
from flowprior.registry import metric
from flowprior.tensors import as_input

DRAWS = 5000  # of each kind (dpVAE, section 5.1)
SHARES = (0.1, 0.01, 0.001)  # of N(0, I)'s own draws below the thresholds of the leakage
LEAKAGES = tuple(f"leakage_{share}" for share in SHARES)
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
    """LS(τ) at thresholds below which lie a tenth, a hundredth and a thousandth of N(0, I)'s own draws.

    The facts hold the whole "curve" over τ too, from the same draws; the volume counts.
    """
    prior, aggregate = evaluation.model.prior, evaluation.aggregate
    features = aggregate.event_shape.numel()
    thresholds = metrics.normal_thresholds(features, SHARES)
    z = aggregate.sample(DRAWS)
    log_q, log_p = aggregate.log_prob(z), prior.log_prob(z)
    result = metrics.leakage(log_q, log_p, thresholds)
    facts = asdict(result) | {"curve": asdict(metrics.leakage_curve(log_q, log_p, features))}
    if isinstance(prior, InvertiblePrior):
        base = log_p - prior.to_base(z)[1]
        facts["scores_as_printed"] = metrics.leakage(log_q, log_p, thresholds, base).scores
    return dict(zip(LEAKAGES, result.scores, strict=True)), facts


@metric("off_manifold", better="lower", unit="share", needs=ONE_POSTERIOR, undefined="worst")
def _off_manifold(evaluation: Evaluation) -> Result:
    """Share of low-posterior samples farther from the training examples than 99 % of the test examples."""
    low = torch.cat(list(evaluation.low_posterior_samples())).cpu()
    return off_manifold(low, as_input(evaluation.source.train().x), as_input(evaluation.test.x))


def off_manifold(samples: Tensor, train: Tensor, test: Tensor) -> Result:
    """The share of `samples` (N, *event), as `train` and `test`, farther from their nearest training example
    than `ON_MANIFOLD` of `test` are, by Euclidean distance.
    """
    threshold = nearest_neighbors(test, train, 1)[0].quantile(ON_MANIFOLD).item()
    distance = nearest_neighbors(samples, train, 1)[0]
    facts = {"threshold": threshold, "quantile": ON_MANIFOLD, "samples": len(samples)}
    return {"off_manifold": (distance > threshold).double().mean().item()}, facts
