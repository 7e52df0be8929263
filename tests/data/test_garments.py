"""Edges and silhouettes against SciPy and closed forms, and Fashion-MNIST with them as contexts."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from flowprior.data import Source
from flowprior.data.garments import FOREGROUND, STRONG, WEAK, edges, silhouette
from flowprior.errors import InputError


def blobs(n=40, side=32, seed=0):
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=(n, side, side)), (0, 2, 2))
    return torch.from_numpy(np.clip(8 * smooth, 0, 1)).float().unsqueeze(1)


def test_silhouettes_are_foregrounds_with_scipys_filled_holes():
    x = blobs()
    expected = [ndimage.binary_fill_holes(picture[0].numpy() > FOREGROUND) for picture in x]
    found = silhouette(x)
    assert found.shape == (40, 1, 32, 32)
    assert found.dtype == torch.uint8
    assert np.array_equal(found[:, 0].numpy(), 255 * np.stack(expected).astype(np.uint8))
    assert (found > 0).sum() > (x > FOREGROUND).sum()  # there were holes


def test_a_ring_is_filled_and_a_horseshoe_is_not():
    x = torch.zeros(2, 1, 9, 9)
    x[:, :, 2:7, 2:7] = 1
    x[:, :, 3:6, 3:6] = 0
    x[1, :, 6, 4] = 0
    assert silhouette(x)[:, 0, 4, 4].tolist() == [255, 0]


def test_edges_are_ridges_of_scipys_sobel_slope():
    x = blobs(seed=1)
    found = edges(x)[:, 0].numpy() > 0
    right, down = (
        np.stack([ndimage.sobel(picture[0].numpy(), axis, mode="nearest") / 4 for picture in x])
        for axis in (1, 0)
    )
    slope = np.hypot(right, down)
    assert slope[found].min() > WEAK
    maxima = (slope > STRONG) & (slope == ndimage.maximum_filter(slope, (0, 3, 3)))
    assert maxima.sum() > 100
    assert found[maxima].mean() > 0.99  # but for ties, what no neighbor exceeds lies on an edge
    for kept, picture in zip(found, slope, strict=True):
        pieces, count = ndimage.label(kept, np.ones((3, 3)))
        strongest = ndimage.maximum(picture, pieces, range(1, count + 1))
        assert all(value > STRONG for value in np.atleast_1d(strongest))  # no weak piece stands alone


def test_edges_are_thin_and_turn_with_the_picture():
    square = torch.zeros(1, 1, 16, 16)
    square[..., 4:12, 4:12] = 1
    outline = edges(square)[0, 0] > 0
    assert 24 <= outline.sum() <= 36
    assert torch.equal(outline, outline.T)
    inside = outline[6:10]
    assert (inside.sum(1) == 2).all()
    assert not edges(torch.rand(1, 1, 1, 1).expand(2, 3, 8, 8)).any()
    assert (edges(1 - square) > 0).sum() == outline.sum()


@pytest.mark.parametrize("operator", [edges, silhouette])
def test_bytes_floats_and_colors_mean_the_same(operator):
    x = (blobs(5) * 255).round().to(torch.uint8)
    expected = operator(x)
    assert torch.equal(operator(x / 255), expected)
    assert torch.equal(operator(x.expand(-1, 3, -1, -1)), expected)
    with pytest.raises(InputError, match=r"`images` has shape \(5, 32, 32\) but"):
        operator(x[:, 0])
    with pytest.raises(InputError, match=r"`images` is torch\.int64"):
        operator(x.long())


@pytest.mark.parametrize(("name", "operator"), [
    ("fashion_edges", edges), ("fashion_silhouettes", silhouette), ("Fashion-Edges", edges),
])  # fmt: skip
def test_fashion_mnist_comes_with_contexts(tmp_path, standins, name, operator):
    written = standins.write_mnist(tmp_path, "FashionMNIST")
    source = Source(name, tmp_path)
    assert source.image_shape == (1, 32, 32)
    train = source.train()
    images, labels = written["train"]
    assert np.array_equal(train.x[:, 0, 2:30, 2:30].numpy(), images)
    assert not train.x[:, :, :2].any()
    assert train.label.tolist() == labels.tolist()
    assert train.classes[0] == "t-shirt"
    assert torch.equal(train.context, operator(train.x))
    few = Source(name, tmp_path, limit=4, size=64, channels=3)
    assert few.image_shape == few.test().x.shape[1:] == (3, 64, 64)
    assert few.test().context.shape == (4, 1, 64, 64)
    with pytest.raises(InputError, match="put train-images-idx3-ubyte"):
        Source(name, tmp_path / "nowhere").train()
