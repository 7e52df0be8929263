"""Files in and out: arrays and JSON, without pickle; written whole or not at all."""

import fcntl
import io
import json
import math
import os
import re
import secrets
import tempfile
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowprior.bounds import check_members, check_regular
from flowprior.checks import nearest
from flowprior.errors import InputError, clip, reason

ARRAYS = (".npy", ".npz", ".pt")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def read_array(path: Path, key: str | None = None, name: str = "latents") -> Tensor:
    """The float32 tensor in an .npy, .npz or .pt file; `key` says which, where there are several.

    Raises:
        InputError: if the file is missing, damaged, of another kind, not numeric, or `key` does not fit.
    """
    if path.suffix not in ARRAYS or not path.exists():
        wrong = "does not exist" if path.suffix in ARRAYS else "has another ending"
        raise InputError(f"`{name}` (={path}) {wrong}: give a .npy, .npz or .pt file.")
    check_regular(path, f"`{name}`")
    try:
        array = _read(path, key, name)
    except InputError:
        raise
    except MemoryError:
        wrong = "claims to hold more numbers than fit into the memory of this machine"
        raise InputError(f"`{name}` (={path}) {wrong}: write it again.") from None
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"`{name}` (={path}) cannot be read ({reason(error)}): write it again.") from None
    except Exception as error:  # pickle's UnpicklingError: more than plain tensors
        wrong = f"holds more than tensors ({type(error).__name__})"
        raise InputError(f"`{name}` (={path}) {wrong}: save a plain tensor.") from None
    if isinstance(array, Tensor):
        _check_plain(f"`{name}` (={path})", array)
    try:
        tensor = torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.empty(0, dtype=torch.complex64)
    if tensor.is_complex() or tensor.dim() == 0 or len(tensor) == 0:
        kind, shape = getattr(array, "dtype", type(array).__name__), tuple(getattr(array, "shape", ()))
        expected = "must hold real numbers, one row per example"
        raise InputError(f"`{name}` (={path}) is {kind} of shape {shape} but {expected}.")
    return tensor.float()


def read_rows(path: Path, key: str | None, name: str) -> Tensor:
    """As `read_array`, with a file of plain numbers as one column, (N, 1)."""
    rows = read_array(path, key, name)
    return rows[:, None] if rows.dim() == 1 else rows


def _read(path: Path, key: str | None, name: str) -> Any:
    """The array that is meant; of an archive, only that one is unpacked."""
    if path.suffix == ".npy":
        return _choose(np.load(path, allow_pickle=False), key, path, name)
    if path.suffix == ".pt":
        return _choose(_load(path), key, path, name)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        stored = {each.removesuffix(".npy"): each for each in archive.zip.namelist()}
        member = _choose(stored, key, path, name)
        check_members(path, [member])
        return archive[member]


def _load(path: Path) -> Any:
    """What a .pt file holds, read without code; a zip archive in it unpacks to no more than it may."""
    if zipfile.is_zipfile(path):
        check_members(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds of tensors and pickles that are refused
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_plain(what: str, tensor: Tensor) -> None:
    """Refuse a loaded tensor that is sparse, quantized, without data, or larger than its data."""
    if tensor.device.type == "meta":
        raise InputError(f"{what} has no data, since it is on the meta device: save a tensor of the CPU.")
    if tensor.layout != torch.strided:
        raise InputError(f"{what} is sparse ({tensor.layout}): save `tensor.to_dense()`.")
    if tensor.is_quantized:
        raise InputError(f"{what} is quantized ({tensor.dtype}): save `tensor.dequantize()`.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        shape = f"of shape {tuple(tensor.shape)} is expanded from fewer numbers"
        raise InputError(f"{what} {shape}: save `tensor.contiguous()`.")


def _choose(content: Any, key: str | None, path: Path, name: str) -> Any:
    if not isinstance(content, dict):
        if key is not None:
            raise InputError(f"`--key` (={key!r}) has nothing to choose from: {path} holds one array.")
        return content
    if key is None and len(content) == 1:
        return next(iter(content.values()))
    if key not in content:
        names = [str(each) for each in content]
        wish = f"has no array {key!r}{nearest(key, names)}" if key else "holds several arrays"
        listed = clip(", ".join(names))
        raise InputError(f"`{name}` (={path}) {wish}; give `--key`, one of {listed}.")
    return content[key]


def find_weights(weights: str | Path | None, name: str) -> Path:
    """A weights file: `weights` itself, or `name` in that folder or FLOWPRIOR_WEIGHTS; else InputError."""
    folder = os.environ.get("FLOWPRIOR_WEIGHTS")
    if weights is None and not folder:
        fix = f"put {name} into a folder and set FLOWPRIOR_WEIGHTS to it"
        raise InputError(f"`weights` is not given and FLOWPRIOR_WEIGHTS is not set: {fix}.")
    path = Path(folder or "" if weights is None else weights)
    path = path / name if path.is_dir() else path
    if not path.is_file() and folder and (Path(folder) / path).is_file():
        path = Path(folder) / path
    if not path.is_file():
        there = f"the folder that FLOWPRIOR_WEIGHTS names{f', now {folder}' if folder else ''}"
        raise InputError(f"The weights file {path} is missing: put {name} there, or into {there}.")
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a saved state dict, read without code; InputError if there is anything else in it."""
    check_regular(path)
    try:
        content = _load(path)
    except InputError:
        raise
    except Exception as error:  # torch.load fails in many ways: pickle, zip, end of file, key, type errors
        raise InputError(f"{path} cannot be read as a state dict ({reason(error)}): replace it.") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} must hold a state dict (names and tensors), not {type(content).__name__}.")
    for key, value in content.items():
        _check_plain(f"{key!r} in {path}", value)
    return content


def check_writable(path: Path, endings: tuple[str, ...], name: str = "--out") -> None:
    """Refuse an output file of another ending, or one that cannot be written, before the work is done."""
    if path.suffix not in endings:
        raise InputError(f"`{name}` (={path}) must end in {', '.join(endings[:-1])} or {endings[-1]}.")
    if path.is_dir():
        raise InputError(f"`{name}` (={path}) is a folder: name a file.")
    make_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder for what is written, and raise an InputError unless it can be written to."""
    did = "made"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        did = "written to"
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        wrong = f"cannot be {did} ({error.strerror})"
        raise InputError(f"The folder {folder} {wrong}: choose another `--out`.") from None


def write_array(path: Path, tensor: Tensor, key: str) -> None:
    """`tensor` as .npy, .npz (under `key`) or .pt, by the name's ending."""
    values, stream = tensor.detach().cpu().contiguous(), io.BytesIO()
    if path.suffix == ".pt":
        torch.save(values, stream)
    elif path.suffix == ".npy":
        np.save(stream, values.numpy())
    else:
        np.savez(stream, allow_pickle=False, **{key: values.numpy()})
    write_atomically(path, stream.getvalue())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """`content` as JSON."""
    write_atomically(path, (json_of(content) + "\n").encode())


def json_of(content: Any) -> str:
    """`content` as the text of a JSON file."""
    return json.dumps(plain(content), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """JSON knows neither infinity nor NaN nor paths: null, and text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file whole or not at all: a temporary one beside it, fsync, rename, fsync of the folder.

    Raises:
        OSError: if the file system refuses; what was at `path` is then still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)  # as long as it is written, `remove_leftovers` leaves it alone
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in `folder`."""
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            with suppress(OSError):
                handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                finally:
                    os.close(handle)
