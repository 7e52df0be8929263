"""Sheets of conditional samples: every image in its place."""

import numpy as np
import pytest
import torch

from flowprior.errors import InputError
from flowprior.figures import condition_sheet
from flowprior.figures.appearance import appearance_rows
from flowprior.figures.transfer import transfer_sheet

STEP, GAP = 58, 12


def gray(levels, channels: int = 3) -> torch.Tensor:
    """Images (*shape, C, 8, 8) of one level each."""
    values = torch.as_tensor(levels, dtype=torch.uint8)
    return values[..., None, None, None].expand(*values.shape, channels, 8, 8)


def middles(sheet, x0: int, y0: int, columns: list[int], rows: list[int]) -> list[list[int]]:
    """Levels at the middle of the tiles; `columns` and `rows` say how many gaps stand before each."""
    values = np.asarray(sheet).astype(int)
    return [
        [
            values[y0 + r * STEP + GAP * down + 28, x0 + k * STEP + GAP * right + 28, 0]
            for k, right in enumerate(columns)
        ]
        for r, down in enumerate(rows)
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_conditions_and_originals_stand_before_the_samples_of_every_model(channels):
    contexts, originals = gray([10, 20], channels), gray([30, 40])
    ours, theirs = gray([[1, 2], [3, 4], [5, 6]]), gray([[101, 102], [103, 104], [105, 106]])
    sheet = condition_sheet(contexts, originals, {"original": theirs, "proposed": ours})
    left = sheet.width - 6 - 5 * STEP - 2 * GAP + 2  # right of the names of the rows
    found = middles(sheet, left, 26, [0, 1, 2, 2, 2], [0, 0, 1, 1])
    assert found == [
        [10, 30, 101, 103, 105],
        [255, 255, 1, 3, 5],
        [20, 40, 102, 104, 106],
        [255, 255, 2, 4, 6],
    ]
    alone = condition_sheet(contexts, None, {"": ours})
    assert middles(alone, 6, 26, [0, 1, 1, 1], [0, 0]) == [[10, 1, 3, 5], [20, 2, 4, 6]]
    titled = condition_sheet(contexts, None, {"": ours}, title="samples", names=["a", "b"])
    assert titled.height > alone.height


def test_transfer_puts_appearance_on_the_left_and_shape_above():
    results = gray([[11, 12, 13], [21, 22, 23]], 1)
    sheet = transfer_sheet(gray([10, 20]), gray([1, 2, 3], 1), results)
    left = sheet.width - 6 - 4 * STEP - GAP + 2
    found = middles(sheet, left, 6, [0, 1, 1, 1], [0, 1, 1])
    assert found == [[255, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]


def test_interpolation_runs_between_its_ends():
    sheet = appearance_rows(gray([1, 2], 1), gray([3, 4]), gray([5, 6]), gray([[10, 20], [11, 21], [12, 22]]))
    found = middles(sheet, 6, 26, [0, 1, 2, 2, 2, 3], [0, 0])
    assert found == [[1, 3, 10, 11, 12, 5], [2, 4, 20, 21, 22, 6]]


def test_shapes_that_do_not_go_together_are_named():
    contexts, drawn = gray([1, 2]), gray([[1, 2], [3, 4]])
    with pytest.raises(InputError, match="`samples` of shapes"):
        condition_sheet(contexts, contexts, {})
    with pytest.raises(InputError, match="`samples` of shapes"):
        condition_sheet(contexts, contexts, {"a": drawn, "b": drawn[:1]})
    with pytest.raises(InputError, match="do not make a sheet"):
        condition_sheet(contexts[:1], None, {"a": drawn})
    with pytest.raises(InputError, match="1 texts for 2 bands"):
        condition_sheet(contexts, None, {"a": drawn}, names=["a"])
    with pytest.raises(InputError, match=r"\(2, 1, 3, 8, 8\), \(3, 2, 3, 8, 8\)\] do not make a sheet"):
        transfer_sheet(contexts[:1], contexts, drawn)
    with pytest.raises(InputError, match="do not make a sheet"):
        appearance_rows(contexts, contexts, contexts[:1], drawn)
