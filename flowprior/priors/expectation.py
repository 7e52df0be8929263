"""Gaussian mixtures by k-means and expectation maximization, for `MixturePrior` and `fit`."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowprior.bijectors.shrinkage import scales, shrunk_factor
from flowprior.errors import InputError

FLOOR = 1e-6  # of a start's variances, as a part of the data's
PULLS = (0.0, 0.03, 0.3, 3.0)  # pulls of D + 1 rows that compete
NEGLIGIBLE = 1e-9  # the share of a row in a component below which it is left out
CLUSTERED = 20_000  # rows that k-means sees
GAIN = 1e-4  # nats a feature that an iteration must gain


class Moments(NamedTuple):
    """A Gaussian mixture in float64."""

    weights: Tensor  # (K,)
    means: Tensor  # (K, D)
    factors: Tensor  # standard deviations (K, D) if diagonal, else Cholesky factors (K, D, D)

    def densities(self, rows: Tensor) -> Tensor:
        """log w_k N(x; m_k, C_k) for rows (N, D), but for the constant: (N, K)."""
        if self.factors.dim() == 2:
            precision = self.factors.square().reciprocal()  # (K, D)
            cross = rows @ (self.means * precision).T
            distance = rows.square() @ precision.T - 2 * cross + (self.means.square() * precision).sum(1)
            volume = self.factors.log().sum(1)
        else:
            distance = torch.empty(len(rows), len(self.means), dtype=rows.dtype)
            for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
                offset = torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False)  # (D, N)
                distance[:, k] = offset.square().sum(0)
            volume = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        return self.weights.log() - volume - 0.5 * distance

    def reordered(self, order: Tensor) -> Moments:
        """The mixture of x[order]."""
        factors = self.factors[:, order]
        if factors.dim() == 3:  # their rows are out of order: QR makes them triangular again
            upper = torch.linalg.qr(factors.mT).R
            factors = upper.mT * upper.diagonal(dim1=1, dim2=2).sign()[:, None]
        return Moments(self.weights, self.means[:, order], factors)

    def nll(self, rows: Tensor) -> float:
        """Mean -log p(x) of rows (N, D)."""
        constant = 0.5 * rows.shape[1] * math.log(2 * math.pi)
        return constant - self.densities(rows).logsumexp(1).mean().item()


def maximize(
    rows: Tensor,
    shares: Tensor,
    means: Tensor,
    covariance: str,
    pull: float,
    floor: Tensor,
    target: Tensor | None = None,
) -> Moments:
    """The mixture of rows (N, D) whose `shares` in each component are (N, K), about `means` (K, D).

    Each covariance is pulled towards `target`, by default the pooled one, as if that were `pull` more rows,
    so that a component of a single row, or of none, has a proper width; variances get `floor` (D,) on top,
    and weights are smoothed by one row each.
    """
    counts = shares.sum(0)  # (K,)
    diagonal = covariance == "diagonal"
    scatters = []
    for share, mean in zip(shares.T, means, strict=True):
        inside = share > NEGLIGIBLE
        offset, weight = rows[inside] - mean, share[inside, None]
        scatters.append((weight * offset.square()).sum(0) if diagonal else (weight * offset).T @ offset)
    scatter = torch.stack(scatters)  # (K, D) or (K, D, D)
    weight = counts.view(-1, *(1 for _ in scatter.shape[1:]))
    target = scatter.sum(0) / len(rows) if target is None else target
    covariances = (scatter + pull * target) / (weight + pull).clamp(min=1e-9)
    covariances = covariances + (floor if diagonal else floor.diag())
    factors = covariances.sqrt() if diagonal else torch.linalg.cholesky(covariances)
    return Moments((counts + 1) / (len(rows) + len(counts)), means, factors)


def floor_of(rows: Tensor, part: float = FLOOR) -> Tensor:
    """The least variance (D,) of components: a part of the data's, or nearly nothing where nothing varies."""
    spread = rows.var(0, correction=0)
    floor = part * spread.clamp(min=spread.mean().item())
    return torch.where(floor > 0, floor, 1e-12)


def kmeans(rows: Tensor, components: int, seed: int, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The clusters of rows (N, D) by k-means on `most` of them: one-hot (N, K), and the centers (K, D)."""
    from sklearn.cluster import KMeans

    clusters = KMeans(components, n_init=1, max_iter=50, random_state=seed % 2**32)
    _quietly(clusters.fit, rows[:: 1 if most is None else -(-len(rows) // most)].numpy())
    labels = torch.from_numpy(clusters.predict(rows.numpy())).long()
    shares = torch.nn.functional.one_hot(labels, components).double()
    return shares, torch.from_numpy(clusters.cluster_centers_)


def scikit_learn_em(rows: Tensor, components: int, covariance: str, seed: int) -> Moments:
    """scikit-learn's GaussianMixture of rows (N, D), whose only absolute constant is made relative."""
    from sklearn.mixture import GaussianMixture

    scale = rows.var(0, correction=0).mean().sqrt().item() or 1.0
    mixture = GaussianMixture(
        components, covariance_type="diag" if covariance == "diagonal" else "full", random_state=seed % 2**32
    )
    try:
        _quietly(mixture.fit, (rows / scale).numpy())
    except ValueError as error:
        raise InputError(
            f"expectation maximization with `components` (={components}) failed on these latents: use fewer "
            "components, covariance='diagonal' or start='kmeans'."
        ) from error
    covariances = torch.from_numpy(mixture.covariances_)
    factors = covariances.sqrt() if covariance == "diagonal" else torch.linalg.cholesky(covariances)
    weights = np.maximum(mixture.weights_, np.finfo(float).tiny)
    return Moments(torch.from_numpy(weights), scale * torch.from_numpy(mixture.means_), scale * factors)


def search(
    rows: Tensor,
    held: Tensor,
    raw_scale: Tensor,
    components: int,
    covariance: str,
    *,
    floor: float,
    seed: int,
    until: float,
) -> tuple[Moments, Callable[[Moments, Tensor], Moments]]:
    """The mixture that does best on `held`, and what fits it again to more rows.

    k-means runs on the standardized rows (N, D) as they are, and times `raw_scale` (D,); the covariances are
    pulled by several strengths towards the shrunk covariance within clusters. The best of these starts goes
    through expectation maximization until `held` gains no more, or the clock has come to `until`.
    """
    starts: list[tuple[float, int, Moments, float, Tensor]] = []
    least = floor_of(rows, floor)
    for scale in (torch.ones_like(raw_scale), raw_scale):
        shares, centers = kmeans(rows * scale, components, seed, CLUSTERED)
        centers = centers / scale
        target = _within(rows - shares @ centers, covariance, math.sqrt(floor))
        for pull in PULLS if covariance == "full" else (0.03, 1.0 / (1 + rows.shape[1])):
            strength = max(pull * (1 + rows.shape[1]), 0.1)
            moments = maximize(rows, shares, centers, covariance, strength, least, target)
            starts.append((moments.nll(held), len(starts), moments, strength, target))
        if bool((raw_scale == raw_scale[0]).all()):
            break
    best, _, moments, strength, target = min(starts)

    def again(moments: Moments, rows: Tensor) -> Moments:
        shares = moments.densities(rows).softmax(1)
        means = shares.T @ rows / shares.sum(0).clamp(min=torch.finfo(rows.dtype).tiny)[:, None]
        return maximize(rows, shares, means, covariance, strength, least, target)

    latest = moments
    for _ in range(100):
        began = time.perf_counter()
        latest = again(latest, rows)
        nll = latest.nll(held)
        gained = best - nll
        if gained > 0:
            best, moments = nll, latest
        if gained < GAIN * rows.shape[1] or 2 * time.perf_counter() - began > until:
            break
    return moments, lambda moments, more: again(again(moments, more), more)


def _within(residuals: Tensor, covariance: str, limit: float) -> Tensor:
    """The covariance of what is left (N, D) of rows about their centers, shrunk as that of a Gaussian."""
    mean, std, varies = scales(residuals, limit)
    if covariance == "diagonal":
        return std.square()
    factor = shrunk_factor(residuals, mean, std, varies, limit)
    return factor @ factor.T


def _quietly(fit: Callable[[np.ndarray], Any], rows: np.ndarray) -> Any:
    """Run a scikit-learn fit without its ConvergenceWarning: an unfinished start is still a start."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(rows)
