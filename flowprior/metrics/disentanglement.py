"""Disentanglement scores of codes against known factors with discrete values.

Codes are z (N, D), such as posterior means, or their z0, D > 1; factors (N, F) whole numbers, F > 1. Every
score lies in [0, 1], higher is better, and is estimated from these examples alone: a group that shares the
value of a factor is drawn among those that have it. Sizes of samples and bins are disentanglement_lib's
(Locatello et al. 2019) unless said otherwise. All raise InputError if rows do not match, a code is not
finite, or a factor is constant or not whole.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowprior.checks import check_finite, check_shapes
from flowprior.errors import InputError

BINS = 20  # of each dimension of a code, where mutual information is counted
GROUP = 64  # examples, or pairs of them, that share a factor
VOTES, JUDGED = 10_000, 5_000  # groups to learn from, and to score
Table = np.ndarray


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness."""

    disentanglement: float  # each dimension tells of one factor
    completeness: float  # each factor is told by one dimension
    informativeness: float  # accuracy on held-out examples, the mean over factors


def beta_vae_score(
    codes: Tensor, factors: Tensor, *, votes: int = VOTES, judged: int = JUDGED, seed: int = 0
) -> float:
    """Accuracy of a linear classifier that sees mean |z - z'| of pairs and says which factor they share.

    A group is `GROUP` pairs: any example, and another with the same value of the group's factor. Differences
    are in standard deviations of each dimension. Chance is 1 / F. Source: Higgins et al. 2017, section 3.

    >>> factors = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    >>> beta_vae_score(factors.float(), factors, votes=200, judged=100)
    1.0
    """
    from sklearn.linear_model import LogisticRegression

    x, f = _checked(codes, factors)
    x, generator = x / np.maximum(x.std(0), 1e-12), np.random.default_rng(seed)
    which = generator.integers(f.shape[1], size=votes + judged)
    seen = np.empty((len(which), x.shape[1]))
    for k in range(f.shape[1]):
        groups = np.flatnonzero(which == k)
        first = generator.integers(len(x), size=(len(groups), GROUP))
        seen[groups] = np.abs(x[first] - x[_sharing(f[:, k], f[first, k], generator)]).mean(1)
    seen /= np.maximum(seen[:votes].std(0), 1e-12)
    machine = LogisticRegression(max_iter=1000).fit(seen[:votes], which[:votes])
    return float(machine.score(seen[votes:], which[votes:]))


def factor_vae_score(
    codes: Tensor, factors: Tensor, *, votes: int = VOTES, judged: int = JUDGED, seed: int = 0
) -> float:
    """Accuracy of the majority vote from the dimension that varies least in a group to the factor it shares.

    A group is `GROUP` examples with one value of one factor; variances are divided by those over all
    examples. Chance is 1 / F. Source: Kim & Mnih 2018, section 4.

    >>> factors = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    >>> factor_vae_score(factors.flip(1).float(), factors, votes=200, judged=100)
    1.0
    """
    x, f = _checked(codes, factors)
    x, generator = x[:, x.std(0) > 0], np.random.default_rng(seed)
    if x.shape[1] == 0:
        raise InputError("`codes` are constant in every dimension: there is nothing to score.")
    which = generator.integers(f.shape[1], size=votes + judged)
    least = np.empty(len(which), dtype=int)
    for k in range(f.shape[1]):
        groups = np.flatnonzero(which == k)
        values = generator.choice(np.unique(f[:, k]), size=(len(groups), 1)).repeat(GROUP, 1)
        least[groups] = (x[_sharing(f[:, k], values, generator)].var(1) / x.var(0)).argmin(1)
    table = np.zeros((x.shape[1], f.shape[1]), dtype=int)
    np.add.at(table, (least[:votes], which[:votes]), 1)
    return float((table.argmax(1)[least[votes:]] == which[votes:]).mean())


def mutual_information_gap(codes: Tensor, factors: Tensor) -> float:
    """The mean over factors of (the largest less the second largest I(z_j; v)) / H(v)   (MIG)

    Source: Chen et al. 2018 (β-TCVAE), Eq. 6; I from `BINS` bins of equal width of each dimension.

    >>> factors = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    >>> round(mutual_information_gap(factors.float(), factors), 6)
    1.0
    """
    x, f = _checked(codes, factors)
    information, entropy = _information(x, f)
    ordered = np.sort(information, axis=0)
    return float(((ordered[-1] - ordered[-2]) / entropy).mean())


def modularity(codes: Tensor, factors: Tensor) -> float:
    """The mean over dimensions of 1 - Σ_k I(z_j; v_k)² / ((F - 1) max_k I²) over all factors but the best.

    Source: Ridgeway & Mozer 2018, section 3.1. A dimension without information counts 0.
    """
    x, f = _checked(codes, factors)
    squared = _information(x, f)[0] ** 2  # (D, F)
    best = squared.max(1)
    rest = (squared.sum(1) - best) / np.maximum((f.shape[1] - 1) * best, 1e-300)
    return float(np.where(best > 0, 1 - rest, 0.0).mean())


def attribute_predictability(codes: Tensor, factors: Tensor, *, examples: int = 5000) -> float:
    """The mean over factors of the gap of the two dimensions that predict it best by themselves   (SAP)

    The prediction is a linear support vector machine's, balanced over values; the score is its accuracy on
    the half of at most `examples` that it was not fitted to. Source: Kumar et al. 2018, section 3.2.
    """
    from sklearn.svm import LinearSVC

    x, f = (rows[:examples] for rows in _checked(codes, factors))
    x, half = (x - x.mean(0)) / np.maximum(x.std(0), 1e-12), len(x) // 2
    gaps = []
    for values in f.T:
        scores = []
        for column in x.T[:, :, None]:
            machine = LinearSVC(C=0.01, class_weight="balanced", dual=False)
            scores.append(machine.fit(column[:half], values[:half]).score(column[half:], values[half:]))
        worst, best = sorted(scores)[-2:]
        gaps.append(best - worst)
    return float(np.mean(gaps))


def dci(codes: Tensor, factors: Tensor, *, examples: int = 10_000, seed: int = 0) -> DCI:
    """Disentanglement, completeness, informativeness from the importances R_jk of random forests.

    With the rows of R, then its columns, as probabilities: 1 less their entropies in units of log F and
    log D, means weighted by the rows' and the columns' sums. A forest is fitted for each factor on half of at
    most `examples`, the accuracy is on the other half. Source: Eastwood & Williams 2018, section 2.
    """
    from sklearn.ensemble import RandomForestClassifier

    x, f = (rows[:examples] for rows in _checked(codes, factors))
    half, importances, accuracies = len(x) // 2, [], []
    for values in f.T:
        forest = RandomForestClassifier(50, max_features=None, min_samples_leaf=5, random_state=seed % 2**32)
        forest.fit(x[:half], values[:half])
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(x[half:], values[half:]))
    table = np.array(importances).T  # (D, F)
    return DCI(_concentration(table), _concentration(table.T), float(np.mean(accuracies)))


def _concentration(table: Table) -> float:
    """1 less the entropy of each row in units of its largest value, weighted by the rows' sums."""
    sums = table.sum(1, keepdims=True)
    shares = table / np.maximum(sums, 1e-300)
    entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(1) / np.log(table.shape[1])
    return float(((1 - entropy) * sums[:, 0]).sum() / sums.sum())


def _information(x: Table, f: Table) -> tuple[Table, Table]:
    """I(z_j; v_k) in nats, (D, F), and H(v_k), (F,)."""
    from sklearn.metrics import mutual_info_score

    binned = [np.digitize(column, np.histogram_bin_edges(column, BINS)[1:-1]) for column in x.T]
    table = [[mutual_info_score(values, bins) for values in f.T] for bins in binned]
    return np.array(table), np.array([mutual_info_score(values, values) for values in f.T])


def _sharing(factor: Table, values: Table, generator: np.random.Generator) -> Table:
    """Rows, drawn at random, whose `factor` (N,) has the given values, in their shape."""
    order, counts = np.argsort(factor, kind="stable"), np.bincount(factor)
    starts = counts.cumsum() - counts
    return order[starts[values] + (generator.random(values.shape) * counts[values]).astype(int)]


def _checked(codes: Tensor, factors: Tensor) -> tuple[Table, Table]:
    """Codes in float64 and factors as whole numbers from 0."""
    fix = "pass a row of both for each example, of two dimensions or more and two factors or more"
    check_shapes(fix, codes=(codes, "N>3 D>1"), factors=(factors, "N>3 F>1"))
    check_finite("codes", codes, "check the encoder and the prior")
    whole = factors.detach().cpu().double()
    if not torch.equal(whole, whole.round()):
        raise InputError("`factors` must be whole numbers, one for each value: number the values first.")
    numbers = [np.unique(column, return_inverse=True) for column in whole.numpy().T]
    if constant := [k for k, (values, _) in enumerate(numbers) if len(values) < 2]:
        raise InputError(f"`factors` are constant in the columns {constant}: leave them out.")
    return codes.detach().cpu().double().numpy(), np.stack([number for _, number in numbers], 1)
