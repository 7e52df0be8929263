"""Perceptual path length: how fast images change along paths between latents."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowprior.checks import check_count, check_finite, check_number, check_shapes

Path = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(start, end, weights): (n, *event) twice and (S, n) -> (S, n, *event), such as `lerp` and `slerp`."""


@dataclass(frozen=True)
class PathLength:
    """The mean squared perceptual speed along random paths."""

    value: float  # without the outliers
    standard_error: float  # of `value`
    mean: float  # of all
    median: float
    pairs: int
    left_out: int
    epsilon: float


@torch.no_grad()
def perceptual_path_length(
    decode: Callable[[Tensor], Tensor], distance: Callable[[Tensor, Tensor], Tensor], path: Path,
    start: Tensor, end: Tensor,
    *, epsilon: float = 1e-4, outliers: float = 0.01, seed: int = 0, batch_size: int = 64,
) -> PathLength:  # fmt: skip
    """E[d(x(t), x(t + ε)) / ε²], x(t) = decode(path(start, end; t)), t ~ U(0, 1)   (StyleGAN, section 4.1)

    As in its code, the lowest and the highest hundredth of the paths are left out of the mean. In z take
    `lerp`, in z0 ~ N(0, I) `slerp`, `decode` there passing through the prior. Points on the path are computed
    in float64 on the CPU, since ε is not far above the rounding of float32.

    Args:
        decode: latents (n, *event) -> images.
        distance: images twice -> (n,), a squared distance such as `PerceptualDistance`.
        start, end: the ends of random paths, (N, *event); the source takes 100,000.
        outliers: the share left out on either side, at least 0 and less than 1/2.
        batch_size: paths at once through the decoder, each with two points.

    Raises:
        InputError: if the ends do not go together, an argument is out of range, or a distance is not finite.

    >>> square = lambda a, b: (a - b).square().sum(1)
    >>> line = lambda a, b, w: a + w[..., None] * (b - a)
    >>> start, end = torch.tensor([[[0.0]], [[1.0]]], dtype=torch.float64).expand(2, 4, 2)
    >>> round(perceptual_path_length(lambda z: 3 * z, square, line, start, end).value, 4)  # 3² + 3²
    18.0
    """
    check_shapes("pass as many ends as starts", start=(start, "N>0 *event"), end=(end, "N>0 *event"))
    check_number("epsilon", epsilon, above=0, below=1)
    check_number("outliers", outliers, least=0, below=0.5)
    check_count("batch_size", batch_size)
    generator = torch.Generator().manual_seed(seed)
    at = torch.rand(len(start), generator=generator, dtype=torch.float64)
    speeds = []
    for a, b, t in zip(start.split(batch_size), end.split(batch_size), at.split(batch_size), strict=True):
        points = path(a.cpu().double(), b.cpu().double(), torch.stack([t, t + epsilon]))  # (2, n, *event)
        here, there = decode(points.flatten(0, 1).to(a)).chunk(2)
        speeds.append(distance(here, there).cpu().double() / epsilon**2)
    lengths = torch.cat(speeds)
    check_finite("distance", lengths, "check the prior and the decoder")
    low = lengths.quantile(outliers, interpolation="lower")
    high = lengths.quantile(1 - outliers, interpolation="higher")
    kept = lengths[(lengths >= low) & (lengths <= high)]
    return PathLength(
        value=kept.mean().item(),
        standard_error=kept.std(correction=0).item() / math.sqrt(len(kept)),
        mean=lengths.mean().item(),
        median=lengths.median().item(),
        pairs=len(lengths),
        left_out=len(lengths) - len(kept),
        epsilon=epsilon,
    )
