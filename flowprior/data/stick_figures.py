"""Rendered stick figures: poses, and an appearance independent of the pose, so that its law is known.

Every factor of `FACTORS` is uniform in its range, independent of the pose and of the others. The colors of a
figure are those of its shirt (the sleeves at 0.85 of it), trousers (the right leg at 0.8), skin and hair,
where skin and hair lie on a line from dark to light; shoes and eyes are dark on all.
"""

import functools
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flowprior.checks import check_rows, check_shapes
from flowprior.data import drawing
from flowprior.data.dataset import Split, seeded, thin
from flowprior.data.drawing import coverage, joint, segment_distance
from flowprior.data.poses import head_of, random_poses, toes_of
from flowprior.registry import dataset
from flowprior.tensors import as_input

SIZE = 64
TRAIN, TEST = 10_000, 2_000
_COLOR = (0.05, 0.95)
FACTORS: dict[str, tuple[float, float]] = {
    **{f"{part} {color}": _COLOR for part in ("shirt", "trousers") for color in ("red", "green", "blue")},
    "skin": (0.0, 1.0),  # from dark to light
    "hair": (0.0, 1.0),  # from black to blond
    "background": (0.35, 0.95),  # gray level
    "width": (3.0, 6.0),  # of a sleeve, in pixels of a picture of 64
}
"""The factors of a figure's appearance, in the order of "factors", each with the ends of its uniform law."""

_SKIN = ((0.28, 0.16, 0.10), (1.00, 0.86, 0.76))
_HAIR = ((0.07, 0.05, 0.06), (0.96, 0.82, 0.42))
_INK = (0.10, 0.10, 0.12)  # shoes and eyes
_CHUNK = 64  # figures rendered at once: few enough for the processor's cache
_WIDTHS = 7  # at which a figure is rendered to find its own

# What is painted, back to front: the color and how bright it is.
_LAYERS = (
    ("trousers", 0.8), ("trousers", 1.0), ("ink", 1.0), ("shirt", 1.0), ("trousers", 1.0), ("skin", 1.0),
    ("shirt", 0.85), ("skin", 1.0), ("ink", 1.0), ("hair", 1.0),
)  # fmt: skip
_FACTS: dict[str, Any] = {"shaped_by": ("size",), "because": "is rendered in color at any `size`"}


@dataset("stick_figures", shape=(3, SIZE, SIZE), context=(3, None, None), classes=(), size=SIZE, **_FACTS)
def _read(source: Any, train: bool) -> Split:
    """Rendered figures of random poses and appearances, on stick men of their poses."""
    rows = thin(TRAIN if train else TEST, source.limit)
    return stick_figures(train, rows, source.shaping.size, source.seed)


def stick_figures(train: bool, rows: Tensor | None = None, size: int = SIZE, seed: int = 0) -> Split:
    """`TRAIN` or `TEST` figures (or `rows` of them) on stick men, with "joints" and "factors" known."""
    count, split = (TRAIN, "train") if train else (TEST, "test")
    joints = random_poses(count, seeded(f"stick figures/{seed}/{split}/poses"), size)
    factors = _drawn(count, split, seed)
    if rows is not None:
        joints, factors = joints[rows], factors[rows]
    known = {"joints": joints, "factors": factors}
    how, men = f"rendered at {size} pixels", drawing.draw_stick_man(joints, size)
    return Split(render(joints, factors, size), context=men, known=known, preprocessing=how)


def true_factors(n: int, seed: int = 0) -> Tensor:
    """n draws from the law of the factors, those of no split: (n, F).

    >>> true_factors(5).shape, len(FACTORS)
    (torch.Size([5, 10]), 10)
    """
    return _drawn(n, "true", seed)


def _drawn(n: int, split: str, seed: int) -> Tensor:
    low, high = torch.tensor(list(FACTORS.values())).T
    generator = seeded(f"stick figures/{seed}/{split}/factors")
    return low + (high - low) * torch.rand(n, len(FACTORS), generator=generator)


def render(joints: Tensor, factors: Tensor, size: int = SIZE) -> Tensor:
    """Figures of given poses (N, 15, 2), in pixels, and appearances (N, F): (N, 3, size, size) uint8."""
    drawing.check_joints(joints)
    fix = "pass one row for each pose, in the order of `FACTORS`"
    check_shapes(fix, factors=(factors, f"N {len(FACTORS)}"), joints=(joints, "N J 2"))
    parts = []
    for pose, look in zip(joints.split(_CHUNK), factors.split(_CHUNK), strict=True):
        painted = _paint(_colors(look), _covered(_distances(pose, size), look[:, -1], size))
        parts.append(painted.mul_(255).round_().to(torch.uint8))
    return torch.cat(parts)


def recover_factors(images: Tensor, joints: Tensor) -> Tensor:
    """The factors read back from pictures of figures whose poses are known: (N, F).

    A color is the median over the pixels in which its parts alone are seen, whatever the width; the width is
    that of the rendering in these colors, linear between `_WIDTHS` of them, which is closest to the picture.
    On true renderings of 64 pixels colors and gray levels are exact up to the rounding of the picture, and
    the width up to 0.1 pixels.

    `images` are (N, 3, S, S), uint8 or floats in [0, 1], with `joints` (N, 15, 2) in their pixels; other
    shapes raise an InputError.
    """
    drawing.check_joints(joints)
    check_shapes("pass color pictures", images=(images, "N 3 S S"))
    check_rows("joints", joints, len(images), "images")
    parts = zip(as_input(images).float().split(_CHUNK), joints.split(_CHUNK), strict=True)
    return torch.cat([_recover(x, pose) for x, pose in parts])


def _distances(joints: Tensor, size: int) -> list[tuple[Tensor, float, float]]:
    """For each layer the distance to its skeleton (N, S, S), and its reach, in half limbs and in pixels."""

    def lines(ends: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        return functools.reduce(torch.minimum, [segment_distance(a, b, size) for a, b in ends])

    def chain(*names: str) -> Tensor:
        return lines(pairwise(joint(joints, name) for name in names))

    unit = size / SIZE
    center, radius, up = head_of(joints)
    corners = torch.stack([joint(joints, name) for name in ("rshoulder", "lshoulder", "lhip", "rhip")], 1)
    ankles = (joint(joints, "rankle"), joint(joints, "lankle"))
    head = segment_distance(center, center, size) - radius[..., None]
    x, y = drawing.offsets(center + 0.3 * radius * up, size)
    above = up[:, :1, None] * x + up[:, 1:, None] * y  # the hairline
    neck = segment_distance(corners[:, :2].mean(1), center, size) - 1.5 * unit
    eyes = [joint(joints, f"{side}eye") - 0.1 * radius * up for side in "lr"]
    return [
        (chain("rhip", "rknee", "rankle"), 1.1, 0.0),
        (chain("lhip", "lknee", "lankle"), 1.1, 0.0),
        (lines(zip(ankles, toes_of(joints), strict=True)), 0.0, 1.6 * unit),
        (drawing.polygon_distance(corners, size), 0.6, 0.0),
        (chain("rhip", "lhip"), 1.1, 0.0),
        (torch.minimum(chain("relbow", "rwrist"), chain("lelbow", "lwrist")), 0.8, 0.0),
        (torch.minimum(chain("rshoulder", "relbow"), chain("lshoulder", "lelbow")), 1.0, 0.0),
        (torch.minimum(neck, head), 0.0, 0.0),
        (lines(zip(eyes, eyes, strict=True)), 0.0, 0.55 * unit),
        (torch.maximum(head - 0.12 * radius[..., None], -above), 0.0, 0.0),
    ]


def _covered(distances: list[tuple[Tensor, float, float]], width: Tensor, size: int) -> list[Tensor]:
    """How much of each pixel each layer covers, for limbs of `width` (N,): (N, S, S) each."""
    limb = (width / 2 * size / SIZE)[:, None, None]
    return [coverage(distance, limb * part + pixels) for distance, part, pixels in distances]


def _colors(factors: Tensor) -> dict[str, Tensor]:
    """The colors that factors (N, F) mean: (N, 3) each."""
    skin, hair = (factors.new_tensor(ends) for ends in (_SKIN, _HAIR))
    return {
        "shirt": factors[:, 0:3],
        "trousers": factors[:, 3:6],
        "skin": torch.lerp(skin[0], skin[1], factors[:, 6:7]),
        "hair": torch.lerp(hair[0], hair[1], factors[:, 7:8]),
        "background": factors[:, 8:9].expand(-1, 3),
        "ink": factors.new_tensor(_INK).expand(len(factors), 3),
    }


def _paint(colors: dict[str, Tensor], covered: list[Tensor]) -> Tensor:
    """The layers one over the other: (N, 3, S, S) in [0, 1]."""
    picture = colors["background"][:, :, None, None].expand(-1, -1, *covered[0].shape[1:]).clone()
    for (name, shade), part in zip(_LAYERS, covered, strict=True):
        picture.lerp_((shade * colors[name])[:, :, None, None], part[:, None])
    return picture


def _recover(x: Tensor, joints: Tensor) -> Tensor:
    distances = _distances(joints, x.shape[-1])
    widths = torch.linspace(*FACTORS["width"], _WIDTHS).tolist()
    covered = [_covered(distances, joints.new_full((len(x),), width), x.shape[-1]) for width in widths]
    colors = _seen_colors(x, covered[0], covered[-1])
    skin, hair = (_along(colors[name], ends) for name, ends in (("skin", _SKIN), ("hair", _HAIR)))
    gray = colors["background"].mean(1, keepdim=True)
    colors["ink"] = x.new_tensor(_INK).expand(len(x), 3)
    width = _closest(x, [_paint(colors, layers) for layers in covered], widths)
    return torch.cat([colors["shirt"], colors["trousers"], skin, hair, gray, width], 1)


def _seen_colors(x: Tensor, thin: list[Tensor], thick: list[Tensor]) -> dict[str, Tensor]:
    """The median color of the pixels that show one color alone, with thin limbs and with thick ones."""
    shown: dict[str, list[tuple[Tensor, Tensor]]] = {}
    free = [torch.ones_like(thin[0])] * 2
    for (name, shade), *parts in reversed(list(zip(_LAYERS, thin, thick, strict=True))):
        seen = torch.minimum(free[0] * parts[0], free[1] * parts[1])
        shown.setdefault(name, []).append((seen, x / shade))
        free = [rest * (1 - part) for rest, part in zip(free, parts, strict=True)]
    shown["background"] = [(free[1], x)]
    return {name: _median(pieces) for name, pieces in shown.items() if name != "ink"}


def _median(pieces: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The median of (N, 3, S, S) values over the pixels that are seen best, (N, S, S): (N, 3)."""
    seen = torch.stack([piece for piece, _ in pieces], 1).flatten(1)
    values = torch.stack([value for _, value in pieces], 2).flatten(2)
    enough = seen.amax(1, keepdim=True).clamp_max(0.999)
    return values.masked_fill((seen < enough)[:, None], torch.nan).nanmedian(2).values


def _along(color: Tensor, ends: tuple[tuple[float, ...], ...]) -> Tensor:
    """Where on the line between two colors a color (N, 3) lies: (N, 1)."""
    dark, light = color.new_tensor(ends)
    line = light - dark
    return ((color - dark) @ line / line.dot(line))[:, None]


def _closest(x: Tensor, pictures: list[Tensor], widths: list[float]) -> Tensor:
    """The width at which the pictures, linear between the given ones, come closest to x: (N, 1)."""
    errors, candidates = [], []
    for first, second, low, high in zip(pictures, pictures[1:], widths, widths[1:], strict=False):
        change, rest = (second - first).flatten(1), (x - first).flatten(1)
        part = ((rest * change).sum(1) / change.square().sum(1).clamp_min(1e-12)).clamp(0, 1)
        errors.append((rest - part[:, None] * change).square().sum(1))
        candidates.append(low + part * (high - low))
    best = torch.stack(errors).argmin(0, keepdim=True)
    return torch.stack(candidates).gather(0, best).T
