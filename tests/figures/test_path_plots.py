"""Figures of paths: sheets of several rows an example, the plane of two components, rates of change."""

import numpy as np
import pytest
import torch

from flowprior.errors import InputError
from flowprior.figures.change import rate_curves
from flowprior.figures.latent import latent_panels
from flowprior.figures.plane import path_plane
from flowprior.figures.sheet import path_sheet

MARGIN, STEP, SIDE, GAP, BAND = 6, 58, 40, 12, 16


def gray(levels):
    """Images (*shape of levels, 1, 8, 8)."""
    values = torch.tensor(levels, dtype=torch.uint8)
    return values[..., None, None, None].expand(*values.shape, 1, 8, 8)


def test_rows_of_an_example_stand_in_one_band_between_their_ends():
    z0, z = (
        gray([[10, 40], [20, 50], [30, 60]]),
        gray([[11, 41], [21, 51], [31, 61]]),
    )  # (3 steps, 2 examples)
    sheet = np.asarray(path_sheet({"z0": z0, "z": z}, gray([1, 2]), after=gray([3, 4]))).astype(int)
    top, left = MARGIN + 20, MARGIN + SIDE

    def at(row, column):
        y = top + row * STEP + (row // 2) * GAP
        return sheet[y + 3, left + column * STEP + GAP * ((column > 0) + (column > 3)) + 3, 0]

    assert [[at(row, column) for column in range(5)] for row in range(4)] == [
        [1, 10, 20, 30, 3],
        [255, 11, 21, 31, 255],
        [2, 40, 50, 60, 4],
        [255, 41, 51, 61, 255],
    ]


def test_names_and_tops_make_room_for_their_text():
    paths = {"PC 1": gray([[10, 40], [20, 50]])}
    plain = path_sheet(paths, gray([1, 2]))
    named = path_sheet(paths, gray([1, 2]), names=["a", "b"], tops={0: "-1.5"})
    assert named.size == (plain.size[0], plain.size[1] + 2 * BAND)
    left = MARGIN + SIDE + STEP + GAP + 3
    assert np.asarray(plain)[MARGIN + 20 + 3, left, 0] == 10
    assert np.asarray(named)[MARGIN + 20 + BAND + 3, left, 0] == 10


def test_sheets_of_paths_that_do_not_go_together():
    path = gray([[10, 40], [20, 50]])
    with pytest.raises(InputError, match="do not make a sheet"):
        path_sheet({"z": path}, gray([1]))
    with pytest.raises(InputError, match="do not make a sheet"):
        path_sheet({"z": path}, gray([1, 2]), after=gray([1]))
    with pytest.raises(InputError, match="1 texts for 2 bands"):
        path_sheet({"z": path}, gray([1, 2]), names=["a"])


def test_the_plane_shows_every_pair_over_the_codes():
    codes = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0])
    straight = torch.linspace(0, 1, 20)[:, None, None] * torch.tensor([[[2.0, 1.0], [-40.0, 0.0]]])
    figure = path_plane(codes, {"z": straight, "z0": 1.1 * straight}, shares=torch.tensor([0.9, 0.1]))
    assert len(figure.axes) == 2
    for pair, ax in enumerate(figure.axes):
        black, red = ax.lines[1], ax.lines[3]  # each above a white outline
        assert [line.get_label() for line in (black, red)] == ["z", "z0"]
        np.testing.assert_allclose(np.stack(black.get_data(), 1), straight[:, pair].numpy())
        np.testing.assert_allclose(np.stack(red.get_data(), 1), 1.1 * straight[:, pair].numpy(), rtol=1e-6)
        (image,) = ax.images
        x0, x1, _, _ = image.get_extent()
        assert x0 < -44 < 9 < x1  # a path that leaves the codes is seen
        _, column = np.unravel_index(image.get_array().argmax(), image.get_array().shape)
        assert abs(x0 + (column + 0.5) / image.get_array().shape[1] * (x1 - x0)) < 3
    assert "90 % of the variance" in figure.axes[0].get_xlabel()


def test_rates_are_drawn_as_median_and_percentiles():
    rates = torch.arange(101.0)[None] * torch.tensor([[1.0], [2.0]])  # 2 steps, 101 images
    figure = rate_curves({"+ hat": {"z": rates, "z0": 0 * rates}, "+ beard": {"z": rates}})
    assert [ax.get_title() for ax in figure.axes] == ["+ hat", "+ beard"]
    line, other = figure.axes[0].lines
    assert line.get_ydata().tolist() == [50, 100]
    assert other.get_ydata().tolist() == [0, 0]
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {(1.0, 5.0), (1.0, 95.0), (2.0, 10.0), (2.0, 190.0)} <= {tuple(v) for v in band.round(6).tolist()}


def test_codes_in_z0_get_a_panel_and_a_range_of_their_own():
    codes = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    label = torch.arange(300) % 2
    figure = latent_panels(lambda z: -z.square().sum(1), 5 * codes, codes, base_codes=codes, label=label)
    assert [ax.get_xlabel()[:2] for ax in figure.axes[:4]] == ["z0", "z,", "z,", "z,"]
    base, z = figure.axes[0].get_xlim(), figure.axes[1].get_xlim()
    assert z == pytest.approx([5 * end for end in base], rel=1e-4)
    shown = np.concatenate([dots.get_offsets() for dots in figure.axes[0].collections])
    assert {tuple(row) for row in shown.tolist()} == {tuple(row) for row in codes.tolist()}
