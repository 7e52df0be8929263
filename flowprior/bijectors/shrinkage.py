"""The Gaussian of few rows: its covariance, shrunk by as much as serves rows that were left out."""

from collections.abc import Callable

import torch
from torch import Tensor

STRENGTHS = torch.logspace(-8, 0, 33, dtype=torch.float64)  # α
SCORED = 4096  # rows, spread evenly, that are left out in turn
GAIN = 1e-3  # nats a feature that shrinking must gain, so that with many rows nothing changes
CHUNK = 2**22  # numbers that are in double precision at once


def limit_of(dtype: torch.dtype) -> float:
    """The standard deviation, as a part of the data's, below which a direction counts as constant."""
    return 1e-7 if dtype == torch.float64 else 1e-4


def scales(rows: Tensor, limit: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation, and whether it varies, of each feature of rows (N, D), in float64.

    A feature that is constant, up to rounding, gets `limit` of the median deviation of the others.
    """
    mean = _summed(rows, lambda part: part.sum(0)) / len(rows)
    std = (_summed(rows, lambda part: (part - mean).square().sum(0)) / len(rows)).sqrt()
    varies = std > (1e-7 if limit > 1e-6 else 1e-14) * mean.abs()
    median = limit * std[varies].median() if bool(varies.any()) else std.new_ones(())
    return mean, torch.where(varies, std, median), varies


def shrunk_factor(rows: Tensor, mean: Tensor, std: Tensor, varies: Tensor, limit: float) -> Tensor:
    """L (D, D), lower triangular, with L L^T = (1 - α) S + α T, for S the covariance of rows (N, D).

    T is the diagonal of S (then α = 1 is the diagonal Gaussian), or the mean of that times I as Ledoit & Wolf
    (2004) have it. Target and α are those with the best mean log-density of rows under the Gaussian of all
    others; α is 0 unless more gains `GAIN`. Eigenvalues of the standardized S are at least limit².
    """
    correlation = correlations(rows, mean, std, varies)
    part = rows[:: -(-len(rows) // SCORED)]
    variance = std.square()[varies].mean() if bool(varies.any()) else std.new_ones(())
    found = []
    for scale in (std, torch.where(varies, variance.sqrt(), std)):  # the square root of T
        ratio = std / scale
        values, vectors = torch.linalg.eigh(ratio[:, None] * correlation * ratio)
        values = values.clamp(min=limit**2)
        projected = _standard(part, mean, std, varies) * ratio @ vectors
        alphas = torch.cat((STRENGTHS.new_tensor([limit**2]), STRENGTHS))
        scores = _left_out(projected.square(), values, len(rows), alphas) - scale.log().sum()
        index = int(scores.argmax()) if scores.max() > scores[0] + GAIN * len(std) else 0
        alpha = alphas[index] if index else 0.0
        found.append((scores[index], scale, (1 - alpha) * values + alpha, vectors))
    diagonal, common = found
    _, scale, values, vectors = common if common[0] > diagonal[0] + GAIN * len(std) else diagonal
    # L L^T = V diag(values) V^T through QR of the square root: no Cholesky of a near-singular matrix
    upper = torch.linalg.qr((vectors * values.sqrt()).T).R
    return scale[:, None] * (upper.T * upper.diagonal().sign())


def correlations(rows: Tensor, mean: Tensor, std: Tensor, varies: Tensor) -> Tensor:
    """The correlations (D, D) of rows (N, D), with 1 for the variance of what does not vary."""

    def gram(part: Tensor) -> Tensor:
        standard = _standard(part, mean, std, varies)
        return standard.T @ standard

    return _summed(rows, gram) / len(rows) + torch.diag((~varies).double())


def _left_out(squares: Tensor, values: Tensor, count: int, alphas: Tensor) -> Tensor:
    """The mean log-density, but for a constant, of rows under the Gaussian of the `count` - 1 others.

    In the eigenbasis of S, with d = x - mean (`squares` holds d²): S without a row is S n/(n-1) - d d^T
    n/(n-1)², and d becomes d n/(n-1); Sherman & Morrison's formula does the rest, for each of `alphas`.
    """
    others = max(count - 1, 1)
    a = (1 - alphas) * count / others
    spectrum = a[:, None] * values + alphas[:, None]  # (A, D)
    distance = squares @ spectrum.reciprocal().T  # (n, A)
    rest = (1 - a / others * distance).clamp(min=1e-12)
    distance = (count / others) ** 2 * distance / rest
    return -0.5 * (spectrum.log().sum(1) + (rest.log() + distance).mean(0))


def _standard(part: Tensor, mean: Tensor, std: Tensor, varies: Tensor) -> Tensor:
    return (part.double() - mean) / std * varies


def _summed(rows: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
    parts = rows.split(max(1, CHUNK // rows.shape[1]))
    return sum(statistic(part.double()) for part in parts)  # type: ignore[return-value]
