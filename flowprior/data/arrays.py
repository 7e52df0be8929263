"""A user's arrays: .npz and .npy files of images or vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from flowprior.bounds import check_members, check_regular
from flowprior.data.dataset import Split, as_labels, split_rows
from flowprior.errors import InputError, reason

TRAIN_KEYS = ("train_images", "train_x", "x_train", "X_train", "images", "x", "X", "data", "arr_0")
TEST_KEYS = ("test_images", "test_x", "x_test", "X_test")
TRAIN_LABEL_KEYS = ("train_labels", "train_y", "y_train", "labels", "label", "y", "targets", "people")
TEST_LABEL_KEYS = ("test_labels", "test_y", "y_test")


def read_arrays(path: Path, train: bool, fraction: float) -> Split:
    """One split of an .npz file (keys such as `train_images`, `test_labels`, `images`) or of an .npy file.

    A file without a test array is split by `held_out(size, fraction)`. One that is missing, damaged, needs
    pickle, or holds nothing that can be used raises an InputError.
    """
    if not path.exists():
        raise InputError(f"There is no array file {str(path)!r}: check the path, or pass another `root`.")
    check_regular(path)
    try:
        split, whole = _read(path, train)
        return split.rows(split_rows(len(split.x), train, fraction, split.label)) if whole else split
    except InputError:
        raise
    except MemoryError:
        wrong = "claims to hold more numbers than fit into the memory of this machine"
        raise InputError(f"{str(path)!r} {wrong}: write it again.") from None
    except Exception as error:  # damaged files end in any exception of NumPy's reader
        wrong = f"cannot be read as plain NumPy arrays ({reason(error)})"
        fix = "write it again with numpy.savez or numpy.save, without object arrays"
        raise InputError(f"{str(path)!r} {wrong}: {fix}.") from error


def _read(path: Path, train: bool) -> tuple[Split, bool]:
    """One split, or all there is, and whether it is all: where there is no test array."""
    if path.suffix != ".npz":
        return Split(as_examples(np.load(path, allow_pickle=False), repr(str(path)))), True
    with open(path, "rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("it holds one bare array")
        check_members(path)
        has_test = _first(arrays.files, TEST_KEYS) is not None
        from_test = has_test and not train
        key = _first(arrays.files, TEST_KEYS if from_test else TRAIN_KEYS)
        if key is None:
            expected = f"needs training examples under one of {', '.join(TRAIN_KEYS)}: rename the array"
            raise InputError(
                f"{str(path)!r} holds the arrays {', '.join(arrays.files) or '(none)'} but {expected}."
            )
        split = Split(as_examples(arrays[key], f"`{key}` in {str(path)!r}"))
        keys = (_first(arrays.files, TRAIN_LABEL_KEYS), _first(arrays.files, TEST_LABEL_KEYS))
        label_key = keys[from_test]
        if label_key is not None:
            both = [arrays[each] for each in keys if each is not None]
            origin = f"`{label_key}` in {str(path)!r}"
            split = Split(split.x, *as_labels(arrays[label_key], len(split.x), origin, both))
    return split, not has_test


def _first(present: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((key for key in wanted if key in present), None)


def as_examples(array: np.ndarray, origin: str) -> Tensor:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) as uint8 (N, C, H, W); vectors (N, D) as float32.

    Images are whole numbers in 0..255, floats in [0, 1] or bools. Where both readings fit, channels are last.
    Others raise an InputError; `origin` says where the array is from.
    """
    if array.size == 0 or array.ndim not in (2, 3, 4):
        expected = "at least one image, (N, H, W), (N, H, W, C) or (N, C, H, W), or vector (N, D)"
        raise InputError(f"{origin} has shape {array.shape} but must hold {expected}: reshape it.")
    if array.ndim == 2:
        if array.dtype.kind != "f":
            wrong = f"is {array.dtype} of shape {array.shape}, but vectors (N, D) must be floats"
            raise InputError(f"{origin} {wrong}: store float32, or reshape flat images to (N, H, W).")
        return torch.from_numpy(array.astype(np.float32))
    pixels = torch.from_numpy(_as_pixels(array, origin))
    if pixels.dim() == 3:
        return pixels.unsqueeze(1)
    if pixels.shape[-1] in (1, 3):
        return rearrange(pixels, "n h w c -> n c h w").contiguous()
    if pixels.shape[1] in (1, 3):
        return pixels
    wrong = f"has shape {array.shape} but images need 1 or 3 channels, last or second"
    raise InputError(f"{origin} {wrong}: drop an alpha channel, or reshape.")


def _as_pixels(array: np.ndarray, origin: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    kind = str(array.dtype)
    if array.dtype.kind in "iuf":
        low, high = float(array.min()), float(array.max())
        if array.dtype.kind in "iu" and low >= 0 and high <= 255:
            return array.astype(np.uint8)
        if array.dtype.kind == "f" and low >= 0 and high <= 1:  # false where there is a NaN
            return np.rint(array.astype(np.float32) * 255).astype(np.uint8)
        kind += f" with values from {low:g} to {high:g}"
    expected = "whole numbers in 0..255 or floats in [0, 1]"
    raise InputError(f"{origin} is {kind}, but images must be {expected}: scale it, and remove NaN.")
