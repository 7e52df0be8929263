"""Attributes: CelebA's own by picture, elsewhere one for each class."""

import numpy as np
import pytest
import torch

from flowprior.data.attributes import read_attributes
from flowprior.data.images import Source
from flowprior.errors import InputError

NAMES = ("Bald", "Eyeglasses", "Smiling")


def write(root, standins, n=12) -> dict[str, list[bool]]:
    standins.write_celeba(root, n=n)
    pictures = [f"{i + 1:06d}.jpg" for i in range(n)]
    has = {picture: [i % 2 == 0, i % 3 == 0, i % 5 == 0] for i, picture in enumerate(pictures)}
    lines = [f"{picture} " + " ".join("1" if each else "-1" for each in has[picture]) for picture in pictures]
    (root / "celeba" / "list_attr_celeba.txt").write_text(
        f"{n}\n{' '.join(NAMES)} \n" + "\n".join(lines) + "\n"
    )
    return has


def test_celebas_attributes_follow_its_splits_and_the_limit(tmp_path, standins):
    has = write(tmp_path, standins)
    source = Source("celeba", tmp_path, size=8)
    training = [i + 1 for i in range(12) if i % 4 < 2]  # the splits of the stand-in are 0, 0, 1, 2, ...
    found = read_attributes(source, train=True)
    assert found.names == NAMES
    assert found.values.tolist() == [has[f"{i:06d}.jpg"] for i in training]
    assert len(read_attributes(source, train=False).values) == len(source.test()) == 3
    few = Source("celeba", tmp_path, size=8, limit=3)
    assert read_attributes(few, train=True).values.tolist() == [
        has[f"{training[i]:06d}.jpg"] for i in (0, 2, 4)
    ]


def test_damaged_or_missing_celeba_attributes_are_said(tmp_path, standins):
    write(tmp_path, standins)
    path, source = tmp_path / "celeba" / "list_attr_celeba.txt", Source("celeba", tmp_path, size=8)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:3]))
    with pytest.raises(InputError, match=r"no line for 000002\.jpg"):
        read_attributes(source, train=True)
    path.write_text("\n".join([*lines[:3], "000002.jpg 1 0 1"]))
    with pytest.raises(InputError, match="3 times 1 or -1 in line 4"):
        read_attributes(source, train=True)
    path.unlink()
    with pytest.raises(InputError, match=r"put list_attr_celeba\.txt there"):
        read_attributes(source, train=True)


def test_classes_are_attributes_against_the_rest(tmp_path):
    x = np.zeros((4, 1, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[7, 3, 3, 9], x_test=x[:2], y_test=[9, 3])
    source = Source("a.npz", tmp_path)
    found = read_attributes(source, train=True)
    assert found.names == ("3", "7", "9")
    assert found.values.int().tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert read_attributes(source, train=False).values.int().tolist() == [[0, 0, 1], [1, 0, 0]]
    digits = read_attributes(Source("digits"), train=False)
    assert digits.names == tuple("0123456789")
    assert torch.equal(digits.values.int().argmax(1), Source("digits").test().label)
    np.savez(tmp_path / "b.npz", x_train=x, x_test=x)
    with pytest.raises(InputError, match="'b' has no labels"):
        read_attributes(Source("b.npz", tmp_path), train=True)
