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
    """The curve LS(τ), a value for each threshold; a draw leaks at τ if its base density is below it."""

    thresholds: tuple[float, ...]
    scores: tuple[float, ...]  # nats: share times conditional mean
    standard_errors: tuple[float, ...]
    shares: tuple[float, ...]  # of the draws that leak; the paper leaves points out where it is 0
    conditional_means: tuple[float, ...]  # nats, of the draws that leak; 0 where there is none
    samples: int


def leakage(
    log_aggregate: Tensor,
    log_prior: Tensor,
    thresholds: Sequence[float],
    log_base: Tensor | None = None,
    as_printed: bool = False,
) -> Leakage:
    """LS(τ) = E_q(z)[(log q(z) - log p(z)) · 1(log p0(g(z)) < τ)]   (dpVAE Eq. 6)

    Over draws of the aggregate posterior q, with z0 = g(z) of the prior and its base p0; where there is no
    z0, p0(g(z)) is p(z). The base density decides which draws leak, as in the paper's code: log p(z) holds
    the unit of z, so that a decoupled prior would leak more or less by the scale of its codes alone. The
    ratio is q(z) / p(z), volume included, which does not depend on coordinates: at τ = ∞ it is KL(q ‖ p).
    The paper's code reports the mean over the draws that leak: `conditional_means`.

    Args:
        log_aggregate, log_prior: log q(z) and log p(z) at draws of q, (S,).
        thresholds: τ, nats.
        log_base: log p0(g(z)) at the same draws, (S,); `log_prior` if left out, as for N(0, I).
        as_printed: whether p0(g(z)) stands below q(z) too, a density of another space, as Eq. 6 prints.

    Raises:
        InputError: if shapes differ, there are fewer than two draws, or a density is not finite.

    >>> leakage(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -5.0]), [-3.0]).scores  # (0 + 3) / 2
    (1.5,)
    """
    base = log_prior if log_base is None else log_base
    densities = {"log_aggregate": log_aggregate, "log_prior": log_prior, "log_base": base}
    check_shapes("pass log densities", **{name: (each, "draws>1") for name, each in densities.items()})
    for name, each in densities.items():
        check_finite(name, each, "check the prior")
    aggregate, prior, base = (each.detach().double().cpu() for each in densities.values())
    leaks = base < torch.tensor(list(thresholds), dtype=torch.float64)[:, None]  # (T, S)
    ratios = torch.where(leaks, aggregate - (base if as_printed else prior), 0.0)
    means = ratios.sum(1) / leaks.sum(1).clamp(min=1)
    columns = ratios.mean(1), ratios.std(1) / math.sqrt(len(prior)), leaks.double().mean(1), means
    scores, errors, shares, conditional = (tuple(column.tolist()) for column in columns)
    return Leakage(tuple(map(float, thresholds)), scores, errors, shares, conditional, len(prior))


def leakage_curve(
    log_aggregate: Tensor, log_prior: Tensor, features: int, log_base: Tensor | None = None
) -> Leakage:
    """`leakage` at the 20 `normal_thresholds` of `features` dimensions at 1/2 down to 1e-6 (dpVAE Fig. 4)."""
    return leakage(log_aggregate, log_prior, normal_thresholds(features, CURVE_SHARES), log_base)


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
