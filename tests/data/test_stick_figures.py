"""Shapes against Pillow's, stick men joint by joint, and figures whose factors can be read back."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms.functional import gaussian_blur

from flowprior.data import Source
from flowprior.data.drawing import JOINTS, coverage, draw_stick_man, polygon_distance, segment_distance
from flowprior.data.stick_figures import (
    FACTORS,
    TEST,
    TRAIN,
    recover_factors,
    render,
    stick_figures,
    true_factors,
)
from flowprior.errors import InputError

FINE = 16  # pixels of Pillow's picture per pixel of ours


def filled(draw, size=24):
    """What `draw` paints on a fine picture, averaged over our pixels."""
    picture = Image.new("L", (size * FINE, size * FINE))
    draw(ImageDraw.Draw(picture))
    return np.asarray(picture).reshape(size, FINE, size, FINE).mean((1, 3)) / 255


@pytest.mark.parametrize("corners", [
    [(4.0, 4.0), (19.5, 6.0), (17.0, 20.0), (6.5, 15.0)],
    [(4.0, 4.0), (12.0, 9.0), (20.0, 4.0), (12.0, 20.0)],  # not convex
    [(4.0, 4.0), (20.0, 4.0), (4.0, 20.0), (20.0, 20.0)],  # crosses itself, two edges level
])  # fmt: skip
def test_polygons_are_pillows(corners):
    ours = coverage(polygon_distance(torch.tensor([corners]), 24))[0].numpy()
    theirs = filled(lambda draw: draw.polygon([(FINE * x, FINE * y) for x, y in corners], fill=255))
    assert np.abs(ours - theirs).mean() < 0.005
    assert np.abs(ours - theirs).max() < 0.35  # at sharp corners, where a box is no circle


def test_lines_have_the_area_and_the_profile_of_capsules():
    a, b = torch.tensor([[5.0, 6.0], [3.3, 20.1]]), torch.tensor([[5.0, 18.0], [17.2, 4.4]])
    length = (b - a).norm(dim=1)
    drawn = coverage(segment_distance(a, b, 24), 2.0)
    torch.testing.assert_close(drawn.sum((1, 2)), 4 * length + 4 * torch.pi, rtol=0.01, atol=0)
    assert drawn[0, 12, :9].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0]  # 2 pixels to either side of x = 5
    dot = coverage(segment_distance(a[:1], a[:1], 24), 2.0)
    torch.testing.assert_close(dot.sum(), torch.tensor(4 * torch.pi), rtol=0.03, atol=0)


def pose():
    return stick_figures(False, torch.tensor([3])).known["joints"]


def test_each_side_has_its_channel_and_what_is_not_seen_is_left_out():
    joints = pose()
    whole = draw_stick_man(joints, 64)
    mirrored = joints[:, [*range(6, 12), *range(6), 12, 14, 13]]
    assert torch.equal(draw_stick_man(mirrored, 64)[:, [1, 0, 2]], whole)
    for name, channels in [("rwrist", [0]), ("lankle", [1]), ("lhip", [1, 2]), ("cnose", [0, 1])]:
        hidden = joints.clone()
        hidden[:, JOINTS.index(name)] = -1.0
        lost = whole.int() - draw_stick_man(hidden, 64).int()
        assert lost.min() == 0
        assert lost.amax((0, 2, 3)).nonzero().flatten().tolist() == channels
        point = joints[0, JOINTS.index(name)].long()
        assert lost[0, channels[0], point[1], point[0]] > 0
    nobody = draw_stick_man(torch.full_like(joints, -1.0), 64)
    assert nobody.max() == 0


def test_stick_men_scale_with_the_picture():
    small, large = draw_stick_man(pose(), 64).float(), draw_stick_man(4 * pose(), 256).float()
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (shrunk - small).abs().mean() < 1


def test_figures_follow_from_the_seed_and_rows_do_not_touch_each_other():
    all_rows = torch.tensor([0, 7, 130])
    some = stick_figures(True, all_rows)
    again = stick_figures(True, all_rows[1:])
    assert torch.equal(some.x[1:], again.x)
    assert torch.equal(some.context[1:], again.context)
    others = [stick_figures(False, all_rows), stick_figures(True, all_rows, seed=1)]
    for other in others:
        for fact in ("joints", "factors"):
            assert (other.known[fact] != some.known[fact]).any(-1).all()
    assert torch.equal(some.context, draw_stick_man(some.known["joints"], 64))
    assert torch.equal(some.x, render(some.known["joints"], some.known["factors"]))
    assert (len(JOINTS), len(FACTORS)) == (15, 10)
    assert TRAIN > TEST


def test_figures_lie_inside_the_frame():
    figures = stick_figures(False, torch.arange(0, TEST, 10))
    gray = (figures.known["factors"][:, 8] * 255).round()
    for edge in (figures.x[..., 0], figures.x[..., -1], figures.x[:, :, 0], figures.x[:, :, -1]):
        assert (edge == gray[:, None, None]).all()
    moved = (figures.x != gray[:, None, None, None]).any(1).flatten(1).float().mean(1)
    assert moved.min() > 0.06  # and are not lost in it


def test_factors_are_uniform_and_independent_of_each_other_and_of_the_pose():
    low, high = torch.tensor(list(FACTORS.values())).T
    for factors in (true_factors(20_000), stick_figures(True, torch.arange(1)).known["factors"]):
        assert ((factors >= low) & (factors <= high)).all()
    unit = ((true_factors(20_000) - low) / (high - low)).double()
    expected = torch.arange(1, 20_001).double() / 20_000
    gap = (unit.sort(0).values - expected[:, None]).abs().amax(0)
    assert gap.max() < 1.95 / 20_000**0.5  # Kolmogorov-Smirnov at the level of 0.1 %
    far = unit.T.corrcoef() - torch.eye(10)
    assert far.abs().max() < 0.035
    assert not torch.equal(true_factors(5), true_factors(5, seed=1))
    test = stick_figures(False)
    both = torch.cat([test.known["factors"], test.known["joints"].flatten(1)], 1).T.corrcoef()
    assert both[:10, 10:].abs().max() < 0.11


@pytest.mark.parametrize("size", [64, 128])
def test_factors_are_read_back_from_true_renderings(size):
    figures = stick_figures(False, torch.arange(0, TEST, 5 if size == 64 else 50), size)
    joints, factors = figures.known["joints"], figures.known["factors"]
    error = (recover_factors(figures.x, joints) - factors).abs().amax(0)
    assert error[:6].max() <= 0.5 / 255 / 0.8 + 1e-6  # rounding, where only the darker leg is seen
    assert error[6:8].max() <= 0.004
    assert error[8] <= 0.5 / 255 + 1e-6
    assert error[9] <= 0.1
    as_floats = recover_factors(figures.x / 255, joints)
    assert torch.equal(as_floats, recover_factors(figures.x, joints))


def test_factors_of_blurry_noisy_outputs_stay_close():
    figures = stick_figures(False, torch.arange(0, TEST, 4))
    noise = 0.03 * torch.randn(figures.x.shape, generator=torch.Generator().manual_seed(0))
    blurry = (gaussian_blur(figures.x / 255, [7, 7], [0.7, 0.7]) + noise).clamp(0, 1)
    found, factors = recover_factors(blurry, figures.known["joints"]), figures.known["factors"]
    pairs = torch.stack([found.T, factors.T], 1)
    assert min(pair.corrcoef()[0, 1] for pair in pairs) > 0.98
    low, high = torch.tensor(list(FACTORS.values())).T
    assert ((found - factors).mean(0).abs() / (high - low)).max() < 0.04


def test_other_factors_are_noticed():
    joints = pose()
    factors = torch.tensor([[low for low, _ in FACTORS.values()], [high for _, high in FACTORS.values()]])
    found = recover_factors(render(joints.expand(2, -1, -1), factors), joints.expand(2, -1, -1))
    torch.testing.assert_close(found, factors, rtol=0, atol=0.02)


def test_unusable_arguments():
    joints, factors = pose(), true_factors(1)
    with pytest.raises(InputError, match=r"`joints` has shape \(1, 14, 2\) but must be \(N, 15, 2\)"):
        draw_stick_man(joints[:, 1:], 64)
    with pytest.raises(InputError, match=r"`factors` has shape \(1, 9\) .* must be \(N, 10\)"):
        render(joints, factors[:, 1:])
    with pytest.raises(InputError, match=r"`images` has shape \(1, 1, 8, 8\) but must be \(N, 3, S, S\)"):
        recover_factors(torch.zeros(1, 1, 8, 8), joints)
    with pytest.raises(InputError, match="`joints` has 1 rows but must have one for each of the 2 images"):
        recover_factors(torch.zeros(2, 3, 8, 8), joints)
    with pytest.raises(InputError, match=r"`joints` is torch\.int64 but must be floats"):
        draw_stick_man(joints.long(), 64)


def test_figures_as_a_data_set():
    source = Source("stick_figures", limit=5)
    assert source.image_shape == (3, 64, 64)
    train, test = source.train(), source.test()
    assert train.x.shape == train.context.shape == test.x.shape == (5, 3, 64, 64)
    expected = stick_figures(True, torch.arange(5) * (TRAIN // 5))
    assert torch.equal(train.x, expected.x)
    assert torch.equal(train.context, expected.context)
    assert torch.equal(train.known["factors"], expected.known["factors"])
    assert train.fingerprint == Source("stick_figures", limit=5).train().fingerprint
    assert train.fingerprint != Source("stick_figures", limit=5, seed=1).train().fingerprint
    assert train.fingerprint != test.fingerprint
    large = Source("stick_figures", limit=2, size=96).test()
    assert large.x.shape == (2, 3, 96, 96)
    assert large.preprocessing == "rendered at 96 pixels"
    for options in ({"channels": 1}, {"crop": 32}, {"resize": "bicubic"}):
        with pytest.raises(InputError, match="rendered in color at any `size`"):
            Source("stick_figures", **options)
    with pytest.raises(InputError, match=r"`size` \(=0\)"):
        Source("stick_figures", size=0)
    with pytest.raises(InputError, match=r"`seed` \(=1\.5\) must be an int"):
        Source("stick_figures", seed=1.5)
