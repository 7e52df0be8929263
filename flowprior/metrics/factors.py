"""Sampled factors of appearance against the true ones: where generated data lets both be known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_finite, check_shapes
from flowprior.errors import InputError

_BLOCK = 2048  # rows of a block of the matrix of distances


@dataclass(frozen=True)
class FactorDistance:
    """Distances of two distributions of factors, in standard deviations of the true one; 0 where equal.

    Two finite draws of one distribution are not at 0: report the distance of two true draws beside it.
    """

    value: float  # the mean of `wasserstein`
    wasserstein: tuple[float, ...]  # of each factor
    energy: float  # of the joint distribution
    samples: int


@dataclass(frozen=True)
class ConditionalSpread:
    """Spread at a fixed condition over that of the true factors: 1 full diversity, 0 none."""

    value: float  # the mean of `ratios`
    ratios: tuple[float, ...]  # of each factor
    conditions: int
    samples: int  # at each condition


def factor_distance(samples: Tensor, real: Tensor) -> FactorDistance:
    """Distances of sampled factors (N, F) from true ones (M, F), each factor divided by its true deviation.

    For each factor it is W1 = ∫ |F(t) - G(t)| dt of the distribution functions; for all the energy distance
    sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|), Euclidean, over all pairs, which also sees dependence between
    factors (Székely & Rizzo 2013). Circular factors must be laid open first.

    Raises:
        InputError: if the shapes do not go together, a number is not finite, or a true factor is constant.

    >>> real = torch.tensor([[-1.0], [1.0]])  # a standard deviation of sqrt(2)
    >>> round(factor_distance(real + 2**0.5, real).value, 4)
    1.0
    """
    from scipy.stats import wasserstein_distance

    x, y = _scaled(samples, "N>0 F>0", real)
    each = [float(wasserstein_distance(a.numpy(), b.numpy())) for a, b in zip(x.T, y.T, strict=True)]
    squared = 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)
    return FactorDistance(sum(each) / len(each), tuple(each), max(squared, 0.0) ** 0.5, len(x))


def conditional_spread(samples: Tensor, real: Tensor) -> ConditionalSpread:
    """sqrt(E_c Var(factor | c)) over the true standard deviation, of factors that do not depend on c.

    Samples (n, conditions, F), n ≥ 2 at each condition; true draws (M, F). The mean is of unbiased variances,
    not of deviations, which few samples make too small: full diversity is 1 for any n.

    Raises:
        InputError: as `factor_distance`, or for one sample at each condition.

    >>> real = torch.tensor([[-1.0], [1.0]])
    >>> round(conditional_spread(real.view(2, 1, 1).expand(2, 5, 1), real).value, 4)
    1.0
    """
    x, _ = _scaled(samples, "n>1 conditions>0 F>0", real)
    ratios = x.var(0).mean(0).sqrt().tolist()
    return ConditionalSpread(sum(ratios) / len(ratios), tuple(ratios), x.shape[1], len(x))


def _scaled(samples: Tensor, pattern: str, real: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 over the standard deviations of `real`."""
    check_shapes("pass the same factors of both", samples=(samples, pattern), real=(real, "M>1 F>0"))
    x, y = samples.detach().cpu().double(), real.detach().cpu().double()
    for name, values in (("samples", x), ("real", y)):
        check_finite(name, values, "check how the factors were read")
    deviation = y.std(0)
    constant = [k for k, value in enumerate(deviation.tolist()) if value == 0]
    if constant:
        raise InputError(f"`real` is constant in the factors {constant}: leave them out.")
    return x / deviation, y / deviation


def _mean_distance(x: Tensor, y: Tensor) -> float:
    return sum(torch.cdist(part, y).sum().item() for part in x.split(_BLOCK)) / (len(x) * len(y))
