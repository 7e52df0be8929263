"""Random poses of a figure seen from the front: standing, striding, waving, wholly inside the frame."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from flowprior.data.drawing import JOINTS, joint

_EYES, _CENTER, _CROWN = 0.42, 0.15, 1.35  # of eyes, head's center and top over the nose, in head radii
_MARGIN = 4.2 / 64  # free at the frame's edges, as wide as half of the thickest limb
_TALLEST = 0.96  # of a figure's height, in sides of the frame


def random_poses(n: int, generator: Generator, size: int) -> Tensor:
    """n poses in a square frame of `size` pixels: (n, 15, 2), (x, y) in the order of `JOINTS`.

    Lengths are drawn in figure heights, angles in radians from straight down, outward; the right and the left
    limbs have angles of their own. A figure takes up 0.85 to 1 of the room there is, anywhere in the frame.
    """

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    lean = draw(-0.25, 0.25)
    tilt = lean + draw(-0.35, 0.35)
    chest = -draw(0.26, 0.30)[:, None] * _down(lean)
    head = draw(0.066, 0.074)[:, None]
    nose = chest - (0.05 + head) * _down(tilt)
    shoulder, hip = draw(0.085, 0.105)[:, None], draw(0.042, 0.052)[:, None]
    thigh, shin, upper, fore = draw(0.20, 0.23), draw(0.20, 0.22), draw(0.145, 0.165), draw(0.135, 0.155)
    at = {"cnose": nose}
    for side, outward in (("r", -1.0), ("l", 1.0)):  # the figure's right is on our left

        def limb(start: Tensor, length: Tensor, angle: Tensor, outward: float = outward) -> Tensor:
            return start + length[:, None] * _down(-outward * angle)

        at[f"{side}hip"] = outward * hip * _leftward(lean / 2)
        at[f"{side}shoulder"] = chest + outward * shoulder * _leftward(lean)
        at[f"{side}eye"] = nose + head * (0.4 * outward * _leftward(tilt) - _EYES * _down(tilt))
        stride, swing = draw(-0.1, 0.8), draw(0.1, 2.8)
        at[f"{side}knee"] = limb(at[f"{side}hip"], thigh, stride)
        at[f"{side}ankle"] = limb(at[f"{side}knee"], shin, stride + draw(-0.9, 0.2))
        at[f"{side}elbow"] = limb(at[f"{side}shoulder"], upper, swing)
        at[f"{side}wrist"] = limb(at[f"{side}elbow"], fore, swing + draw(-1.0, 1.9))
    return _placed(torch.stack([at[name] for name in JOINTS], 1), draw) * size


def _down(angle: Tensor) -> Tensor:
    """The figure's downward direction when it leans to its left by `angle`: (n, 2)."""
    return torch.stack([-angle.sin(), angle.cos()], -1)


def _leftward(angle: Tensor) -> Tensor:
    """The direction to the figure's left, our right, when it leans to its left by `angle`: (n, 2)."""
    return torch.stack([angle.cos(), angle.sin()], -1)


def _placed(joints: Tensor, draw: Callable[[float, float], Tensor]) -> Tensor:
    """Poses scaled and moved at random so that all of the figure lies in the unit square."""
    center, radius, up = head_of(joints)
    crown = center + (_CROWN - _CENTER) * radius * up
    outline = torch.cat([joints, crown[:, None], *(toe[:, None] for toe in toes_of(joints))], 1)
    low, high = outline.amin(1), outline.amax(1)  # (n, 2)
    room = 1 - 2 * _MARGIN
    scale = (room / (high - low).amax(1)).clamp_max(_TALLEST) * draw(0.85, 1.0)
    free = room - (high - low) * scale[:, None]
    corner = _MARGIN + free * torch.stack([draw(0, 1), draw(0, 1)], -1)
    return (joints - low[:, None]) * scale[:, None, None] + corner[:, None]


def head_of(joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Center (N, 2) and radius (N, 1) of the heads, and the direction to their tops (N, 2)."""
    nose = joint(joints, "cnose")
    rise = (joint(joints, "leye") + joint(joints, "reye")) / 2 - nose
    length = torch.linalg.vector_norm(rise, dim=-1, keepdim=True).clamp_min(1e-6)
    up, radius = rise / length, length / _EYES
    return nose + _CENTER * radius * up, radius, up


def toes_of(joints: Tensor) -> tuple[Tensor, Tensor]:
    """Where the right and the left shoe end: (N, 2) each, outward of the ankles by a quarter of a shin."""
    ends = []
    for side, outward in (("r", -1.0), ("l", 1.0)):
        ankle = joint(joints, f"{side}ankle")
        shin = torch.linalg.vector_norm(ankle - joint(joints, f"{side}knee"), dim=-1, keepdim=True)
        ends.append(ankle + 0.25 * shin * ankle.new_tensor([outward, 0.25]))
    return ends[0], ends[1]
