"""Perceptual path length where it is known, and perceptual distances against an independent LPIPS."""

import math

import pytest
import torch
from torch import nn

from flowprior.errors import InputError
from flowprior.latent import lerp, slerp
from flowprior.metrics import PerceptualDistance, lpips_weights, perceptual_path_length
from flowprior.networks.vgg import VGGFeatures


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squares(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().flatten(1).sum(1)


def test_a_linear_decoder_changes_at_a_constant_rate():
    matrix, start, end = normal(3, 5), normal(40, 3, seed=1), normal(40, 3, seed=2)
    expected = ((end - start) @ matrix).square().sum(1)
    for epsilon in (1e-4, 1e-2):
        found = perceptual_path_length(
            lambda z: z @ matrix, squares, lerp, start, end, epsilon=epsilon, outliers=0, batch_size=7
        )
        assert found.value == found.mean == pytest.approx(expected.mean().item(), rel=1e-6)
        assert found.median == pytest.approx(expected.median().item(), rel=1e-6)
    assert found.standard_error == pytest.approx(expected.std(correction=0).item() / math.sqrt(40), rel=1e-6)


@pytest.mark.parametrize("radius", [1.0, 4.0])
def test_on_a_sphere_the_rate_is_radius_times_angle(radius):
    start, end = (radius * nn.functional.normalize(normal(50, 6, seed=s)) for s in (1, 2))
    angle = torch.linalg.vecdot(start, end).div(radius**2).acos()
    found = perceptual_path_length(lambda z: z, squares, slerp, start, end, outliers=0)
    assert found.value == pytest.approx((radius * angle).square().mean().item(), rel=1e-4)
    chord = perceptual_path_length(lambda z: z, squares, lerp, start, end, outliers=0)
    assert chord.value == pytest.approx((2 * radius * (angle / 2).sin()).square().mean().item(), rel=1e-6)


def test_a_bend_costs_by_the_mean_square_of_the_rate():
    start, end = torch.zeros(20_000, 1, dtype=torch.float64), torch.ones(20_000, 1, dtype=torch.float64)
    found = perceptual_path_length(lambda z: z**2, squares, lerp, start, end, outliers=0, batch_size=5000)
    assert found.value == pytest.approx(4 / 3, rel=0.02)  # of (2t)², where the straight one has 1


def test_in_float32_the_rounding_is_small_against_epsilon():
    matrix, start, end = (
        normal(64, 100).float(),
        normal(30, 64, seed=1).float(),
        normal(30, 64, seed=2).float(),
    )
    rough = perceptual_path_length(lambda z: z @ matrix, squares, slerp, start, end)
    exact = perceptual_path_length(
        lambda z: z @ matrix.double(), squares, slerp, start.double(), end.double()
    )
    assert rough.value == pytest.approx(exact.value, rel=0.01)


def test_outliers_are_left_out_on_both_sides_and_the_seed_decides_the_places():
    ends = torch.arange(1.0, 101.0, dtype=torch.float64)[:, None]
    found = perceptual_path_length(lambda z: z, squares, lerp, torch.zeros_like(ends), ends, outliers=0.1)
    kept = ends[9:91].square()  # of 100 numbers the quantiles 0.1 and 0.9 are the 10th and the 91st
    assert found.left_out == 100 - len(kept)
    assert found.value == pytest.approx(kept.mean().item())
    assert found.mean == pytest.approx(ends.square().mean().item())

    def bent(seed: int) -> float:
        return perceptual_path_length(torch.sin, squares, lerp, 0 * ends, ends, seed=seed).value

    assert bent(0) == bent(0) != bent(1)


def test_wrong_input_is_named():
    ends = torch.zeros(3, 2)
    with pytest.raises(InputError, match=r"`start` has shape \(3, 2\) and `end` \(2, 2\)"):
        perceptual_path_length(lambda z: z, squares, lerp, ends, ends[:2])
    with pytest.raises(InputError, match=r"`epsilon` \(=0\)"):
        perceptual_path_length(lambda z: z, squares, lerp, ends, ends, epsilon=0)
    with pytest.raises(InputError, match="holds NaN or infinity in 3 of 3 rows"):
        perceptual_path_length(lambda z: z / 0, squares, lerp, ends, ends)


def test_pairs_may_have_steps_of_their_own():
    start, end = normal(3, 2, 2), normal(3, 2, 2, seed=1)
    weights = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for path in (lerp, slerp):
        own = path(start, end, weights)
        for n in range(3):
            torch.testing.assert_close(own[:, n], path(start, end, weights[:, n])[:, n])
    with pytest.raises(
        InputError, match=r"`weights` has shape \(4, 2\) but must be \(steps,\), or \(steps, 3\)"
    ):
        lerp(start, end, weights[:, :2])


def test_the_distance_counts_directions_of_features_not_their_length():
    distance = PerceptualDistance(lambda x: [x, 5 * x[..., :1, :1]])
    a = torch.tensor([[[[3.0, 0.0]], [[0.0, 1.0]]]])  # (1, 2, 1, 2): the vectors (3, 0) and (0, 1)
    b = torch.tensor([[[[0.0, 0.0]], [[4.0, 2.0]]]])  # (0, 4) and (0, 2)
    assert distance(a, b).item() == pytest.approx(2 / 2 + 2)  # at one of two places, then at the first alone
    assert distance(a, 2 * a).item() == pytest.approx(0, abs=1e-6)
    weighed = PerceptualDistance(lambda x: [x], [torch.tensor([1.0, 3.0])])
    assert weighed(a, b).item() == pytest.approx((1 + 3) / 2)
    with pytest.raises(InputError, match="holds 2 layers but `maps` gives 1"):
        PerceptualDistance(lambda x: [x], [torch.ones(1)] * 2)(a, b)
    with pytest.raises(InputError, match="`a` has shape"):
        distance(a, b[..., :1])


def test_with_vgg16_and_its_weights_it_is_lpips(tmp_path, monkeypatch):
    import torchvision
    from torchmetrics.functional.image.lpips import _LPIPS
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    vgg = nn.Module()
    vgg.features = make_layers(cfgs["D"])
    torch.save(vgg.state_dict(), tmp_path / "vgg16.pth")
    monkeypatch.setattr(torchvision.models, "vgg16", lambda **_: vgg)  # it would download one
    twin = _LPIPS(pretrained=True, net="vgg").eval()
    stages = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    ours = PerceptualDistance(VGGFeatures(tmp_path / "vgg16.pth", stages), lpips_weights())
    a, b = torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        expected = twin(a, b, normalize=True).flatten().double()
    torch.testing.assert_close(ours(a, b), expected, rtol=1e-4, atol=1e-7)
    with pytest.raises(InputError, match=r"`network` \(='resnet'\)"):
        lpips_weights("resnet")
