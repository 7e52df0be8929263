"""Traversals: one coordinate of z0 moves, the others stay."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flowprior.checks import check_count, check_number, check_shapes
from flowprior.errors import InputError
from flowprior.latent.interpolation import Map


def normal_steps(steps: int, reach: float = 0.98) -> Tensor:
    """`steps` values of a standard normal at evenly spaced levels of its central mass `reach`: (steps,).

    >>> normal_steps(3)
    tensor([-2.3263,  0.0000,  2.3263])
    """
    check_count("steps", steps, least=2)
    check_number("reach", reach, above=0, below=1)
    levels = torch.linspace(-reach, reach, steps, dtype=torch.float64)
    return (torch.erfinv(levels) * 2**0.5).float()


@torch.no_grad()
def traverse(from_base: Map, z0: Tensor, coordinates: Sequence[int], values: Tensor) -> Tensor:
    """z where each of `coordinates` of z0 in turn takes each of `values`.

    For a base N(0, I) only, whose coordinates are independent and alike: `values` then suits all of them.
    A prior at hand says so by `has_normal_base`. A coordinate counts along the flattened event.
    z0 (N, *event), C coordinates, values (V,), e.g. `normal_steps(9)` -> (C, V, N, *event).

    Raises:
        InputError: if a coordinate is not one of the event's, or `values` is not one-dimensional.
    """
    flat = z0.flatten(1)  # (N, D)
    features = flat.shape[1]
    wrong = [c for c in coordinates if not 0 <= c < features]
    if wrong or len(coordinates) == 0:
        fix = f"must be one or more coordinates of z0, each from 0 to {features - 1}."
        raise InputError(f"`coordinates` (={list(coordinates)}) {fix}")
    check_shapes("", values=(values, "V>0"))
    moved = flat.repeat(len(coordinates), len(values), 1, 1)  # (C, V, N, D)
    for i, coordinate in enumerate(coordinates):
        moved[i, :, :, coordinate] = values.to(flat)[:, None]
    return from_base(moved.view(len(coordinates), len(values), *z0.shape))[0]
