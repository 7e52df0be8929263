import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image

from flowprior import registry
from flowprior.data import Dataset, Source, Split
from flowprior.data.dataset import held_out, thin
from flowprior.data.shaping import RESIZE_MODES, Shaping
from flowprior.errors import InputError


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = Source("digits")
    train, test = source.train(), source.test()
    x, label = torch.cat([train.x, test.x]), torch.cat([train.label, test.label])
    expected = load_digits()
    ours = torch.cat([(x.flatten(1) / 255 * 16).round(), label[:, None]], 1).double()
    theirs = torch.cat([torch.from_numpy(expected.data), torch.from_numpy(expected.target)[:, None]], 1)
    assert torch.equal(ours.unique(dim=0), theirs.unique(dim=0))
    assert len(ours) == len(theirs)
    assert x.max() == 255
    assert ((test.label.bincount() - 0.2 * label.bincount()).abs() <= 1).all()
    assert source.image_shape == (1, 8, 8)


@pytest.mark.parametrize(
    "name", ["moons", "circles", "checkerboard", "eight_gaussians", "spirals", "pinwheel"]
)
def test_toys_are_seeded_and_their_splits_differ(name):
    train, test = Source(name).train(), Source(name).test()
    assert train.x.shape[1:] == Source(name).image_shape == (2,)
    assert train.fingerprint == Source(name).train().fingerprint
    assert not torch.isin(test.x[:, 0], train.x[:, 0]).all()
    assert train.x.abs().max() < 8
    assert len(train.label.bincount()) == len(Source(name).classes)
    assert train.label.bincount().float().std() <= 0.5  # branches are equally likely
    for moment in (lambda x: x.mean(0), lambda x: x.T.cov().flatten()):
        torch.testing.assert_close(moment(train.x), moment(test.x), rtol=0, atol=0.12)


def test_toy_shapes():
    ring = Source("circles").train()
    radius = ring.x.norm(dim=1)
    for label in (0, 1):
        assert abs(radius[ring.label == label].mean() - (1 + label)) < 0.01
    board = Source("checkerboard").train().x
    assert ((board.floor().sum(1) % 2) == 0).all()
    modes = Source("eight_gaussians").train()
    for k in range(8):
        center = modes.x[modes.label == k].mean(0)
        expected = torch.tensor([2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)])
        torch.testing.assert_close(center, expected, rtol=0, atol=0.03)
    moon = Source("moons").train()
    upper = moon.x[moon.label == 0]
    assert abs(upper.norm(dim=1).mean() - 1) < 0.01
    lower = torch.tensor([1.0, 0.5]) - moon.x[moon.label == 1]
    assert abs(lower.norm(dim=1).mean() - 1) < 0.01


def test_splits_are_read_once_and_the_root_is_not_needed_before(tmp_path):
    source = Source("mnist", tmp_path / "nowhere", size=32, channels=3)
    assert source.image_shape == (3, 32, 32)
    digits = Source("digits")
    assert digits.train() is digits.train()
    assert copy.deepcopy(digits).train().fingerprint == digits.train().fingerprint


def test_limit():
    few = Source("digits", limit=10)
    assert (len(few.train()), len(few.test())) == (10, 10)
    assert len(Source("digits", limit=10**6).test()) == 359
    assert len(Source("moons", limit=7).train().label) == 7
    assert thin(3, None).tolist() == [0, 1, 2]


def test_held_out_has_the_asked_size_and_is_random():
    mask = held_out(1000, 0.1)
    assert mask.sum() == 100
    assert mask[:500].sum() not in (0, 100)
    assert held_out(5, 0.01).sum() == 1


def test_a_set_of_a_users_own_is_one_function():
    with registry.restored():

        @registry.dataset("two_lines", shape=(2,), context=(1,), classes=("low", "high"))
        def two_lines(source, train):
            """Two lines."""
            label = torch.arange(40 if train else 10) % 2
            x = torch.stack([torch.linspace(0, 1, len(label)), label.float()], 1)
            return Split(x, label, ("low", "high"), context=x[:, :1] * source.seed)

        source = Source("Two-Lines", limit=20, seed=3)
        assert (source.image_shape, source.context_shape, source.classes) == ((2,), (1,), ("low", "high"))
        assert (len(source.train()), len(source.test())) == (20, 10)
        assert torch.equal(source.train().context, 3 * source.train().x[:, :1])
        assert registry.DATASETS["two_lines"].summary == "Two lines."

        @registry.dataset("maps")  # what its record does not say is read from the training split
        def maps(source, train):
            x = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
            return Split(x, torch.arange(6) % 4, context=x[:, :1])

        source = Source("maps", size=4)
        assert (source.image_shape, source.context_shape) == ((3, 4, 4), (1, 8, 8))
        assert source.classes == ("0", "1", "2", "3")

        @registry.dataset("wrong", shape=(3, 8, 8))
        def wrong(source, train):
            return maps(source, train)

        with pytest.raises(
            InputError, match=r"'wrong' is read with a context, but its record says `context=N"
        ):
            Source("wrong").train()
        with pytest.raises(
            ValueError, match=r"'digits' of .* is registered already, by flowprior\.data\.embedded"
        ):
            registry.dataset("digits")(wrong)
    with pytest.raises(InputError, match="neither a known data set"):
        Source("two_lines")


@pytest.mark.parametrize(
    ("name", "options", "image", "context", "classes"),
    [
        ("digits", {"size": 16, "channels": 3}, (3, 16, 16), None, 10),
        ("fashion_edges", {}, (1, 32, 32), (1, 32, 32), 10),
        ("fashion_silhouettes", {"size": 64, "channels": 3}, (3, 64, 64), (1, 64, 64), 10),
        ("stick_figures", {"size": 32}, (3, 32, 32), (3, 32, 32), 0),
        ("market", {"size": 64}, (3, 64, 64), (3, 64, 64), 0),
        ("pairs", {"size": 64, "channels": 1, "folder": "edges"}, (1, 64, 64), (1, 64, 64), 0),
        ("celeba", {}, (3, 140, 140), None, 0),
        ("cifar10", {"channels": 1}, (1, 32, 32), None, 10),
        ("moons", {}, (2,), None, 2),
    ],
)
def test_what_a_model_must_know_is_known_without_reading(tmp_path, name, options, image, context, classes):
    source = Source(name, tmp_path / "nowhere", **options)
    assert (source.image_shape, source.context_shape, len(source.classes)) == (image, context, classes)


def test_unknown_names_and_bad_arguments(tmp_path):
    with pytest.raises(InputError, match=r"here: did you mean `fashion_mnist`"):
        Source("fashion_mnits", tmp_path)
    with pytest.raises(InputError, match=f"known names are {', '.join(registry.DATASETS)}"):
        Source("zzz", tmp_path)
    with pytest.raises(InputError, match="neither a known data set nor"):
        Source("missing.npz", tmp_path)
    for options, message in [
        ({"size": 0}, r"`size` \(=0\)"), ({"size": 8.0}, "`size`"), ({"crop": -1}, "`crop`"),
        ({"channels": 4}, "`channels`"), ({"resize": "lanczos"}, "`resize` .* 'bilinear', 'nearest', 'pad'"),
        ({"limit": 0}, "`limit`"), ({"held_out": 1.0}, "`held_out`"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            Source("digits", **options)
    with pytest.raises(InputError, match=r"'moons'.* set of vectors"):
        Source("moons", size=8)
    assert "digits" in repr(Source("digits", size=16))
    assert "bicubic to 16" in repr(Source("digits", size=16))


def test_dataset_refuses_other_shapes_and_types():
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    for x in (images.float(), images[0], images[:0], torch.zeros(3, 4, dtype=torch.float64)):
        with pytest.raises(InputError, match="must be non-empty uint8 images"):
            Dataset("set", x)
    with pytest.raises(
        InputError, match=r"holds NaN or infinity in 1 of 2 rows, first in row 1: .* of data set .set."
    ):
        Dataset("set", torch.tensor([[1.0], [float("nan")]]))
    for label in (torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"`label` .* one label for each"):
            Dataset("set", images, label)


def test_fingerprint_sees_every_byte_shape_and_label():
    images = torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2)
    label = torch.arange(4)
    prints = {
        Dataset("a", images).fingerprint,
        Dataset("a", images.view(4, 1, 1, 4)).fingerprint,
        Dataset("a", images, label).fingerprint,
        Dataset("a", images, label.flip(0)).fingerprint,
        Dataset("a", images ^ torch.eye(4, dtype=torch.uint8).view(4, 1, 2, 2)).fingerprint,
    }
    assert len(prints) == 5
    transposed = images.permute(0, 1, 3, 2)  # not contiguous
    assert Dataset("b", transposed).fingerprint == Dataset("c", transposed.contiguous()).fingerprint


def photograph(height=40, width=30):
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(x / (3 + k) + y / (5 - k)) for k in range(3)]
    return np.stack(waves, -1).round().astype(np.uint8)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [12, 64])
def test_resizing_agrees_with_pillow(mode, side):
    square = photograph()[:30]
    x = torch.from_numpy(square).permute(2, 0, 1)[None]
    ours = Shaping(size=side, resize=mode)(x)[0].permute(1, 2, 0)
    theirs = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling[mode.upper()]))
    assert np.abs(ours.numpy().astype(int) - theirs.astype(int)).max() <= 1


def test_the_shorter_side_is_resized_and_the_center_kept():
    x = torch.from_numpy(photograph(40, 20)).permute(2, 0, 1)[None]
    assert torch.equal(Shaping(size=20)(x), x[..., 10:30, :])
    assert torch.equal(Shaping(crop=10)(x), x[..., 15:25, 5:15])
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(Shaping(size=40, resize="nearest")(x), doubled[..., 20:60, :])
    assert Shaping(size=7)(x).shape == (1, 3, 7, 7)


def test_gray_is_pillows_luma():
    picture = photograph()
    gray = Shaping(channels=1)(torch.from_numpy(picture).permute(2, 0, 1)[None])[0, 0]
    theirs = np.asarray(Image.fromarray(picture).convert("L"))
    assert np.abs(gray.numpy().astype(int) - theirs.astype(int)).max() <= 1
    rgb = Shaping(channels=3)(gray[None, None])
    assert torch.equal(rgb[0, 0], gray)
    assert torch.equal(rgb[0, 2], gray)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_chunks_change_nothing(monkeypatch, mode):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (10, 1, 8, 8), generator=generator, dtype=torch.uint8)
    shaping = Shaping(size=12, channels=3, resize=mode)
    whole = shaping(x)
    monkeypatch.setattr("flowprior.data.shaping._CHUNK", 3)
    assert torch.equal(shaping(x), whole)


def test_nothing_to_do_copies_nothing():
    x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    assert Shaping(size=8, crop=8, channels=3)(x) is x
    assert Shaping()(x[..., :5])[0].shape == (3, 8, 5)


def test_pad_cannot_shrink():
    with pytest.raises(InputError, match="cannot shrink pictures of 8 x 8"):
        Shaping(size=7, resize="pad")(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
