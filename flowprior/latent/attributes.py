"""Attributes as directions of z, and how evenly images change along a path."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from flowprior.checks import check_shapes
from flowprior.errors import InputError


def attribute_vector(codes: Tensor, has: Tensor) -> Tensor:
    """mean of the codes with the attribute - mean of those without: (N, *event), (N,) bool -> (*event).

    `z + attribute_vector(...)` has it; `both_paths` leads there. Source: Morrow & Chiu, section 6.2.

    Raises:
        InputError: if there is not one bool for each code, or all have the attribute, or none.

    >>> codes = torch.tensor([[0.0, 1.0], [2.0, 5.0], [4.0, 5.0]])
    >>> attribute_vector(codes, torch.tensor([False, True, True]))
    tensor([3., 4.])
    """
    if codes.dim() < 2 or has.dtype != torch.bool or has.shape != codes.shape[:1]:
        must = f"one for each of the `codes` (N, *event), which have shape {tuple(codes.shape)}"
        raise InputError(f"`has` ({has.dtype}, shape {tuple(has.shape)}) must be bool, {must}.")
    if has.all() or not has.any():
        raise InputError(f"`has` is {bool(has.all())} for all {len(has)} codes but must be so for some only.")
    values, has = codes.cpu().double(), has.cpu()
    return (values[has].mean(0) - values[~has].mean(0)).to(codes)


@torch.no_grad()
def rate_of_change(
    path: Tensor,
    decode: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    batch_size: int = 64,
) -> Tensor:
    """d(x_s, x_{s+1}), x_s = decode(path_s): (steps, N, *event) -> (steps - 1, N) float64 on the CPU.

    The paths are decoded `batch_size` images or one path at a time, whichever is more.
    Source: Morrow & Chiu, section 6.2 and Fig. 8: 5000 images, 16 steps.

    Args:
        decode: (n, *event) -> images (n, ...).
        distance: images twice -> (n,), such as `PerceptualDistance`.

    Raises:
        InputError: if `path` has fewer than 2 steps.

    >>> path = torch.linspace(0, 1, 5)[:, None, None].expand(5, 3, 2)
    >>> rate_of_change(path, lambda z: 4 * z, lambda a, b: (a - b).norm(dim=1)).unique(dim=0).shape
    torch.Size([1, 3])
    """
    check_shapes("", path=(path, "steps>1 N *event"))
    rates = []
    for part in path.split(max(1, batch_size // len(path)), dim=1):
        images = rearrange(decode(part.flatten(0, 1)), "(s n) ... -> s n ...", s=len(path))
        changes = distance(images[:-1].flatten(0, 1), images[1:].flatten(0, 1))
        rates.append(rearrange(changes.cpu().double(), "(s n) -> s n", s=len(path) - 1))
    return torch.cat(rates, 1)
