"""Paths between latents: straight, or along the sphere."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from flowprior.checks import check_count, check_shapes
from flowprior.errors import InputError

Map = Callable[[Tensor], tuple[Tensor, Tensor]]
"""z0 -> (z, logabsdet) or z -> (z0, logabsdet), such as a flow prior's `from_base` and `to_base`."""

Line = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(start, end, weights) -> points: `lerp` or `slerp`."""

_TINY = 1e-4  # rad; below it the sphere is flat to float32 precision


def lerp(start: Tensor, end: Tensor, weights: Tensor) -> Tensor:
    """(1 - w) start + w end, for each w: (N, *event) twice and (S,) -> (S, N, *event).

    `weights` may also be (S, N), with steps of their own for each pair.

    Raises:
        InputError: if `start` and `end` differ in shape or `weights` is neither (S,) nor (S, N).

    >>> lerp(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([0.0, 0.25, 1.0])).squeeze(1).tolist()
    [[0.0, 0.0], [0.25, 0.25], [1.0, 1.0]]
    """
    _check(start, end, weights)
    return torch.lerp(start, end, _leading(weights, start))


def slerp(start: Tensor, end: Tensor, weights: Tensor) -> Tensor:
    """sin((1 - w) a) / sin(a) start + sin(w a) / sin(a) end, a the angle between both (Shoemake 1985).

    For z0 ~ N(0, I) only: its mass lies near a sphere, which this path follows and a straight one leaves.
    Nearly parallel ends, or a zero vector and another, are joined by a straight line; opposite ends by a half
    circle through a fixed, arbitrary direction. Shapes as `lerp`; each of the N events is one vector.

    Raises:
        InputError: as `lerp`.

    >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5]))
    tensor([[[0.7071, 0.7071]]])
    """
    _check(start, end, weights)
    a, b = start.flatten(1), end.flatten(1)  # (N, D)
    w = _leading(weights, a)  # (S, 1 or N, 1)
    norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    defined = (norm_a > 0) & (norm_b > 0)
    unit_a, unit_b = _unit(a), _unit(b)
    # 2 atan2(|u - v|, |u + v|) keeps its digits at small and straight angles, where acos(u . v) loses them.
    apart, together = (unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True)
    angle = 2 * torch.atan2(apart, together)
    straight = torch.lerp(a, b, w)
    sine = angle.sin().clamp_min(_TINY / 2)  # only those rows that are used below stay exact
    arc = ((1 - w) * angle).sin() / sine * a + (w * angle).sin() / sine * b
    turn = (torch.pi * w).cos() * unit_a + (torch.pi * w).sin() * _orthogonal(unit_a)
    half_circle = torch.lerp(norm_a, norm_b, w) * turn
    path = torch.where(angle > torch.pi - _TINY, half_circle, arc)
    path = torch.where((angle < _TINY) | ~defined, straight, path)
    return path.view(len(weights), *start.shape)


@torch.no_grad()
def interpolate(from_base: Map, start: Tensor, end: Tensor, steps: int, line: Line = slerp) -> Tensor:
    """z on paths from z0 = `start` to z0 = `end`, both included: (N, *event) -> (steps, N, *event).

    `slerp` suits a base N(0, I), of which `has_normal_base` tells, `lerp` any other. Source: GLF, Fig. 2f.

    Raises:
        InputError: if there are fewer than 2 steps, or as `slerp`.
    """
    check_count("steps", steps, least=2, fix="the two ends")
    weights = torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype)
    return from_base(line(start, end, weights))[0]


class Paths(NamedTuple):
    """Two paths in z with the same ends, (steps, N, *event) each."""

    z: Tensor  # straight in z
    z0: Tensor  # straight or spherical in z0, mapped back


@torch.no_grad()
def both_paths(
    to_base: Map, from_base: Map, start: Tensor, end: Tensor, steps: int, line: Line = slerp
) -> Paths:
    """From z = a to z = b through either space: lerp(a, b; t), and f⁻¹(slerp(f(a), f(b); t)), f = `to_base`.

    `start` a and `end` b are (N, *event); `steps`, `line` and errors are those of `interpolate`.
    Source: Morrow & Chiu, section 6.2.

    >>> double, halve = (lambda z: (2 * z, z.sum(1))), (lambda z0: (z0 / 2, z0.sum(-1)))
    >>> ends = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> [path[1].norm() for path in both_paths(double, halve, *ends, 3)]  # the chord, the arc
    [tensor(0.7071), tensor(1.0000)]
    """
    straight = interpolate(lambda z: (z, z), start, end, steps, lerp)
    return Paths(straight, interpolate(from_base, to_base(start)[0], to_base(end)[0], steps, line))


def _check(start: Tensor, end: Tensor, weights: Tensor) -> None:
    fix = "add a batch dimension, or pass as many ends as starts"
    check_shapes(fix, start=(start, "N *event"), end=(end, "N *event"))
    if weights.dim() != 1 and (weights.dim() != 2 or weights.shape[1] != len(start)):
        must = f"(steps,), or (steps, {len(start)}) with steps of their own for each pair"
        raise InputError(f"`weights` has shape {tuple(weights.shape)} but must be {must}.")


def _leading(weights: Tensor, like: Tensor) -> Tensor:
    """(S,) or (S, N) -> (S, 1 or N, 1, ...), to go with `like` (N, *event)."""
    pairs = weights.shape[1] if weights.dim() == 2 else 1
    return weights.to(like).view(len(weights), pairs, *(1 for _ in like.shape[1:]))


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _orthogonal(unit: Tensor) -> Tensor:
    """A unit vector orthogonal to each row: the axis least aligned with it, made orthogonal (0 in 1-D)."""
    axis = torch.zeros_like(unit).scatter_(1, unit.abs().argmin(1, keepdim=True), 1.0)
    return _unit(axis - (axis * unit).sum(1, keepdim=True) * unit)
