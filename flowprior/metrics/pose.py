"""Fidelity to a pose: joints that a small network finds in the output against the given ones."""

from dataclasses import dataclass
from typing import Unpack

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from flowprior.checks import check_finite, check_rows, check_shapes
from flowprior.metrics.features import FeatureNetwork
from flowprior.metrics.learned import Options, Recipe, Standardize, convolution, learn

_LARGEST = 64  # larger images are averaged down to this side
_UNKNOWN = "leave out examples with unknown joints"


@dataclass(frozen=True)
class PoseError:
    """Mean Euclidean distances in pixels."""

    value: float  # over all joints
    per_joint: tuple[float, ...]
    examples: int


def pose_error(recovered: Tensor, given: Tensor) -> PoseError:
    """Mean of |recovered - given| over examples and joints, both (N, J, 2) in pixels.

    Beside joints by `pose_regressor` report its `facts["test_pose_error"]`: what real images score.

    Raises:
        InputError: if the shapes differ or are others, or a number is not finite.

    >>> pose_error(torch.tensor([[[3.0, 4.0], [1.0, 1.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))
    PoseError(value=2.5, per_joint=(5.0, 0.0), examples=1)
    """
    pattern = "N>0 joints>0 2"
    check_shapes("pass one pose for each image", recovered=(recovered, pattern), given=(given, pattern))
    for name, joints in (("recovered", recovered), ("given", given)):
        check_finite(name, joints, _UNKNOWN)
    distances = joint_distances(recovered, given)
    return PoseError(distances.mean().item(), tuple(distances.mean(0).tolist()), len(distances))


def joint_distances(recovered: Tensor, given: Tensor) -> Tensor:
    """|recovered - given|, both (N, J, 2) in pixels: -> (N, J) float64, on the CPU."""
    return (recovered.detach().cpu().double() - given.detach().cpu().double()).norm(dim=2)


def pose_regressor(
    images: Tensor, joints: Tensor, test_images: Tensor | None = None, test_joints: Tensor | None = None,
    **options: Unpack[Options],
) -> FeatureNetwork:  # fmt: skip
    """A small network from images (N, C, H, W) to joints (N, J, 2) in pixels, trained on real images.

    Convolutions down to an eighth of the side and back to a quarter end in one map for each joint; the
    expected position under the map's softmax is the joint (Sun et al. 2018, arXiv:1711.08229). Images
    larger than 64 pixels are averaged down to 64. It is trained once and kept, as `classifier_features`.
    `facts["test_pose_error"]` is its own mean error in pixels on the test set (or on a tenth held out).

    Args:
        images, test_images: (N, C, H, W), uint8 or floats in [0, 1], 8 pixels a side or more.
        joints, test_joints: (N, J, 2), x and y in pixels, within the image.
        options: see `Options`.

    Raises:
        InputError: if images and joints do not fit together, or a joint is not finite.
    """
    given = images, joints, test_images, test_joints

    def build() -> _PoseNetwork:
        return _PoseNetwork(*images.shape[1:], joints=joints.shape[1])

    return learn(RECIPE, build, given, Tensor.float, "pose_error", **options)


class _PoseNetwork(nn.Module):
    def __init__(self, channels: int, height: int, width: int, *, joints: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.fine = nn.Sequential(  # a quarter of the side: where
            Standardize(channels, _LARGEST),
            *convolution(channels, 16, kernel=5, stride=2),
            *convolution(16, 32, stride=2),
        )
        self.coarse = nn.Sequential(  # an eighth: which limb, left or right
            *convolution(32, 64, stride=2), *convolution(64, 64), *convolution(64, 64)
        )
        self.head = nn.Sequential(
            *convolution(32 + 64, 64, kernel=1), *convolution(64, 32), nn.Conv2d(32, joints, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        coarse = functional.interpolate(self.coarse(fine), size=fine.shape[2:], mode="nearest")
        maps = self.head(torch.cat([fine, coarse], 1))
        height, width = maps.shape[2:]
        weights = rearrange(maps.flatten(2).softmax(2), "n j (h w) -> n j h w", h=height)
        rows = torch.linspace(0, self.height - 1, height, device=maps.device)
        columns = torch.linspace(0, self.width - 1, width, device=maps.device)
        return torch.stack([weights.sum(2) @ columns, weights.sum(3) @ rows], 2)


def _distance(given: Tensor, wanted: Tensor) -> Tensor:
    return (given - wanted).square().sum(2).add(1e-6).sqrt().mean()


def _check(images: Tensor, joints: Tensor, images_name: str, joints_name: str) -> None:
    check_rows(joints_name, joints, len(images), f"images in `{images_name}`")
    check_shapes("", **{joints_name: (joints, "N>0 joints>0 2")})
    check_finite(joints_name, joints, _UNKNOWN)


RECIPE = Recipe(
    "pose", "joints", 1, "test_pose_error", 45_000, 1, _LARGEST, "N>3 C H>7 W>7", _check, _distance,
    lambda recovered, given: pose_error(recovered, given).value,
)  # fmt: skip
