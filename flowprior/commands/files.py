"""What the verbs read and write: arrays as npy, npz and pt without pickle, and JSON, written whole or not at all."""

import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowprior.annotations import nearest
from flowprior.errors import InputError

ARRAYS = (".npy", ".npz", ".pt")


def read_array(path: Path, key: str | None = None, name: str = "latents") -> Tensor:
    """The float32 tensor in an .npy, .npz or .pt file; `key` says which, where there are several.

    Raises:
        InputError: if the file is missing, damaged, of another kind, not numeric, or `key` does not fit.
    """
    if path.suffix not in ARRAYS:
        raise InputError(f"`{name}` (={path}) must be a .npy, .npz or .pt file.")
    if not path.is_file():
        raise InputError(f"`{name}` (={path}) does not exist: give an .npy, .npz or .pt file.")
    try:
        if path.suffix == ".pt":
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            found = np.load(path, allow_pickle=False)
            if path.suffix == ".npz":
                with found as archive:
                    found = {entry: archive[entry] for entry in archive.files}
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"`{name}` (={path}) cannot be read as {path.suffix} ({reason}): write it again."
        ) from None
    except Exception as error:  # pickle.UnpicklingError: whatever is not plain tensors
        raise InputError(
            f"`{name}` (={path}) holds more than tensors ({type(error).__name__}): save tensors alone with torch.save."
        ) from None
    array = _choose(found, key, path, name)
    try:
        tensor = torch.as_tensor(array)
        numeric = not tensor.is_complex() and tensor.dim() >= 1
    except TypeError:
        numeric = False
    if not numeric:
        kind = getattr(array, "dtype", type(array).__name__)
        raise InputError(f"`{name}` (={path}) must hold real numbers with one row per example, not {kind}.")
    return tensor.float()


def _choose(found: Any, key: str | None, path: Path, name: str) -> Any:
    if not isinstance(found, dict):
        if key is not None:
            raise InputError(
                f"`--key` (={key!r}) has nothing to choose from, since {path} holds one array: leave it out."
            )
        return found
    if key is None and len(found) == 1:
        return next(iter(found.values()))
    if key not in found:
        wish = f"has no array {key!r}{nearest(key, found)}" if key else "holds several arrays"
        raise InputError(
            f"`{name}` (={path}) {wish}; give `--key` one of: {', '.join(map(str, found)) or 'none'}."
        )
    return found[key]


def write_array(path: Path, tensor: Tensor, key: str) -> None:
    """`tensor` as .npy, .npz (under `key`) or .pt, by the name's ending; never half a file."""
    values = tensor.detach().cpu().contiguous()

    def write(target: Path) -> None:
        with target.open("wb") as stream:
            if path.suffix == ".npy":
                np.save(stream, values.numpy())
            elif path.suffix == ".npz":
                np.savez(stream, **{key: values.numpy()})
            else:
                torch.save(values, stream)

    replace(path, write)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """`content` as JSON; never half a file."""
    text = json.dumps(content, indent=2, allow_nan=True) + "\n"
    replace(path, lambda target: target.write_text(text, encoding="utf-8"))


def write_text(path: Path, text: str) -> None:
    """`text` in UTF-8; never half a file."""
    replace(path, lambda target: target.write_text(text, encoding="utf-8"))


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path` in one step.

    Raises:
        InputError: if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise InputError(f"Cannot write {path} ({error.strerror}): choose another `--out`.") from None
    try:
        write(Path(temporary))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
