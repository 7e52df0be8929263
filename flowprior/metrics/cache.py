"""Results worth keeping: named tensors in safetensors files, written atomically and checked when read."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from flowprior.files import write_atomically

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder `FLOWPRIOR_CACHE` names, by default `~/.cache/flowprior`; it need not exist yet.

    A user without a home, as in a container, has one of its own in the folder for temporary files.
    """
    if named := os.environ.get("FLOWPRIOR_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "flowprior"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"flowprior-{os.getuid()}"


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 over shapes, types and bytes: the identity of a data set.

    >>> fingerprint(torch.zeros(2, 3)) == fingerprint(torch.zeros(3, 2))
    False
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(kind: str, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of `key`, from the cache when a sound copy is there, else computed and kept.

    A damaged copy is noticed by its checksum, logged, computed again and replaced. A cache folder that cannot
    be written costs a log line, not the result.
    """
    from safetensors.torch import save

    path = cache_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    tensors = _read(path, key)
    if tensors is None:
        tensors = compute()
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        payload = save(held, metadata={"key": key, "sha256": _checksum(held)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, payload)
        except OSError as error:
            _log.warning("%s could not be written (%s): the result is not kept", path, error)
    return tensors


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        _log.warning("%s is damaged (%s): computing it again", path, error)
        return None
    if facts.get("key") != key or facts.get("sha256") != _checksum(tensors):
        _log.warning("%s does not match its checksum: computing it again", path)
        return None
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    return hashlib.sha256((" ".join(names) + fingerprint(*(tensors[n] for n in names))).encode()).hexdigest()
