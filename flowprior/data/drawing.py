"""Anti-aliased shapes, many pictures at once, and the stick man that conditions on a pose.

Coordinates are (x, y) in pixels from the upper left corner, so that pixel i reaches from i to i + 1.
"""

from itertools import pairwise

import torch
from torch import Tensor

from flowprior.checks import check_shapes
from flowprior.errors import InputError

JOINTS = (
    "rankle", "rknee", "rhip", "rshoulder", "relbow", "rwrist",
    "lankle", "lknee", "lhip", "lshoulder", "lelbow", "lwrist",
    "cnose", "leye", "reye",
)  # fmt: skip
"""The joints of a pose in the order of "joints": the figure's right and left, then its face."""

_LIMBS = ("ankle", "knee", "hip", "shoulder", "elbow", "wrist")
_SHOULDERS, _FACE = ("rshoulder", "lshoulder"), ("cnose", "leye", "reye")
_BODY = ("lhip", "lshoulder", "rshoulder", "rhip")
_CHUNK = 64  # pictures drawn at once: few enough for the processor's cache


def joint(joints: Tensor, name: str) -> Tensor:
    """The joint `name` of all poses (N, 15, ...): (N, ...)."""
    return joints[:, JOINTS.index(name)]


def offsets(origin: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """x (N, 1, size) and y (N, size, 1) of the centers of `size` x `size` pixels, from `origin` (N, 2)."""
    centers = torch.arange(size, dtype=origin.dtype, device=origin.device) + 0.5
    return centers - origin[:, :1, None], centers[:, None] - origin[:, 1:, None]


def segment_distance(a: Tensor, b: Tensor, size: int) -> Tensor:
    """Distance of the pixels' centers to the segments from a (N, 2) to b (N, 2): (N, size, size)."""
    x, y = offsets(a, size)
    dx, dy = (b - a)[:, :, None, None].unbind(1)
    length = (dx * dx + dy * dy).clamp_min(1e-12)
    along = (x * (dx / length) + y * (dy / length)).clamp_(0, 1)
    return torch.hypot(x - along * dx, y - along * dy)


def polygon_distance(corners: Tensor, size: int) -> Tensor:
    """Signed distance to the outline of polygons (N, K, 2), negative inside (even-odd): (N, size, size)."""
    x, y = offsets(torch.zeros_like(corners[:1, 0]), size)
    inside = torch.zeros(len(corners), size, size, dtype=torch.bool, device=corners.device)
    distance = torch.full_like(inside, torch.inf, dtype=corners.dtype)
    for a, b in zip(corners.unbind(1), corners.roll(-1, 1).unbind(1), strict=True):
        distance = torch.minimum(distance, segment_distance(a, b, size))
        (ax, ay), (bx, by) = (point[:, :, None, None].unbind(1) for point in (a, b))
        crosses = (ay < y) != (by < y)
        inside ^= crosses & (x < ax + (y - ay) * (bx - ax) / torch.where(ay == by, 1.0, by - ay))
    return torch.where(inside, -distance, distance)


def coverage(distance: Tensor, radius: float | Tensor = 0.0) -> Tensor:
    """The part of a pixel that lies within `radius`, as by a box of one pixel: 0.5 + radius - distance."""
    return (0.5 + radius - distance).clamp_(0, 1)


def draw_stick_man(joints: Tensor, size: int) -> Tensor:
    """Poses as pictures of three channels, as the Variational U-net is conditioned: (N, 3, size, size) uint8.

    Red holds the figure's right limbs, green its left ones, blue the filled trunk; the line from neck to nose
    is in red and green at half strength. Lines are 3/128 of the picture wide. What hangs on a joint with a
    negative coordinate, one that is not seen, is left out.

    `joints` are (N, 15, 2) in the order of `JOINTS`, (x, y) in pixels, or raise an InputError.

    Source: Esser et al. 2018, section 3.1, and the published code's pictures of joints.

    >>> draw_stick_man(torch.rand(5, 15, 2) * 64, 64).shape
    torch.Size([5, 3, 64, 64])
    """
    check_joints(joints)
    parts = [_stick_men(part, size) for part in joints.split(_CHUNK)]
    return torch.cat(parts).mul_(255).round_().to(torch.uint8)


def check_joints(joints: Tensor) -> None:
    """Refuse anything but poses (N, 15, 2) of floats."""
    if not joints.is_floating_point():
        raise InputError(f"`joints` is {joints.dtype} but must be floats, (x, y) in pixels: convert it.")
    fix = "pass (x, y) in pixels, in the order of `JOINTS`"
    check_shapes(fix, joints=(joints, f"N {len(JOINTS)} 2"))


def _stick_men(joints: Tensor, size: int) -> Tensor:
    seen = (joints >= 0).all(-1)

    def line(a: Tensor, b: Tensor, visible: Tensor) -> Tensor:
        return coverage(segment_distance(a, b, size), 1.5 * size / 128) * visible[:, None, None]

    def between(first: str, second: str) -> Tensor:
        return line(joint(joints, first), joint(joints, second), joint(seen, first) & joint(seen, second))

    sides = {side: [between(side + a, side + b) for a, b in pairwise(_LIMBS)] for side in "rl"}
    shoulders, face, corners = (
        [JOINTS.index(name) for name in names] for names in (_SHOULDERS, _FACE, _BODY)
    )
    neck = line(joints[:, shoulders].mean(1), joint(joints, "cnose"), seen[:, [*shoulders, face[0]]].all(1))
    whole_face = seen[:, face].all(1)[:, None, None]
    for side, lines in sides.items():
        lines += [neck * 0.5, between("cnose", f"{side}eye") * whole_face]
    trunk = coverage(polygon_distance(joints[:, corners], size)) * seen[:, corners].all(1)[:, None, None]
    return torch.stack([torch.stack(lines).amax(0) for lines in sides.values()] + [trunk], 1)
