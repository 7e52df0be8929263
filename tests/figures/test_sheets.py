import numpy as np
import pytest
import torch

from flowprior.errors import InputError
from flowprior.figures import image_grid
from flowprior.figures.neighbors import neighbor_sheet
from flowprior.figures.reconstructions import reconstruction_pairs
from flowprior.figures.sheet import draw_sheet

MARGIN, STEP = 6, 58  # of sheets whose tiles are 56 pixels a side


def gray(*levels, size=8):
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, size, size)


def pixels(sheet):
    return np.asarray(sheet).astype(int)


def tile(sheet, row, column, top=MARGIN, left=MARGIN):
    y, x = top + row * STEP, left + column * STEP
    return pixels(sheet)[y : y + 56, x : x + 56]


def test_grid_places_images_row_by_row_without_smoothing():
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    sheet = image_grid(torch.cat([gray(10, 20, 30, 40), ramp]), columns=3)
    assert sheet.size == (2 * MARGIN + 2 * STEP + 56, 2 * MARGIN + STEP + 56)
    for row, column, level in [(0, 0, 10), (0, 1, 20), (0, 2, 30), (1, 0, 40), (1, 2, 255)]:
        assert (tile(sheet, row, column) == level).all()
    enlarged = np.kron(np.arange(64).reshape(8, 8), np.ones((7, 7)))
    assert (tile(sheet, 1, 1) == enlarged[..., None]).all()


def test_floats_are_clipped_and_rounded():
    levels = torch.tensor([-1.0, 0.5, 1.0, 2.0, float("nan")]).view(5, 1, 1, 1).expand(5, 1, 8, 8)
    sheet = image_grid(levels, columns=5)
    assert [tile(sheet, 0, k)[0, 0, 0] for k in range(5)] == [0, 128, 255, 255, 0]


def test_colors_keep_their_channel():
    red = torch.zeros(1, 3, 56, 56)
    red[:, 0] = 1
    assert (tile(image_grid(red), 0, 0) == [255, 0, 0]).all()


def test_default_grid_is_nearly_square():
    assert image_grid(gray(*range(9))).size == image_grid(gray(*range(9)), columns=3).size
    large = image_grid(torch.zeros(2, 3, 128, 96), columns=1)
    assert large.size == (96 + 2 * MARGIN, 2 * 128 + 2 + 2 * MARGIN)  # large images are not enlarged


def test_titles_add_a_line_and_nothing_else():
    plain, titled = pixels(image_grid(gray(0, 90))), pixels(image_grid(gray(0, 90), title="two"))
    added = len(titled) - len(plain)
    assert added > 10
    assert (titled[added:] == plain).all()
    assert (titled[:added] < 128).any()


def test_reconstructions_lie_below_their_images():
    x, reconstruction = gray(10, 20, 30), gray(11, 21, 31)
    sheet = pixels(reconstruction_pairs(x, reconstruction, columns=2))
    left = MARGIN + 40
    band = 2 * STEP + 12
    found = [
        [sheet[MARGIN + y + 3, left + k * STEP + 3, 0] for k in (0, 1)] for y in (0, STEP, band, band + STEP)
    ]
    assert found == [[10, 20], [11, 21], [30, 255], [31, 255]]


def test_neighbors_lie_right_of_their_sample():
    samples, neighbors = gray(10, 20), gray(1, 2, 3, 4, 5, 6).view(2, 3, 1, 8, 8)
    sheet = neighbor_sheet(samples.float() / 255, neighbors, torch.ones(2, 3))
    top = MARGIN + 20 + 16  # the distances of the first row stand above the second
    assert (tile(sheet, 1, 0, top) == 20).all()
    assert [tile(sheet, 1, k, top, MARGIN + 12)[0, 0, 0] for k in (1, 2, 3)] == [4, 5, 6]
    written = pixels(sheet)[top + STEP + 56 : top + STEP + 56 + 16]
    assert (written[:, MARGIN + STEP + 12 :] < 128).any()
    assert (written[:, : MARGIN + STEP] == 255).all()  # a sample is at no distance
    with pytest.raises(InputError, match="do not make a sheet"):
        neighbor_sheet(samples, neighbors[:1], torch.ones(1, 3))


def test_blocks_stand_beside_one_another():
    left, right = torch.stack([gray(10, 20), gray(60, 70)]), gray(30, 80)[:, None]
    sheet = draw_sheet([left, right])
    assert [[tile(sheet, n, s)[0, 0, 0] for s in range(2)] for n in range(2)] == [[10, 20], [60, 70]]
    assert [tile(sheet, n, 2, left=MARGIN + 12)[0, 0, 0] for n in range(2)] == [30, 80]
    for wrong in (left[0], right[:1]):
        with pytest.raises(InputError, match="do not make a sheet"):
            draw_sheet([left, wrong])


@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8), (2, 2, 8, 8), (0, 1, 8, 8)])
def test_unusable_images(shape):
    with pytest.raises(InputError, match="1 or 3 channels"):
        image_grid(torch.zeros(shape))
    with pytest.raises(InputError, match="`columns`"):
        image_grid(gray(1), columns=0)


def test_paths_make_room_for_what_is_said_beside_and_above_them():
    images = torch.stack([gray(10, 30, 50), gray(20, 40, 60)])  # 2 paths of 3 steps
    plain = pixels(draw_sheet([images]))
    said = pixels(draw_sheet([images], sides=["z[12], 0.25 nats", "z[3]"], tops={0: "-5 sd", 2: "+5 sd"}))
    height, width = plain.shape[:2]
    assert (said[-height + MARGIN :, -width + MARGIN :] == plain[MARGIN:, MARGIN:]).all()
    beside, above = said[:, : 1 - width + MARGIN], said[: MARGIN + 20]
    assert beside.shape[1] > 80
    assert (beside < 128).any()
    assert (above[:, -width:] < 128).any()
