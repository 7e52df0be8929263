"""What is measured of prior against aggregate posterior: overlap, leakage, the marginal likelihood."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from flowprior.errors import InputError
from flowprior.latent import least_supported, nearest_neighbors
from flowprior.metrics.aggregate import AggregatePosterior
from flowprior.models import Autoencoder
from flowprior.priors import InvertiblePrior

DRAWS = 5000  # of each kind (dpVAE, section 5.1)
SHARES = (0.1, 0.01, 0.001)  # of N(0, I)'s own draws below the thresholds of the leakage
ON_MANIFOLD = 0.99  # of the test examples: as near to the training examples as they are, a sample is on it
LP_DRAWS = 5  # draws of the prior for each low-posterior sample kept, as in dpVAE's code
EXAMPLES = 500  # test examples of the importance-weighted likelihood
ROWS = 2000  # pairs of example and latent at once through the decoder
Values = dict[str, float]
Facts = dict[str, Any]


def check_overlap(model: Autoencoder, name: str, conditional: bool = False) -> None:
    """Refuse models for which metric `name` has no meaning.

    Raises:
        InputError: if the posterior has no density; or, unless `conditional`, if the model needs a context.
    """
    if model.posterior.deterministic:
        raise InputError(
            f"'{name}' needs a posterior with a density, but this model's is a "
            f"{type(model.posterior).__name__}: leave it out, or train with GaussianPosterior()."
        )
    if model.conditional and not conditional:
        raise InputError(
            f"'{name}' compares one prior with one aggregate posterior, but this model is conditional: leave "
            "it out."
        )


def aggregate_of(model: Autoencoder, batches: Iterable[Tensor]) -> AggregatePosterior:
    """The aggregate posterior over batches of training examples, as the model reads them."""
    posteriors = [model.encode(x) for x in batches]
    return AggregatePosterior(
        torch.cat([q.mean for q in posteriors]), torch.cat([q.stddev for q in posteriors])
    )


def skl(model: Autoencoder, aggregate: AggregatePosterior) -> tuple[Values, Facts]:
    """KL(p ‖ q) + KL(q ‖ p) in z: by nearest neighbors ("skl") and from both densities ("skl_density")."""
    from flowprior.metrics.divergence import density_skl, neighbor_skl

    p, q = model.prior.sample(DRAWS), aggregate.sample(DRAWS)
    near = neighbor_skl(p, q)
    exact = density_skl(p, q, model.prior.log_prob, aggregate.log_prob)
    facts = {"unit": "nats", "neighbors": asdict(near), "density": asdict(exact)}
    return {"skl": near.value, "skl_density": exact.value}, facts


def leakage(model: Autoencoder, aggregate: AggregatePosterior) -> tuple[Values, Facts]:
    """LS(τ) at thresholds below which lie `SHARES` of N(0, I)'s own draws; the volume counts.

    The facts hold the whole "curve" over τ too, from the same draws.
    """
    from flowprior.metrics import leakage as score
    from flowprior.metrics import leakage_curve, normal_thresholds

    prior, features = model.prior, aggregate.event_shape.numel()
    thresholds = normal_thresholds(features, SHARES)
    z = aggregate.sample(DRAWS)
    log_q, log_p = aggregate.log_prob(z), prior.log_prob(z)
    found = score(log_q, log_p, thresholds)
    facts = {"unit": "nats"} | asdict(found) | {"curve": asdict(leakage_curve(log_q, log_p, features))}
    if isinstance(prior, InvertiblePrior):
        base = log_p - prior.to_base(z)[1]
        facts["scores_as_printed"] = score(log_q, log_p, thresholds, base).scores
    return {f"leakage_{share}": value for share, value in zip(SHARES, found.scores, strict=True)}, facts


def importance(model: Autoencoder, x: Tensor, context: Tensor | None, samples: int) -> tuple[Values, Facts]:
    """-log p(x) of some test examples `x`, as the model reads them, from `samples` draws of q(z|x) each."""
    from flowprior.metrics.importance import importance_nll

    def log_weight(x: Tensor, draws: int, context: Tensor | None = None) -> Tensor:
        q, condition = model.encode(x, context), model.condition(context)
        z = q.sample(torch.Size([draws]))  # (K, n, *event)
        repeated = x.expand(draws, *x.shape).flatten(0, 1)
        output = model.conditioned_output(z, condition).flatten(0, 1)
        nll = model.likelihood.nll(output, repeated).view(draws, len(x))
        return model.prior.log_prob(z, model.prior_context(condition)) - nll - q.log_prob(z)

    found = importance_nll(log_weight, x, context, samples=samples, rows=ROWS, device=model.device)
    return {"iw_nll": found.mean}, {"unit": "nats per example"} | asdict(found)


def low_posterior(model: Autoencoder, aggregate: AggregatePosterior, count: int) -> Tensor:
    """The `count` of `LP_DRAWS` times as many draws of the prior with the least aggregate posterior."""
    return least_supported(model.prior.sample, aggregate.log_prob, count, LP_DRAWS * count)[0]


def off_manifold(samples: Tensor, train: Tensor, test: Tensor) -> tuple[Values, Facts]:
    """The share of `samples` farther from their nearest training example than `ON_MANIFOLD` of `test` are.

    Args:
        samples, train, test: (N, *event) each, in the model's units; distances are Euclidean.
    """
    held_out = nearest_neighbors(test, train, 1)[0]
    threshold = held_out.quantile(ON_MANIFOLD).item()
    distance = nearest_neighbors(samples, train, 1)[0]
    facts = {"threshold": threshold, "quantile": ON_MANIFOLD, "samples": len(samples), "unit": "share"}
    return {"off_manifold": (distance > threshold).double().mean().item()}, facts
