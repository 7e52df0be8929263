"""A user's pairs, in two folders or side by side, and what is said of bad ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from flowprior.data import Source
from flowprior.errors import InputError


def picture(path, level, size=(64, 64), **options):
    """A gray picture with one white pixel, so that its place is seen too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), level, np.uint8)
    pixels[0, -1] = 255
    Image.fromarray(pixels).save(path, **options)


def write(folder, count=6, size=(64, 64)):
    for i in range(count):
        picture(folder / "x" / f"{i}.png", 10 + i, size)
        picture(folder / "y" / f"{i}.bmp", 110 + i, size)


def levels(images):
    return images[:, 0, -1, 0].int().tolist()


@pytest.mark.parametrize("side", [64, 256])
def test_two_folders_with_splits(tmp_path, side):
    write(tmp_path / "shoes" / "train", 3, (side, side))
    write(tmp_path / "shoes" / "val", 2, (side, side))
    source = Source("pairs", tmp_path, folder="shoes")
    train, test = source.train(), source.test()
    assert (levels(train.x), levels(train.context)) == ([10, 11, 12], [110, 111, 112])
    assert (levels(test.x), levels(test.context)) == ([10, 11], [110, 111])
    assert train.x.shape == train.context.shape == (3, 3, side, side)
    assert source.image_shape == (3, side, side)
    small = Source("pairs", tmp_path, folder="shoes", size=32, channels=1)
    assert small.image_shape == (1, 32, 32)
    assert small.train().x.shape == small.train().context.shape == (3, 1, 32, 32)


def test_held_out_pairs_and_limits_stay_together(tmp_path):
    write(tmp_path / "shoes", 10)
    (tmp_path / "shoes" / "x" / "deep").mkdir()
    picture(tmp_path / "shoes" / "x" / "deep" / "0.png", 50)
    picture(tmp_path / "shoes" / "y" / "deep" / "0.png", 150)
    for limit in (None, 4):
        source = Source("pairs", folder=str(tmp_path / "shoes"), held_out=0.5, limit=limit)
        seen = []
        for split in (source.train(), source.test()):
            assert levels(split.context) == [level + 100 for level in levels(split.x)]
            seen += levels(split.x)
        assert len(seen) == len(set(seen)) == (11 if limit is None else 8)


@pytest.mark.parametrize("memory_limit", [1, 2**30])  # decoded into a file, or into memory
@pytest.mark.parametrize("condition", ["left", "right"])
def test_side_by_side(tmp_path, condition, memory_limit):
    for i in range(4):
        pixels = np.zeros((64, 128, 3), np.uint8)
        pixels[:, :64], pixels[:, 64:] = 10 + i, 110 + i
        (tmp_path / "maps" / "train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "maps" / "train" / f"{i}.png")
    source = Source(
        "pairs", tmp_path, folder="maps", condition=condition, held_out=0.25, memory_limit=memory_limit
    )
    for split in (source.train(), source.test()):
        left, right = (split.context, split.x) if condition == "left" else (split.x, split.context)
        assert levels(right) == [level + 100 for level in levels(left)]
        assert left.shape == right.shape == (len(split), 3, 64, 64)
        assert len(left.unique()) == len(right.unique()) == len(split)  # nothing of the other half
    assert (len(source.train()), len(source.test())) == (3, 1)


def test_turned_photographs_fit_upright_partners(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture(tmp_path / "a" / "x" / "0.jpg", 10, (32, 48), exif=exif)
    picture(tmp_path / "a" / "y" / "0.png", 10, (48, 32))
    split = Source("pairs", tmp_path, folder="a", held_out=0.9).test()
    assert split.x.shape == split.context.shape == (1, 3, 32, 48)


def damage(folder, what):
    if what == "no partner":
        (folder / "y" / "3.bmp").unlink()
    elif what == "no x":
        picture(folder / "y" / "new.png", 1)
    elif what == "size":
        picture(folder / "y" / "2.bmp", 1, (64, 48))
    elif what == "unreadable":
        (folder / "y" / "1.bmp").write_bytes(b"no picture")
    elif what == "truncated":
        path = folder / "x" / "1.png"
        path.write_bytes(path.read_bytes()[:80])
    elif what == "twice":
        picture(folder / "x" / "4.jpg", 1)
    elif what == "empty":
        for path in (folder / "x").iterdir():
            path.unlink()
    elif what == "half":
        for path in (folder / "y").iterdir():
            path.unlink()
        (folder / "y").rmdir()


@pytest.mark.parametrize(("what", "message"), [
    ("no partner", r"x/3\.png' has no partner: put a picture named '3' in '.*/y', or remove it"),
    ("no x", r"y/new\.png' has no partner: put a picture named 'new' in '.*/x'"),
    ("size", r"The pair 'x/2\.png' of 64 x 64 and 'y/2\.bmp' of 64 x 48 pixels must have one size"),
    ("unreadable", r"The picture 'y/1\.bmp' cannot be read \("),
    ("truncated", r"The picture 'x/1\.png' cannot be read \("),
    ("twice", r"x/4\.png' and '4\.jpg' differ in their endings only"),
    ("empty", r"The folder '.*/x' holds no pictures"),
    ("half", r"There is no folder '.*/y': pairs need x/ and y/"),
])  # fmt: skip
def test_bad_pairs_are_named_in_one_sentence(tmp_path, what, message):
    write(tmp_path / "shoes")
    damage(tmp_path / "shoes", what)
    with pytest.raises(InputError, match=message) as caught:
        Source("pairs", tmp_path, folder="shoes", held_out=0.99).test()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_bad_pictures_side_by_side_and_bad_arguments(tmp_path):
    picture(tmp_path / "maps" / "0.png", 1, (65, 32))
    with pytest.raises(InputError, match=r"'0\.png' has the odd width 65 but must hold two"):
        Source("pairs", tmp_path, folder="maps", held_out=0.99).test()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' holds no pictures"):
        Source("pairs", tmp_path, folder="empty").train()
    with pytest.raises(InputError, match=r"There is no folder '.*/nowhere': check the path"):
        Source("pairs", tmp_path, folder="nowhere").train()
    with pytest.raises(InputError, match=r"`folder` \(=None\) must name the folder of the pairs"):
        Source("pairs", tmp_path)
    with pytest.raises(InputError, match=r"`folder` \(='a'\) belongs to .*'pairs', not to 'digits'"):
        Source("digits", folder="a")
    with pytest.raises(InputError, match=r"`condition` \(='top'\) must be one of 'left', 'right'"):
        Source("pairs", folder="a", condition="top")


def test_a_plain_folder_may_be_called_pairs(tmp_path):
    write(tmp_path / "mine" / "pairs", 3)
    source = Source("mine/pairs", tmp_path)
    assert source.train().context is None
    assert source.train().classes == ("x", "y")
    assert torch.equal(source.train().label.unique(), torch.tensor([0, 1]))
