"""Joints found again in small renderings: discs of known colors at known places."""

from dataclasses import replace

import pytest
import torch

from flowprior.errors import InputError
from flowprior.metrics import extract, learned, pose, pose_error, pose_regressor

COLORS = torch.tensor([[1.0, 0.2, 0.2], [0.2, 1.0, 0.2], [0.2, 0.2, 1.0]])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWPRIOR_CACHE", str(tmp_path / "cache"))


def discs(count: int, height: int = 24, width: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A red, a green and a blue disc on gray of any level: images uint8 and the centers (x, y)."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width - 1.0, height - 1.0])
    centers = size * (0.1 + 0.8 * torch.rand(count, 3, 2, generator=generator))
    level = torch.rand(count, 1, 1, 1, generator=generator)
    images = level.expand(-1, 3, height, width).clone()
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    for k, color in enumerate(COLORS):
        x, y = centers[:, k, :, None, None].unbind(1)
        inside = ((columns - x).square() + (rows - y).square() < (width / 8) ** 2)[:, None]
        images = torch.where(inside, color.view(3, 1, 1), images)
    return (255 * images).to(torch.uint8), centers


def test_error_is_the_mean_distance():
    given = torch.zeros(2, 2, 2)
    found = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [-1.0, 0.0]]])
    error = pose_error(found, given)
    assert error.value == 7 / 4
    assert error.per_joint == (2.5, 1.0)
    assert error.examples == 2


def test_joints_are_found_to_a_pixel_and_moved_ones_are_noticed(monkeypatch):
    monkeypatch.setattr(pose, "RECIPE", replace(pose.RECIPE, seen=12_000))
    images, joints = discs(600)
    test_images, test_joints = discs(100, seed=1)
    network = pose_regressor(images, joints, test_images, test_joints)
    found = torch.cat(list(extract(test_images, network)))
    ceiling = network.facts["test_pose_error"]
    assert network.facts["test_pose_error_on"] == "test 100"
    assert pose_error(found, test_joints).value == pytest.approx(ceiling, rel=1e-4)
    assert ceiling < 1.5
    inside = (test_joints[..., 0] < 19).all(1)
    moved = torch.cat(list(extract(test_images[inside].roll(2, 3), network)))  # 2 pixels to the right
    given = test_joints[inside]
    assert pose_error(moved, given + torch.tensor([2.0, 0.0])).value < ceiling + 0.5
    assert pose_error(moved, given).value > 1.5
    monkeypatch.delattr(learned, "fit")  # the second time it comes from the cache
    again = pose_regressor(images, joints, test_images, test_joints)
    assert again.checksum == network.checksum
    assert again.facts == network.facts


def test_joints_count_in_pixels_of_large_and_oblong_images(monkeypatch):
    monkeypatch.setattr(pose, "RECIPE", replace(pose.RECIPE, seen=4_000))
    images, joints = discs(400, height=72, width=96)
    network = pose_regressor(images, joints)
    assert network.resize == "averaged to 64x64"
    assert network.facts["test_pose_error_on"] == "held-out 41"
    chance = pose_error(joints.mean(0).expand_as(joints), joints).value
    assert network.facts["test_pose_error"] < 0.35 * chance


def test_wrong_input_is_named():
    images, joints = discs(8)
    with pytest.raises(InputError, match="7 rows but must have one for each of the 8 images"):
        pose_regressor(images, joints[:7])
    with pytest.raises(InputError, match=r"`joints` has shape \(8, 6\)"):
        pose_regressor(images, joints.flatten(1))
    with pytest.raises(InputError, match="given together"):
        pose_regressor(images, joints, images)
    with pytest.raises(InputError, match="H > 7, W > 7"):
        pose_regressor(images[..., :6], joints)
    with pytest.raises(InputError, match="`test_joints` holds NaN"):
        pose_regressor(images, joints, images, joints * float("nan"))
    with pytest.raises(InputError, match="one pose for each image"):
        pose_error(joints, joints[:1])
