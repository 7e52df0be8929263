import numpy as np
import pytest
import torch

from flowprior.checks import (
    check_count,
    check_finite,
    check_images,
    check_number,
    check_one_of,
    check_rows,
    check_shapes,
)
from flowprior.errors import InputError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_counts_are_ints_of_python_or_numpy(value):
    assert check_count("n", value) == 3
    assert type(check_count("n", value)) is int


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 5])
def test_other_counts_are_refused(value):
    with pytest.raises(InputError, match=r"^`n` \(=.*\) must be an int from 1 to 4: take 2\.$"):
        check_count("n", value, most=4, fix="take 2")
    with pytest.raises(InputError, match=r"must be an int of at least 6\.$"):
        check_count("n", value, least=6)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "words"),
    [
        ({"above": 0}, (1e-9, 3), (0, -1), "above 0"),
        ({"least": 0}, (0, 3), (-1e-9,), "of at least 0"),
        ({"above": 0, "below": 1}, (0.5, np.float32(0.5)), (0, 1), "above 0 and below 1"),
        ({"above": 0, "most": 1}, (1,), (0, 1.1), "above 0 and at most 1"),
        ({}, (-3, 7.5), (), ""),
    ],
)
def test_numbers_are_finite_and_within_their_bounds(bounds, inside, outside, words):
    for value in inside:
        assert check_number("w", value, **bounds) == value
    for value in (*outside, float("nan"), float("inf"), True, "1", None):
        with pytest.raises(InputError, match=rf"must be a finite number {words}".rstrip()):
            check_number("w", value, **bounds)


def test_one_of():
    assert check_one_of("kernel", "imq", ("gaussian", "imq")) == "imq"
    with pytest.raises(InputError, match=r"`kernel` \(='box'\) must be one of 'gaussian', 'imq'\."):
        check_one_of("kernel", "box", ("gaussian", "imq"))


@pytest.mark.parametrize(
    ("shapes", "patterns"),
    [
        ([(5, 3), (5,)], ["N F", "N"]),
        ([(5, 3), (4, 3)], ["N F", "M F"]),
        ([(5, 3, 2), (4, 3, 2)], ["N *event", "M *event"]),
        ([(5, 15, 2)], ["N>4 15 2"]),
        ([(0, 3)], ["N F"]),
    ],
)
def test_shapes_that_fit(shapes, patterns):
    tensors = [torch.zeros(shape) for shape in shapes]
    check_shapes(**{f"x{k}": pair for k, pair in enumerate(zip(tensors, patterns, strict=True))})


@pytest.mark.parametrize(
    ("shapes", "patterns", "sentence"),
    [
        ([(5, 3)], ["N"], r"`x0` has shape \(5, 3\) but must be \(N,\): reshape it\."),
        ([(5,)], ["N *event"], r"`x0` has shape \(5,\) but must be \(N, \*event\)"),
        ([(5, 3)], ["N>5 F"], r"must be \(N > 5, F\)"),
        ([(5, 14, 2)], ["N 15 2"], r"must be \(N, 15, 2\)"),
        (
            [(5, 3), (4, 3)],
            ["N F", "N F"],
            r"`x0` has shape \(5, 3\) and `x1` \(4, 3\), but they must be \(N, F\) and \(N, F\)",
        ),
        ([(5, 3, 2), (4, 2, 3)], ["N *event", "M *event"], "they must be"),
        ([(5, 3), (3, 3)], ["N F", "M F>3"], "they must be"),
    ],
)
def test_shapes_that_do_not_fit(shapes, patterns, sentence):
    tensors = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(InputError, match=sentence):
        check_shapes(
            "reshape it", **{f"x{k}": pair for k, pair in enumerate(zip(tensors, patterns, strict=True))}
        )


def test_rows_and_finite_numbers():
    check_rows("context", torch.zeros(3, 2), 3, "images")
    with pytest.raises(InputError, match="`context` has 3 rows but must have one for each of the 4 images"):
        check_rows("context", torch.zeros(3, 2), 4, "images")
    values = torch.zeros(4, 2)
    check_finite("z", values, "look")
    values[1, 0], values[3, 1] = torch.nan, torch.inf
    with pytest.raises(InputError, match=r"`z` holds NaN or infinity in 2 of 4 rows, first in row 1: look\."):
        check_finite("z", values, "look")


def test_images():
    check_images("images", torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    check_images("images", torch.zeros(2, 1, 4, 4))
    with pytest.raises(InputError, match=r"`images` has shape \(2, 2, 4, 4\) but must be"):
        check_images("images", torch.zeros(2, 2, 4, 4))
    with pytest.raises(InputError, match=r"`images` is torch\.int64"):
        check_images("images", torch.zeros(2, 1, 4, 4, dtype=torch.int64))
