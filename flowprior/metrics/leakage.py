"""The leakage score of dpVAE: what the aggregate posterior supports and the prior hardly ever draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_finite, check_number, check_shapes

CURVE_SHARES = tuple(0.5 * (2e-6) ** (step / 19) for step in range(20))  # 0.5 to 1e-6


@dataclass(frozen=True)
class Leakage:
    """The curve LS(τ), a value for each threshold."""

    thresholds: tuple[float, ...]
    scores: tuple[float, ...]  # nats
    standard_errors: tuple[float, ...]
    shares: tuple[float, ...]  # of the draws below the threshold; the paper leaves points out where it is 0
    samples: int


def leakage(
    log_aggregate: Tensor, log_prior: Tensor, thresholds: Sequence[float], log_base: Tensor | None = None
) -> Leakage:
    """LS(τ) = E_q(z)[(log q(z) - log p(z)) · 1(log p(z) < τ)]   (dpVAE Eq. 6)

    Over draws of the aggregate posterior q. The paper prints p(h(z)) below q(z), h = g for a decoupled prior:
    the base density at z0 = g(z) without the volume log|det dg/dz|, a density of another space. Without
    `log_base` p(z) stands there, volume included, so that the score does not depend on coordinates and at
    τ = ∞ is KL(q ‖ p); with it the score is the printed one. For N(0, I) both are one.

    Args:
        log_aggregate, log_prior: log q(z) and log p(z) at draws of q, (S,).
        thresholds: τ, nats.
        log_base: log p0(g(z)) at the same draws, (S,), for Eq. 6 as printed.

    Raises:
        InputError: if shapes differ, there are fewer than two draws, or a density is not finite.

    >>> leakage(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -5.0]), [-3.0]).scores  # (0 + 3) / 2
    (1.5,)
    """
    below = log_prior if log_base is None else log_base
    densities = {"log_aggregate": log_aggregate, "log_prior": log_prior, "log_base": below}
    check_shapes("pass log densities", **{name: (each, "draws>1") for name, each in densities.items()})
    for name, each in densities.items():
        check_finite(name, each, "check the prior")
    aggregate, prior, base = (each.detach().double().cpu() for each in densities.values())
    inside = prior < torch.tensor(list(thresholds), dtype=torch.float64)[:, None]  # (T, S)
    scores = torch.where(inside, aggregate - base, 0.0)
    columns = scores.mean(1), scores.std(1) / math.sqrt(len(prior)), inside.double().mean(1)
    means, errors, shares = (tuple(column.tolist()) for column in columns)
    return Leakage(tuple(map(float, thresholds)), means, errors, shares, len(prior))


def leakage_curve(log_aggregate: Tensor, log_prior: Tensor, features: int) -> Leakage:
    """`leakage` at the 20 `normal_thresholds` of `features` dimensions at 1/2 down to 1e-6 (dpVAE Fig. 4)."""
    return leakage(log_aggregate, log_prior, normal_thresholds(features, CURVE_SHARES))


def normal_thresholds(features: int, shares: Sequence[float]) -> tuple[float, ...]:
    """The τ below which log N(z; 0, I) of `features` dimensions lies for each share of its own draws.

    They put the curves of different priors, and of different dimensions, at comparable thresholds.

    Raises:
        InputError: if a share is not between 0 and 1.

    >>> [round(level, 2) for level in normal_thresholds(2, (0.1, 0.01))]  # -log(2 pi) + log(share)
    [-4.14, -6.44]
    """
    from scipy.special import chdtri

    for share in shares:
        check_number("shares", share, above=0, below=1)
    constant = 0.5 * features * math.log(2 * math.pi)
    return tuple(-constant - 0.5 * float(chdtri(features, share)) for share in shares)
