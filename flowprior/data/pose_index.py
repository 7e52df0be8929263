"""Pictures of people with their poses, DeepFashion and Market as the Variational U-net published them."""

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowprior.bounds import check_regular
from flowprior.data.drawing import JOINTS
from flowprior.data.pictures import Pictures
from flowprior.data.unpickling import read_plain
from flowprior.errors import InputError, reason
from flowprior.registry import dataset

INDEX = "index.p"
_REQUIRED = ("lhip", "rhip", "lshoulder", "rshoulder")
_SHAPE = (3, None, None)
_FACTS: dict[str, Any] = {"shape": _SHAPE, "context": _SHAPE, "classes": (), "folder": "optional"}
_FACTS |= {"because": "has poses, which only stretching keeps in place", "resize": "stretch"}
_FACTS |= {"shaped_by": ("size", "channels")}


@dataset("market", **_FACTS)
@dataset("deepfashion", **_FACTS)
def people(source: Any, train: bool) -> Pictures:
    """Pictures of people with their poses, as their index names them."""
    return list_index(source.folder, train)


def list_index(folder: Path, train: bool) -> Pictures:
    """One split of the pictures that `folder/index.p` names, with their `joints` in parts of a picture.

    The index is a pickled dictionary of N examples, of which only plain values and NumPy arrays are read:

    - "joint_order": names of the J joints, among them the 15 of `JOINTS` (others are passed over);
    - "imgs": N paths of pictures, relative to the index;
    - "train": N bools, the split;
    - "joints": (N, J, 2), x and y in parts of the picture's width and height, negative where not seen.

    Examples without both hips and both shoulders are left out, as in the published code. A missing index or
    picture, or an index that is damaged or holds anything else, raises an InputError.

    Source: Esser et al. 2018, and its code's class IndexFlow.
    """
    path = folder / INDEX
    if path.exists():
        check_regular(path, "The index")
    names, splits, joints = _checked(path, _read(path))
    complete = (joints[:, [JOINTS.index(name) for name in _REQUIRED]] >= 0).all((1, 2))
    rows = np.flatnonzero((splits == train) & complete).tolist()
    if not rows:
        split = "training" if train else "test"
        raise _broken(path, f"has no {split} example with both hips and both shoulders")
    chosen = [names[row] for row in rows]
    missing = next((name for name in chosen if not (folder / name).is_file()), None)
    if missing is not None:
        wrong = f"names the picture {missing!r}, which is not there"
        raise InputError(f"{str(path)!r} {wrong}: put it beside it.")
    return Pictures.inside(folder, chosen, joints=torch.from_numpy(joints[rows]))


def in_pixels(joints: Tensor, size: int) -> Tensor:
    """Joints in parts of a square picture, (N, J, 2), in its pixels; what is not seen is (-1, -1)."""
    return torch.where((joints >= 0).all(-1, keepdim=True), joints * size, -1.0)


def _broken(path: Path, wrong: str) -> InputError:
    expected = "a pickled dictionary of joint_order, imgs, train and joints as published"
    return InputError(f"{str(path)!r} {wrong}: it must be {expected}, so copy it again.")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        fix = f"put the published {INDEX} there, its pictures beside it, or name another `folder`"
        raise InputError(f"There is no index {str(path)!r}: {fix}.")
    try:
        index = read_plain(path.read_bytes())
    except Exception as error:  # a damaged pickle ends in any exception
        raise _broken(path, f"cannot be read ({reason(error)})") from error
    keys = ("joint_order", "imgs", "train", "joints")
    if not isinstance(index, dict) or any(key not in index for key in keys):
        held = ", ".join(map(str, index)) if isinstance(index, dict) else type(index).__name__
        raise _broken(path, f"holds {held or 'nothing'}")
    return index


def _checked(path: Path, index: dict[str, Any]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names (N,), splits (N,) bool and joints (N, 15, 2) float32 in the order of `JOINTS`."""
    try:
        order, names = list(index["joint_order"]), list(index["imgs"])
        splits = np.asarray(index["train"], dtype=bool)
        joints = np.asarray(index["joints"], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise _broken(path, f"holds other values than names and numbers ({reason(error)})") from error
    missing = [name for name in JOINTS if name not in order]
    if missing:
        raise _broken(path, f"has no joint {missing[0]!r} in its joint_order")
    if splits.shape != (len(names),) or joints.shape != (len(names), len(order), 2):
        shapes = f"train of shape {splits.shape} and joints of shape {joints.shape}"
        raise _broken(path, f"has {len(names)} imgs, {shapes} for {len(order)} names")
    if not np.isfinite(joints).all() or joints.max(initial=0) > 2:
        raise _broken(path, "holds joints that are not parts of a picture, 0 to 1 or negative")
    for name in names:
        parts = PurePosixPath(name).parts if isinstance(name, str) else ("..",)
        if ".." in parts or "/" in parts:
            raise _broken(path, f"names the picture {name!r}, which is no path beside it")
    return names, splits, joints[:, [order.index(name) for name in JOINTS]]
