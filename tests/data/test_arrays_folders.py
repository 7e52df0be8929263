import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from flowprior.data import Source
from flowprior.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return Source(path.name, path.parent)


@pytest.mark.parametrize("prefix", ["{}_images", "{}_x", "x_{}", "X_{}"])
@pytest.mark.parametrize("form", ["channels last", "channels first", "float", "int64"])
def test_forms_of_images_and_names_of_keys(tmp_path, prefix, form):
    array = {
        "channels last": IMAGES,
        "channels first": IMAGES.transpose(0, 3, 1, 2),
        "float": IMAGES / 255,
        "int64": IMAGES.astype(np.int64),
    }[form]
    train, test = prefix.format("train"), prefix.format("test")
    source = saved(tmp_path / "set.npz", **{train: array[:15], test: array[15:]})
    assert np.array_equal(source.train().x.permute(0, 2, 3, 1).numpy(), IMAGES[:15])
    assert np.array_equal(source.test().x.permute(0, 2, 3, 1).numpy(), IMAGES[15:])
    assert source.train().label is None
    assert source.image_shape == (3, 6, 5)


def test_gray_and_boolean_images(tmp_path):
    gray = saved(tmp_path / "gray.npz", train_images=IMAGES[..., 0], test_images=IMAGES[:2, :, :, 1])
    assert np.array_equal(gray.train().x[:, 0].numpy(), IMAGES[..., 0])
    masks = saved(tmp_path / "masks.npz", images=IMAGES[..., 0] > 100)
    assert set(masks.train().x.unique().tolist()) == {0, 255}


def test_vectors_stay_vectors(tmp_path):
    vectors = np.random.default_rng(1).normal(size=(30, 4))
    np.save(tmp_path / "codes.npy", vectors)
    source = Source(str(tmp_path / "codes.npy"))
    train, test = source.train(), source.test()
    assert (len(train), len(test)) == (27, 3)
    assert train.x.dtype == torch.float32
    both = torch.cat([train.x, test.x])
    assert torch.equal(both.sort(0).values, torch.from_numpy(vectors).float().sort(0).values)
    with pytest.raises(InputError, match="holds vectors, not images"):
        Source(str(tmp_path / "codes.npy"), size=8).train()


def test_a_set_without_test_array_is_split_by_class_and_always_alike(tmp_path):
    labels = np.repeat(np.arange(4), 5)
    np.savez(tmp_path / "faces.npz", images=IMAGES, labels=labels)
    source = Source("faces.npz", tmp_path, held_out=0.2)
    train, test = source.train(), source.test()
    assert test.label.tolist() == [0, 1, 2, 3]
    assert train.label.bincount().tolist() == [4, 4, 4, 4]
    rows = {image.numpy().tobytes() for image in torch.cat([train.x, test.x])}
    assert len(rows) == 20  # nothing is lost, nothing is in both
    again = Source("faces.npz", tmp_path, held_out=0.2)
    assert again.train().fingerprint == train.fingerprint
    assert again.test().fingerprint == test.fingerprint != train.fingerprint


def test_words_as_labels_mean_the_same_in_both_splits(tmp_path):
    source = saved(
        tmp_path / "pets.npz",
        train_images=IMAGES[:3], train_labels=np.array(["dog", "ant", "dog"]),
        test_images=IMAGES[3:5], test_labels=np.array([["cat"], ["dog"]]),
    )  # fmt: skip
    assert source.train().classes == source.test().classes == ("ant", "cat", "dog")
    assert source.train().label.tolist() == [2, 0, 2]
    assert source.test().label.tolist() == [1, 2]


def test_whole_floats_as_labels(tmp_path):
    source = saved(tmp_path / "a.npz", x_train=IMAGES[:2], y_train=np.array([[3.0], [1.0]]), x_test=IMAGES)
    assert source.train().label.tolist() == [3, 1]


@pytest.mark.parametrize(("arrays", "message"), [
    ({}, r"holds the arrays \(none\) but needs"),
    ({"pixels": IMAGES}, "holds the arrays pixels but needs training examples under one of train_images"),
    ({"images": IMAGES[:0]}, r"shape \(0, 6, 5, 3\) but must hold at least one image"),
    ({"images": IMAGES[0, 0, 0]}, r"shape \(3,\) but must hold"),
    ({"images": IMAGES[None]}, r"shape \(1, 20, 6, 5, 3\) but must hold"),
    ({"images": IMAGES[..., :2]}, "1 or 3 channels"),
    ({"images": IMAGES[:, 0, :, 0]}, r"uint8 of shape \(20, 5\), but vectors \(N, D\) must be floats"),
    ({"images": IMAGES.astype(float)}, "float64 with values from 0 to 255, but images must be"),
    ({"images": IMAGES.astype(int) - 1}, "values from -1 to 254"),
    ({"images": IMAGES / 255 + np.nan}, "from nan to nan, .* remove NaN"),
    ({"images": IMAGES.astype(complex)}, "complex128, but images must be"),
    ({"images": IMAGES.astype(str)}, "<U3, but images must be"),
    ({"x": np.full((4, 3), np.inf)}, "holds NaN or infinity in 3 of 3 rows, first in row 0"),
    ({"images": IMAGES, "labels": np.arange(19)}, r"`labels` .* \(19,\) but the labels must be 20 whole"),
    ({"images": IMAGES, "labels": np.full(20, 0.5)}, "whole numbers or words"),
    ({"images": IMAGES, "labels": np.eye(20)}, "whole numbers or words"),
])  # fmt: skip
def test_unusable_arrays(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        saved(tmp_path / "set.npz", **arrays).train()


def test_unreadable_files(tmp_path):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=IMAGES)
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[:-10], whole[:200], whole[:300] + b"\0" * 20 + whole[320:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"set\.npz.* cannot be read as plain NumPy arrays"):
            Source("set.npz", tmp_path).train()
    generator = np.random.default_rng(3)
    for _ in range(40):
        damaged = bytearray(whole)
        for position in generator.integers(0, len(whole), 4):
            damaged[position] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert Source("set.npz", tmp_path).train().x.dtype == torch.uint8
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object))
    with pytest.raises(InputError, match=r"objects\.npy.* without object arrays"):
        Source("objects.npy", tmp_path).train()
    np.save(tmp_path / "bare.npy", IMAGES)
    (tmp_path / "bare.npy").rename(path)
    with pytest.raises(InputError, match="one bare array"):
        Source("set.npz", tmp_path).train()


def test_one_example_cannot_be_split(tmp_path):
    source = saved(tmp_path / "one.npz", images=IMAGES[:1])
    assert len(source.test()) == 1
    with pytest.raises(InputError, match=r"'one' .* non-empty"):
        source.train()


def picture(path, color, size=(10, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


def test_folder_of_any_sizes(tmp_path):
    folder = tmp_path / "pets"
    for i, size in enumerate([(10, 8), (30, 60), (100, 20), (9, 9), (8, 8)]):
        picture(folder / f"{i}.png", (50 * i, 0, 255), size)
    picture(folder / ".hidden.png", (9, 9, 9))
    (folder / "notes.txt").write_text("not a picture")
    source = Source("pets", tmp_path, size=8, held_out=0.4)
    train, test = source.train(), source.test()
    assert (train.x.shape, test.x.shape) == ((3, 3, 8, 8), (2, 3, 8, 8))
    assert train.label is None
    levels = torch.cat([train.x, test.x])[:, 0].flatten(1)
    assert sorted(levels.unique(dim=1)[:, 0].tolist()) == [0, 50, 100, 150, 200]
    with pytest.raises(InputError, match=r"'1\.png' is \(3, 60, 30\) .* pass `size`"):
        Source("pets", tmp_path, held_out=0.01).train()


def test_subfolders_are_classes_and_splits(tmp_path):
    for i, name in enumerate(["train/cat", "train/dog", "valid/dog", "train/cat"]):
        picture(tmp_path / "pets" / name / f"{i}.PNG", (10 * i, 0, 0))
    picture(tmp_path / "pets" / "valid" / "ant" / "nested" / "4.png", (40, 0, 0))
    source = Source(str(tmp_path / "pets"))
    train, test = source.train(), source.test()
    assert train.classes == test.classes == ("ant", "cat", "dog")
    assert dict(zip(train.x[:, 0, 0, 0].tolist(), train.label.tolist(), strict=True)) == {0: 1, 30: 1, 10: 2}
    assert dict(zip(test.x[:, 0, 0, 0].tolist(), test.label.tolist(), strict=True)) == {40: 0, 20: 2}


def test_classes_without_splits(tmp_path):
    for i in range(12):
        picture(tmp_path / "pets" / ("cat" if i < 6 else "dog") / f"{i}.jpg", (i, i, i))
    source = Source("pets", tmp_path, held_out=1 / 6)
    assert source.test().label.tolist() == [0, 1]
    assert source.train().label.bincount().tolist() == [5, 5]
    few = Source("pets", tmp_path, held_out=1 / 6, limit=4).train()
    assert few.label.tolist() == [0, 0, 1, 1]  # a limit keeps all classes


def test_modes_and_orientation(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    colors = np.zeros((4, 6, 3), np.uint8)
    colors[0, 0] = 255
    Image.fromarray(colors[..., 0]).save(folder / "a.png")  # gray
    Image.fromarray(colors).convert("P").save(folder / "b.png")  # palette
    Image.fromarray(colors).convert("RGBA").save(folder / "c.png")
    turned = Image.fromarray(colors)
    exif = turned.getexif()
    exif[0x0112] = 3  # the camera was upside down
    turned.save(folder / "d.png", exif=exif)
    test = Source("mixed", tmp_path, held_out=0.999).test().x
    assert test.shape == (4, 3, 4, 6)
    assert test[:3, :, 0, 0].unique().tolist() == [255]
    assert test[3, :, -1, -1].unique().tolist() == [255]
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(folder / "a.png")
    with pytest.raises(InputError, match=r"'a\.png' has mode I;16 but must have 8 bits"):
        Source("mixed", tmp_path, held_out=0.999).test()


def test_empty_missing_and_damaged_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty' holds no pictures: put files"):
        Source("empty", tmp_path).train()
    picture(tmp_path / "bad" / "a.png", (1, 2, 3))
    (tmp_path / "bad" / "b.png").write_bytes((tmp_path / "bad" / "a.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"'b\.png' cannot be read \("):
        Source("bad", tmp_path, held_out=0.999).test()


def test_an_unwritable_cache_is_named(tmp_path):
    for i in range(3):
        picture(tmp_path / "pets" / f"{i}.png", (i, 0, 0))
    (tmp_path / "pets" / ".flowprior").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"cannot be written .* larger `memory_limit`"):
        Source("pets", tmp_path, memory_limit=1).train()
