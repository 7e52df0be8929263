"""Paths through both spaces, attribute vectors, the rate of change and principal components."""

import pytest
import torch

from flowprior.errors import InputError
from flowprior.latent import (
    attribute_vector,
    both_paths,
    lerp,
    principal_components,
    rate_of_change,
    slerp,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cubed(z0):
    return z0**3, z0.sum(-1)


def cube_root(z):
    return z.abs().pow(1 / 3) * z.sign(), z.sum(-1)


@pytest.mark.parametrize("line", [slerp, lerp])
def test_both_paths_share_their_ends_and_are_straight_each_in_its_space(line):
    start, end = normal(6, 3), normal(6, 3, seed=1)
    found = both_paths(cube_root, cubed, start, end, 5, line)
    weights = torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(found.z, lerp(start, end, weights))
    torch.testing.assert_close(found.z0[[0, -1]], torch.stack([start, end]))
    ends = cube_root(start)[0], cube_root(end)[0]
    torch.testing.assert_close(cube_root(found.z0)[0], line(*ends, weights))
    with pytest.raises(InputError, match=r"`steps` \(=1\)"):
        both_paths(cube_root, cubed, start, end, 1)


def test_an_attribute_vector_finds_the_planted_direction():
    direction, has = normal(2, 4), torch.arange(4000) % 4 == 0
    codes = normal(4000, 2, 4, seed=1) + has[:, None, None] * direction
    torch.testing.assert_close(attribute_vector(codes, has), direction, rtol=0, atol=0.15)
    exact = torch.stack([codes[has].mean(0), codes[~has].mean(0)])
    torch.testing.assert_close(attribute_vector(codes, has), exact[0] - exact[1])
    for wrong in (torch.ones(4000), has[1:]):
        with pytest.raises(InputError, match="must be bool, one for each"):
            attribute_vector(codes, wrong)
    with pytest.raises(InputError, match="`has` is False for all 3"):
        attribute_vector(codes[:3], torch.zeros(3, dtype=torch.bool))


@pytest.mark.parametrize("batch_size", [1, 12, 1000])
def test_the_rate_is_constant_in_a_linear_decoder_and_abrupt_at_a_threshold(batch_size):
    weights = torch.linspace(0, 1, 6, dtype=torch.float64)
    path = lerp(normal(7, 3), normal(7, 3, seed=1), weights)
    matrix = normal(3, 5, seed=2)

    def norm(a, b):
        return (a - b).norm(dim=1)

    rates = rate_of_change(path, lambda z: z @ matrix, norm, batch_size)
    assert rates.shape == (5, 7)
    torch.testing.assert_close(rates, ((path[-1] - path[0]) @ matrix).norm(dim=1).div(5).expand(5, 7))
    steps = weights[:, None, None].expand(6, 2, 1)
    torch.testing.assert_close(
        rate_of_change(steps, lambda z: (z > 0.7).double(), norm, batch_size),
        torch.tensor([0.0, 0, 0, 1, 0], dtype=torch.float64)[:, None].expand(5, 2),
    )
    with pytest.raises(InputError, match=r"`path` has shape \(1, 7, 3\)"):
        rate_of_change(path[:1], lambda z: z, norm)


def test_components_are_the_axes_of_an_ellipsoid():
    turn = torch.linalg.qr(normal(4, 4)).Q
    scales = torch.tensor([5.0, 2.0, 1.0, 0.1], dtype=torch.float64)
    codes = (normal(20_000, 4, seed=1) * scales) @ turn.T + 3
    found = principal_components(codes.view(-1, 2, 2), 3)
    torch.testing.assert_close(found.scales, scales[:3], rtol=0.03, atol=0)
    torch.testing.assert_close(
        (found.directions.flatten(1) @ turn[:, :3]).abs(), torch.eye(3).double(), rtol=0, atol=0.03
    )
    torch.testing.assert_close(found.shares, scales[:3].square() / scales.square().sum(), rtol=0.05, atol=0)
    coordinates = found.coordinates(codes.view(-1, 2, 2))
    torch.testing.assert_close(coordinates.T.cov(), torch.eye(3).double(), rtol=0, atol=1e-6)
    assert coordinates.mean(0).abs().max() < 1e-6
    path = codes[:15].view(5, 3, 2, 2)
    torch.testing.assert_close(found.coordinates(path), coordinates[:15].view(5, 3, 3))


def test_a_traversal_sets_one_coordinate_and_leaves_the_rest_of_z():
    codes = normal(300, 2, 3)
    found = principal_components(codes, 2)
    z, values = codes[:4], torch.tensor([-1.5, 0.0, 1.5])
    moved = found.traverse(z, values)
    assert moved.shape == (2, 3, 4, 2, 3)
    coordinates, before = found.coordinates(moved), found.coordinates(z)
    for k in (0, 1):
        torch.testing.assert_close(coordinates[k, :, :, k], values.double()[:, None].expand(3, 4))
        torch.testing.assert_close(coordinates[k, :, :, 1 - k], before[:, 1 - k].expand(3, 4))
        away = (moved[k] - z).flatten(2)  # only along the direction
        direction = found.directions[k].flatten()
        torch.testing.assert_close(away, (away @ direction)[..., None] * direction)
    torch.testing.assert_close(found.traverse(z[:1], before[0, :1])[0, 0], z[:1])


def test_wrong_components_are_named():
    codes = normal(5, 3)
    for count in (0, 4):
        with pytest.raises(InputError, match=rf"`count` \(={count}\) must be an int from 1 to 3"):
            principal_components(codes, count)
    with pytest.raises(InputError, match="all the same"):
        principal_components(torch.ones(5, 3), 1)
    with pytest.raises(InputError, match="vary along 1 directions"):
        principal_components(codes[:, :1] * torch.ones(3), 2)
    with pytest.raises(InputError, match=r"must be \(N, 3\) and \(V,\)"):
        principal_components(codes).traverse(codes[:, :2], torch.zeros(2))
