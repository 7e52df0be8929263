"""The grids of sprites: the numbering, the pictures against a brute-force count of points, dSprites' file."""

import itertools
import math

import numpy as np
import pytest
import torch

from flowprior.data import Source, sprites
from flowprior.data.sprites import COUNT, FACTORS, factors_of, render
from flowprior.errors import InputError


def test_rows_number_every_combination_once():
    combinations = itertools.product(*(range(count) for count in FACTORS.values()))
    rows = torch.tensor([0, 5, 31, 32, 12_345, COUNT // 2, COUNT - 1])
    listed = list(itertools.islice(combinations, COUNT))
    assert COUNT == len(listed) == 737_280
    assert factors_of(rows).tolist() == [list(listed[row]) for row in rows.tolist()]


def inside(shape: int, u: float, v: float) -> bool:
    """Whether a point lies in the unit shape, from its definition."""
    if shape == 0:
        return max(abs(u), abs(v)) < 0.9
    if shape == 1:
        return (u / 1.2) ** 2 + (v / 0.7) ** 2 < 1
    x, y = abs(u) / 2, 0.55 - v / 2  # the square on its corner (0, 0), and half disks on its upper sides
    return (x < y and x + y <= 1) or (x + y > 1 and math.hypot(x - 0.25, y - 0.75) < 0.125**0.5)


@pytest.mark.parametrize("shape", [0, 1, 2])
def test_pictures_cover_what_the_shape_covers(shape):
    factors = torch.tensor([[shape, 5, 7, 3, 28]])
    size, fine = 20, 6
    image = render(factors, size)[0, 0].double() / 255
    angle, radius = 2 * math.pi * 7 / 40, size * 0.15
    x0, y0 = (size * (0.28 + 0.44 * index / 31) for index in (3, 28))
    counted = torch.zeros(size, size, dtype=torch.float64)
    for i, j in itertools.product(range(size * fine), repeat=2):
        dx, dy = (j + 0.5) / fine - x0, (i + 0.5) / fine - y0
        u = (math.cos(angle) * dx + math.sin(angle) * dy) / radius
        v = (math.cos(angle) * dy - math.sin(angle) * dx) / radius
        counted[i // fine, j // fine] += inside(shape, u, v) / fine**2
    assert (image - counted).abs().max() < 0.35  # at corners, where a box is not a point
    assert image.sum().item() == pytest.approx(counted.sum().item(), rel=0.02)


def test_a_split_is_a_random_part_that_never_changes():
    source = Source("sprites", limit=300, size=16)
    train, test = source.train(), source.test()
    assert train.x.shape == (300, 1, 16, 16)
    assert train.x.amax() == 255
    torch.testing.assert_close(train.x, render(train.known["factors"].long(), 16))
    torch.testing.assert_close(train.label.float(), train.known["factors"][:, 0])
    again = Source("sprites", limit=300, size=16).train()
    assert again.fingerprint == train.fingerprint != test.fingerprint
    rows = {tuple(row) for row in train.known["factors"].tolist()}
    assert len(rows) == 300
    assert not rows & {tuple(row) for row in test.known["factors"].tolist()}
    for column, count in enumerate(FACTORS.values()):
        mean = train.known["factors"][:, column].mean().item()
        assert abs(mean - (count - 1) / 2) < 5 * math.sqrt((count**2 - 1) / 12 / 300)


def test_a_large_split_is_mapped_from_a_file(tmp_path):
    source = Source("sprites", tmp_path, limit=40, size=16, memory_limit=1000)
    x = source.train().x
    (path,) = (tmp_path / ".flowprior").iterdir()
    assert path.stat().st_size == x.numel()
    torch.testing.assert_close(x, render(source.train().known["factors"].long(), 16))


@pytest.fixture
def small_grid(monkeypatch):
    monkeypatch.setattr(sprites, "FACTORS", {"shape": 3, "scale": 2, "angle": 2, "x": 2, "y": 2})
    monkeypatch.setattr(sprites, "COUNT", 48)


def test_dsprites_are_read_from_their_file(small_grid, tmp_path, monkeypatch):
    monkeypatch.setattr(sprites, "_READ", 7)
    images = (np.arange(48)[:, None, None] % 2 * np.ones((48, 64, 64))).astype(np.uint8)
    (tmp_path / "dsprites").mkdir()
    np.savez_compressed(
        tmp_path / "dsprites" / sprites.DSPRITES, imgs=images, latents_classes=np.zeros((48, 6))
    )
    source = Source("dsprites", tmp_path, held_out=0.25)
    assert (len(source.train()), len(source.test())) == (36, 12)
    odd = source.train().known["factors"][:, -1]  # y is the last: row % 2
    assert torch.equal(source.train().x[:, 0, 0, 0].float(), 255 * odd)
    (tmp_path / "dsprites" / sprites.DSPRITES).write_bytes(b"no archive")
    with pytest.raises(InputError, match="cannot be read as dSprites"):
        Source("dsprites", tmp_path).test()


def test_what_is_missing_or_out_of_range_is_said(tmp_path):
    with pytest.raises(InputError, match=f"put {sprites.DSPRITES} in dsprites in the data root"):
        Source("dsprites", tmp_path).train()
    with pytest.raises(InputError, match="`factors` must be at least 0 and below"):
        render(torch.tensor([[3, 0, 0, 0, 0]]))
