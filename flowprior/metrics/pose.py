"""Fidelity to a pose: joints that a small network finds in the output against the given ones."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowprior.errors import InputError
from flowprior.metrics.cache import fingerprint
from flowprior.metrics.features import FeatureNetwork
from flowprior.metrics.learned import (
    Standardise,
    as_features,
    check_images,
    convolution,
    learned,
    outputs,
    train,
    train_and_test,
)

RECIPE = 1  # in every cache key: count it up when anything below changes what is learned
_LARGEST = 64  # larger images are averaged down to this side
_SMALLEST = 8
_SEEN = 45_000  # images per training: about a minute on one core


@dataclass(frozen=True)
class PoseError:
    """Mean Euclidean distances in pixels."""

    value: float  # over all joints
    per_joint: tuple[float, ...]
    examples: int


def pose_error(found: Tensor, given: Tensor) -> PoseError:
    """Mean of |found - given| over examples and joints, both (N, J, 2) in pixels.

    Of outputs whose joints `pose_regressor` finds, report its `facts["test_pose_error"]` beside it: that is
    what real images score.

    Raises:
        InputError: if the shapes differ or are others, or a number is not finite.

    >>> pose_error(torch.tensor([[[3.0, 4.0], [1.0, 1.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))
    PoseError(value=2.5, per_joint=(5.0, 0.0), examples=1)
    """
    if found.shape != given.shape:
        raise InputError(
            f"`found` has shape {tuple(found.shape)} and `given` {tuple(given.shape)}, but both must be "
            "(N, joints, 2), one pose for each image."
        )
    _check_joints(found, "found")
    _check_joints(given, "given")
    distances = joint_distances(found, given)
    return PoseError(distances.mean().item(), tuple(distances.mean(0).tolist()), len(distances))


def joint_distances(found: Tensor, given: Tensor) -> Tensor:
    """|found - given|, both (N, J, 2) in pixels: -> (N, J) float64, on the CPU."""
    return (found.detach().cpu().double() - given.detach().cpu().double()).norm(dim=2)


def pose_regressor(
    images: Tensor,
    joints: Tensor,
    test_images: Tensor | None = None,
    test_joints: Tensor | None = None,
    *,
    data_fingerprint: str | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> FeatureNetwork:
    """A small network from images (N, C, H, W) to joints (N, J, 2) in pixels, trained on real images.

    Convolutions down to an eighth of the side and back to a quarter end in one map for each joint; the
    expected place under the map's softmax is the joint (Sun et al. 2018, arXiv:1711.08229). Images
    larger than 64 pixels are averaged down to 64. It is trained once and kept in the cache folder, as the
    network of `classifier_features`. `facts["test_pose_error"]` is its own mean error in pixels on the test
    set (or on a tenth held out): what real images score, the least that outputs can be expected to.

    Args:
        images: (N, C, H, W), uint8 or floats in [0, 1], 8 pixels a side or more.
        joints: (N, J, 2), x and y in pixels, within the image.
        test_images, test_joints: the same for the test set.
        data_fingerprint: of training and test set together; by default it is computed from the tensors.
        seed: of initialisation and order.
        device: where it is trained and where the returned network lives.

    Raises:
        InputError: if images and joints do not fit together, or a joint is not finite.
    """
    _check(images, joints, "images", "joints")
    test, data = None, data_fingerprint
    if test_images is not None and test_joints is not None:
        _check(test_images, test_joints, "test_images", "test_joints")
        test = (test_images, test_joints.float())
        data = data or fingerprint(images, joints, test_images, test_joints)
    elif test_images is not None or test_joints is not None:
        raise InputError("`test_images` and `test_joints` must be given together or not at all.")
    data = data or fingerprint(images, joints)
    real, held, measured_on = train_and_test((images, joints.float()), test, seed)

    def build() -> _PoseNetwork:
        return _PoseNetwork(*images.shape[1:], joints=joints.shape[1])

    def compute() -> tuple[_PoseNetwork, float]:
        epochs = max(1, min(30, _SEEN // len(real[0])))
        network = train(build, *real, _distance, epochs=epochs, seed=seed, device=torch.device(device))
        return network, pose_error(outputs(network, held[0]), held[1]).value

    key = f"recipe {RECIPE} | {data} | train {len(real[0])} | {measured_on} | seed {seed}"
    network, checksum, error = learned("pose", key, "test_pose_error", build, compute)
    facts: dict[str, float | int | str] = {"test_pose_error": error, "test_pose_error_on": measured_on}
    return as_features(network, "pose_error", images, checksum, facts, _LARGEST).to(device)


class _PoseNetwork(nn.Module):
    def __init__(self, channels: int, height: int, width: int, *, joints: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        self.fine = nn.Sequential(  # a quarter of the side: where
            Standardise(channels, _LARGEST),
            *convolution(channels, 16, kernel=5, stride=2),
            *convolution(16, 32, kernel=3, stride=2),
        )
        self.coarse = nn.Sequential(  # an eighth: which limb, left or right
            *convolution(32, 64, kernel=3, stride=2),
            *convolution(64, 64, kernel=3, stride=1),
            *convolution(64, 64, kernel=3, stride=1),
        )
        self.head = nn.Sequential(
            *convolution(32 + 64, 64, kernel=1, stride=1),
            *convolution(64, 32, kernel=3, stride=1),
            nn.Conv2d(32, joints, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        coarse = functional.interpolate(self.coarse(fine), size=fine.shape[2:], mode="nearest")
        maps = self.head(torch.cat([fine, coarse], 1))
        weights = maps.flatten(2).softmax(2).view_as(maps)  # (N, J, h, w)
        rows = torch.linspace(0, self.height - 1, maps.shape[2], device=maps.device)
        columns = torch.linspace(0, self.width - 1, maps.shape[3], device=maps.device)
        return torch.stack([weights.sum(2) @ columns, weights.sum(3) @ rows], 2)


def _distance(found: Tensor, given: Tensor) -> Tensor:
    return (found - given).square().sum(2).add(1e-6).sqrt().mean()


def _check(images: Tensor, joints: Tensor, images_name: str, joints_name: str) -> None:
    check_images(images, images_name)
    if min(images.shape[2:]) < _SMALLEST:
        raise InputError(
            f"`{images_name}` are {images.shape[2]}x{images.shape[3]} but must have {_SMALLEST} or more "
            "pixels a side."
        )
    if len(joints) != len(images):
        raise InputError(
            f"`{joints_name}` holds {len(joints)} poses but there are {len(images)} images in "
            f"`{images_name}`: one for each."
        )
    _check_joints(joints, joints_name)


def _check_joints(joints: Tensor, name: str) -> None:
    if joints.dim() != 3 or joints.shape[2] != 2 or joints.numel() == 0:
        raise InputError(f"`{name}` has shape {tuple(joints.shape)} but must be (N, joints, 2), not empty.")
    if not joints.isfinite().all():
        raise InputError(f"`{name}` holds NaN or infinity: leave out examples with unknown joints.")
