"""Fidelity to a condition that is a map: silhouettes and edges recovered from the output against it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.tensors import as_input


@dataclass(frozen=True)
class EdgeAgreement:
    """Of each image, (N,) float64."""

    precision: Tensor  # the share of found edge pixels that lie near a given one
    recall: Tensor  # the share of given edge pixels that lie near a found one
    f_score: Tensor  # their harmonic mean


def silhouette_iou(found: Tensor, given: Tensor, *, threshold: float = 0.5) -> Tensor:
    """|A ∩ B| / |A ∪ B| of the pixels above `threshold`, 1 where both are empty: -> (N,) float64.

    Args:
        found, given: (N, 1, H, W) or (N, H, W), bool, floats in [0, 1], or uint8 that are divided by 255.

    Raises:
        InputError: if the shapes differ or are others.

    >>> half = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    >>> silhouette_iou(half, half.flip(-1)).item(), silhouette_iou(half, torch.ones(1, 1, 4)).item()
    (0.0, 0.5)
    """
    a, b = _masks(found, given, threshold)
    both, either = _count(a & b), _count(a | b)
    return _share(both, either)


def edge_agreement(
    found: Tensor, given: Tensor, *, tolerance: float = 1.0, threshold: float = 0.5
) -> EdgeAgreement:
    """Precision, recall and F-score of edge pixels, where one within `tolerance` pixels counts as a match.

    A pixel may match several, as in the boundary measure of Perazzi et al. 2016 (DAVIS), section 5.2, which
    approximates the one-to-one matching of Martin, Fowlkes & Malik 2004. The precision of nothing found and
    the recall of nothing given is 1; the F-score is 0 where precision and recall are.

    Args:
        found, given: maps as in `silhouette_iou`; thin lines, or precision rises with their width.
        tolerance: Euclidean distance between the centers of pixels.

    Raises:
        InputError: if the shapes differ or are others, or the tolerance is negative.

    >>> line = torch.zeros(1, 5, 5)
    >>> line[:, 2] = 1
    >>> [edge_agreement(line.roll(k, 1), line).f_score.item() for k in (0, 1, 2)]
    [1.0, 1.0, 0.0]
    """
    if not 0 <= tolerance < float("inf"):
        raise InputError(f"`tolerance` (={tolerance}) must be a distance in pixels, 0 or more, e.g. 1.")
    a, b = _masks(found, given, threshold)
    precision = _share(_count(a & _near(b, tolerance)), _count(a))
    recall = _share(_count(b & _near(a, tolerance)), _count(b))
    sums = precision + recall
    return EdgeAgreement(precision, recall, 2 * precision * recall / sums.where(sums > 0, 1))


def _masks(found: Tensor, given: Tensor, threshold: float) -> list[Tensor]:
    """Both as bool (N, H, W)."""
    if found.shape != given.shape or found.dim() not in (3, 4) or (found.dim() == 4 and found.shape[1] != 1):
        raise InputError(
            f"`found` has shape {tuple(found.shape)} and `given` {tuple(given.shape)}, but both must be maps "
            "of one shape, (N, 1, H, W) or (N, H, W)."
        )
    masks = []
    for each in (found, given):
        level = as_input(each.detach().cpu()).float()
        masks.append((level > threshold).flatten(0, -3))  # the one channel goes
    return masks


def _near(mask: Tensor, tolerance: float) -> Tensor:
    """Whether a pixel of the mask lies within `tolerance` of each pixel: a dilation by a disk."""
    reach = int(tolerance)
    offset = torch.arange(-reach, reach + 1).double()
    disk = offset.square()[:, None] + offset.square() <= tolerance**2
    return functional.conv2d(mask[:, None].float(), disk[None, None].float(), padding=reach)[:, 0] > 0.5


def _count(mask: Tensor) -> Tensor:
    return mask.flatten(1).sum(1).double()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), 1.0)
