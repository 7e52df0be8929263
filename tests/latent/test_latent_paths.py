import math

import pytest
import torch

from flowprior.errors import InputError
from flowprior.latent import interpolate, lerp, nearest_neighbors, normal_steps, slerp, traverse


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_slerp_turns_at_constant_speed_in_the_plane_of_its_ends():
    start, end = normal(5, 8, seed=1), normal(5, 8, seed=2)
    end = end / end.norm(dim=1, keepdim=True) * start.norm(dim=1, keepdim=True)
    weights = torch.linspace(0, 1, 7, dtype=torch.float64)
    path = slerp(start, end, weights)
    assert path.shape == (7, 5, 8)
    torch.testing.assert_close(path.norm(dim=2), start.norm(dim=1).expand(7, 5))  # stays on the sphere
    cosines = torch.cosine_similarity(path[1:], path[:-1], dim=2)
    torch.testing.assert_close(cosines, cosines[:1].expand_as(cosines))
    torch.testing.assert_close(path[0], start)
    torch.testing.assert_close(path[-1], end)
    torch.testing.assert_close(slerp(end, start, weights).flip(0), path)


def test_slerp_is_the_rotation_in_two_dimensions():
    angles = torch.tensor([0.3, 1.0, 2.5, 3.1], dtype=torch.float64)
    start = torch.tensor([[2.0, 0.0]], dtype=torch.float64).expand(4, 2)
    end = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    weights = torch.tensor([0.0, 0.2, 0.9], dtype=torch.float64)
    turned = weights[:, None] * angles
    expected = 2 * torch.stack([turned.cos(), turned.sin()], 2)
    torch.testing.assert_close(slerp(start, end, weights), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 9e-5, 1.1e-4, 1e-3])
def test_slerp_at_small_angles_is_the_straight_line(dtype, angle):
    start = torch.tensor([[3.0, 0.0, 0.0]], dtype=dtype)
    end = 3 * torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=dtype)
    weights = torch.linspace(0, 1, 5, dtype=dtype)
    torch.testing.assert_close(slerp(start, end, weights), lerp(start, end, weights), rtol=0, atol=1e-6)


@pytest.mark.parametrize("features", [2, 3, 64])
def test_slerp_between_opposite_ends_keeps_the_radius(features):
    start = normal(4, features)
    path = slerp(start, -2 * start, torch.linspace(0, 1, 9, dtype=torch.float64))
    radius = torch.lerp(start.norm(dim=1), 2 * start.norm(dim=1), torch.linspace(0, 1, 9).double()[:, None])
    torch.testing.assert_close(path.norm(dim=2), radius)
    torch.testing.assert_close(path[-1], -2 * start)


def test_slerp_with_a_zero_end_and_in_one_dimension_is_finite():
    zero, other = torch.zeros(2, 3), torch.ones(2, 3)
    weights = torch.tensor([0.0, 0.5, 1.0])
    assert torch.equal(slerp(zero, other, weights), lerp(zero, other, weights))
    assert slerp(torch.ones(1, 1), -torch.ones(1, 1), weights).isfinite().all()


def test_slerp_has_finite_gradients_everywhere():
    start = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.5]], requires_grad=True)
    end = torch.tensor([[1.0, 1e-12], [0.0, 1.0], [-0.2, 1.0]], requires_grad=True)
    slerp(start, end, torch.tensor([0.3, 0.6])).square().sum().backward()
    assert start.grad.isfinite().all()
    assert end.grad.isfinite().all()


def test_event_shapes_are_one_vector():
    start, end = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=5)
    weights = torch.tensor([0.25])
    flat = slerp(start.flatten(1), end.flatten(1), weights)
    torch.testing.assert_close(slerp(start, end, weights).flatten(2), flat)


def test_interpolate_goes_through_from_base():
    start, end = normal(3, 2), normal(3, 2, seed=1)
    z = interpolate(lambda z0: (2 * z0 + 1, z0.sum(-1)), start, end, 5)
    torch.testing.assert_close(z, 2 * slerp(start, end, torch.linspace(0, 1, 5)) + 1, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"`steps` \(=1\)"):
        interpolate(lambda z0: (z0, z0), start, end, 1)


def test_wrong_ends():
    with pytest.raises(InputError, match=r"`start` has shape \(2, 3\) and `end` \(3, 3\)"):
        slerp(torch.zeros(2, 3), torch.zeros(3, 3), torch.zeros(2))
    with pytest.raises(InputError, match="`weights`"):
        lerp(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor(0.5))


def test_traversal_moves_one_coordinate_at_a_time():
    z0 = normal(3, 2, 2)
    values = torch.tensor([-1.0, 0.0, 2.0])
    z = traverse(lambda z0: (z0, None), z0, [3, 0], values)
    assert z.shape == (2, 3, 3, 2, 2)
    for c, coordinate in enumerate([3, 0]):
        for v, value in enumerate(values):
            expected = z0.flatten(1).clone()
            expected[:, coordinate] = value
            assert torch.equal(z[c, v].flatten(1), expected)
    for coordinates in ([4], [-1], []):
        with pytest.raises(InputError, match="from 0 to 3"):
            traverse(lambda z0: (z0, None), z0, coordinates, values)
    with pytest.raises(InputError, match="`values`"):
        traverse(lambda z0: (z0, None), z0, [0], torch.zeros(2, 2))


def test_normal_steps_are_evenly_spaced_in_mass():
    steps = normal_steps(5, reach=0.8)
    mass = torch.distributions.Normal(0, 1).cdf(steps)
    torch.testing.assert_close(mass, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))
    with pytest.raises(InputError, match="`steps`"):
        normal_steps(1)


@pytest.mark.parametrize("chunk_values", [1, 100, 2**24])
@pytest.mark.parametrize("k", [1, 4, 37])
def test_neighbors_against_brute_force(monkeypatch, chunk_values, k):
    monkeypatch.setattr("flowprior.latent.neighbors._CHUNK_VALUES", chunk_values)
    generator = torch.Generator().manual_seed(3)
    examples = torch.randint(0, 256, (37, 1, 4, 4), generator=generator, dtype=torch.uint8)
    queries = torch.rand(6, 1, 4, 4, generator=generator)
    distances, rows = nearest_neighbors(queries, examples, k)
    brute = torch.cdist(
        queries.flatten(1).double(),
        examples.flatten(1).double() / 255,
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    expected = brute.sort(dim=1)
    assert torch.equal(rows, expected.indices[:, :k])
    torch.testing.assert_close(distances, expected.values[:, :k])


def test_a_copy_is_found_at_distance_zero():
    examples = torch.randint(
        0, 256, (50, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    distances, rows = nearest_neighbors(examples[[7, 31]], examples, 2)
    assert rows[:, 0].tolist() == [7, 31]
    assert distances[:, 0].tolist() == [0.0, 0.0]
    assert (distances[:, 1] > 0).all()


def test_neighbors_of_the_wrong_shape_or_number():
    with pytest.raises(InputError, match="one event shape"):
        nearest_neighbors(torch.zeros(1, 1, 8, 8), torch.zeros(5, 1, 4, 4))
    for k in (0, 6):
        with pytest.raises(InputError, match=f"`k` \\(={k}\\)"):
            nearest_neighbors(torch.zeros(1, 4), torch.zeros(5, 4), k)
