"""Fidelity to a condition that is a map: silhouettes and edges recovered from the output against it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flowprior.checks import check_number, check_shapes
from flowprior.tensors import as_input


@dataclass(frozen=True)
class EdgeAgreement:
    """The agreement of each image, (N,) float64."""

    precision: Tensor  # the share of recovered edge pixels that lie near a given one
    recall: Tensor  # the share of given edge pixels that lie near a recovered one
    f_score: Tensor  # their harmonic mean


def silhouette_iou(recovered: Tensor, given: Tensor, *, threshold: float = 0.5) -> Tensor:
    """|A ∩ B| / |A ∪ B| of the pixels above `threshold`, 1 where both are empty: -> (N,) float64.

    Args:
        recovered, given: (N, 1, H, W) or (N, H, W), bool, floats in [0, 1], or uint8 that are divided by 255.

    Raises:
        InputError: if the shapes differ or are others.

    >>> half = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
    >>> silhouette_iou(half, half.flip(-1)).item(), silhouette_iou(half, torch.ones(1, 1, 4)).item()
    (0.0, 0.5)
    """
    a, b = _masks(recovered, given, threshold)
    return _share(a & b, a | b)


def edge_agreement(
    recovered: Tensor, given: Tensor, *, tolerance: float = 1.0, threshold: float = 0.5
) -> EdgeAgreement:
    """Precision, recall and F-score of edge pixels, where one within `tolerance` pixels counts as a match.

    A pixel may match several, as in the boundary measure of Perazzi et al. 2016 (DAVIS), section 5.2, which
    approximates the one-to-one matching of Martin, Fowlkes & Malik 2004. The precision where nothing is
    recovered and the recall where nothing is given are 1; the F-score is 0 where precision and recall are.
    Arguments as in `silhouette_iou`; lines must be thin, or precision rises with their width.

    Raises:
        InputError: as `silhouette_iou`, or if the tolerance is negative.

    >>> line = torch.zeros(1, 5, 5)
    >>> line[:, 2] = 1
    >>> [edge_agreement(line.roll(k, 1), line).f_score.item() for k in (0, 1, 2)]
    [1.0, 1.0, 0.0]
    """
    check_number("tolerance", tolerance, least=0, fix="a distance in pixels")
    a, b = _masks(recovered, given, threshold)
    precision, recall = _share(a & _near(b, tolerance), a), _share(b & _near(a, tolerance), b)
    sums = precision + recall
    return EdgeAgreement(precision, recall, 2 * precision * recall / sums.where(sums > 0, 1))


def _masks(recovered: Tensor, given: Tensor, threshold: float) -> list[Tensor]:
    """Both as bool (N, H, W)."""
    pattern = "N 1 H W" if recovered.dim() == 4 else "N H W"
    check_shapes("pass maps of one shape", recovered=(recovered, pattern), given=(given, pattern))
    levels = (as_input(each.detach().cpu()).float() for each in (recovered, given))
    return [(level > threshold).flatten(0, -3) for level in levels]  # the one channel goes


def _near(mask: Tensor, tolerance: float) -> Tensor:
    """Whether a pixel of the mask lies within `tolerance` of each pixel: a dilation by a disk."""
    reach = int(tolerance)
    offset = torch.arange(-reach, reach + 1).double()
    disk = offset.square()[:, None] + offset.square() <= tolerance**2
    return functional.conv2d(mask[:, None].float(), disk[None, None].float(), padding=reach)[:, 0] > 0.5


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Pixels of one mask over those of another, (N,) float64; 1 where the other has none."""
    counts, of = (mask.flatten(1).sum(1).double() for mask in (part, whole))
    return torch.where(of > 0, counts / of.clamp(min=1), 1.0)
