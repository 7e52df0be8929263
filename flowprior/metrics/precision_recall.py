"""Precision and recall for distributions (PRD): do samples look real, do they cover what is real."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_count, check_finite, check_shapes

_SMALLEST_ANGLE = 1e-10


@dataclass(frozen=True)
class PrecisionRecall:
    """A PRD curve, averaged over runs, and its two summaries."""

    precision: Tensor  # (angles,)
    recall: Tensor  # (angles,)
    f8: float  # weighs recall
    f1_8: float  # weighs precision
    samples: int  # of each set


def prd(
    samples: Tensor, real: Tensor, *, clusters: int = 20, angles: int = 1001, runs: int = 10, seed: int = 0
) -> PrecisionRecall:
    """The PRD curve of features `samples` (N, F) against features `real` (N, F).

    Both sets are clustered together by mini-batch k-means (10 starts); with the histograms Q of the samples
    and P of the real ones over the clusters, precision is sum_w min(λ P(w), Q(w)) and recall is
    sum_w min(P(w), Q(w) / λ), for slopes λ = tan(angle). Curves of several runs are averaged.
    Source: Sajjadi et al. 2018 (arXiv:1806.00035), eq. 4 and 5, algorithm 1; F8 and F1/8 as in section 4.

    Raises:
        InputError: if the sets differ in size or features, or hold fewer samples than clusters.

    >>> real = torch.tensor([[0.0], [1.0]]).repeat(50, 1)
    >>> half = prd(torch.zeros(100, 1), real, clusters=2, runs=1)  # one mode of two
    >>> round(half.f8, 2), round(half.f1_8, 2)
    (0.5, 0.98)
    """
    fix = "PRD is biased between sets of different size, so drop the surplus"
    check_shapes(fix, samples=(samples, "N F"), real=(real, "N F"))
    check_count("clusters", clusters, most=len(samples))
    check_count("angles", angles, least=3)
    check_count("runs", runs)
    for name, features in (("samples", samples), ("real", real)):
        check_finite(name, features, "check the images and the network")
    both = torch.cat([samples.detach().cpu(), real.detach().cpu()]).double()
    curves = [_curve(both, clusters, angles, seed + run) for run in range(runs)]
    precision, recall = (torch.stack(each).mean(0) for each in zip(*curves, strict=True))
    f8, f1_8 = (_best_f(precision, recall, beta) for beta in (8, 1 / 8))
    return PrecisionRecall(precision, recall, f8, f1_8, len(samples))


def _curve(both: Tensor, clusters: int, angles: int, seed: int) -> tuple[Tensor, Tensor]:
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(n_clusters=clusters, n_init=10, random_state=seed % 2**32)
    assigned = torch.from_numpy(means.fit_predict(both.numpy())).long()
    count = len(both) // 2
    q = torch.bincount(assigned[:count], minlength=clusters).double() / count
    p = torch.bincount(assigned[count:], minlength=clusters).double() / count
    angle = torch.linspace(_SMALLEST_ANGLE, torch.pi / 2 - _SMALLEST_ANGLE, angles, dtype=torch.float64)
    slopes = angle.tan()[:, None]  # (angles, 1) against (clusters,)
    precision = torch.minimum(slopes * p, q).sum(1)
    return precision.clamp(0, 1), (precision / slopes[:, 0]).clamp(0, 1)


def _best_f(precision: Tensor, recall: Tensor, beta: float) -> float:
    """The largest F_beta on the curve; 0 where both are 0."""
    weight = beta * beta
    scores = (1 + weight) * precision * recall / (weight * precision + recall).clamp(min=1e-12)
    return scores.max().item()
