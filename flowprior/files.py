"""Files written whole or not at all."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file whole or not at all: a temporary one beside it, fsync, rename, fsync of the folder.

    Raises:
        OSError: if the file system refuses; what was at `path` is then still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
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
