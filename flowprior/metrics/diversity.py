"""Diversity: how far two samples at the same condition lie apart."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from flowprior.checks import check_count, check_finite, check_shapes
from flowprior.errors import InputError
from flowprior.metrics.rows import standard_error
from flowprior.tensors import as_input


@dataclass(frozen=True)
class PairDiversity:
    """The mean distance between pairs of samples; 0 where all samples of a condition are the same."""

    value: float
    standard_error: float  # of `value`, as if the pairs were independent; NaN for one pair
    pairs: int


@torch.no_grad()
def pair_diversity(
    first: Tensor | Iterable[Tensor],
    second: Tensor | Iterable[Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    batch_size: int = 64,
) -> PairDiversity:
    """E d(x, x'), with x and x' two samples at the same condition, row by row of `first` and `second`.

    With LPIPS as `distance` and the conditions of the test set it is the published measure of diversity
    (Morrow & Chiu, section 7 and Table 2); other distances are not to be compared with it.

    Args:
        first, second: (N, C, H, W), uint8 or floats in [0, 1], or chunks, cut alike, one held at a time.
        distance: images twice, `batch_size` or fewer -> (n,), such as `PerceptualDistance`.

    Raises:
        InputError: if the two do not go together, there is no pair, or a distance is not finite.

    >>> gap = lambda a, b: (a - b).abs().mean((1, 2, 3))
    >>> x = torch.zeros(4, 1, 2, 2)
    >>> pair_diversity(x, x + 0.5, gap)
    PairDiversity(value=0.5, standard_error=0.0, pairs=4)
    """
    check_count("batch_size", batch_size)
    chunks = [[given] if isinstance(given, Tensor) else given for given in (first, second)]
    distances = []
    fix = "pass a row of each for every pair, cut into the same chunks"
    for a, b in zip_longest(*chunks, fillvalue=torch.zeros(0)):
        check_shapes(fix, first=(a, "N C H W"), second=(b, "N C H W"))
        for x, y in zip(a.split(batch_size), b.split(batch_size), strict=True):
            distances.append(distance(as_input(x).float(), as_input(y).float()).cpu().double())
    if sum(map(len, distances)) == 0:
        raise InputError("`first` and `second` hold no pair: give at least one.")
    values = torch.cat(distances)
    check_finite("distance", values, "check the samples")
    return PairDiversity(values.mean().item(), standard_error(values), len(values))
