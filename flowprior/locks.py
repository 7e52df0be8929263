"""Locks: a folder has one writer at a time, known by name, and a lock ends with the process that holds it."""

import fcntl
import json
import logging
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flowprior.errors import InputError, RunError
from flowprior.files import make_folder

LOCK, REPORT_LOCK = ".lock", ".report.lock"


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds.

    Args:
        path, handle: of the file that is locked.
        taken_over: whether a process that was killed has left that file.
    """

    path: Path
    handle: int
    taken_over: bool

    def check(self) -> None:
        """Raise a `RunError` if the folder is no longer the one that was locked."""
        if not _is_at(self.handle, self.path):
            gone = f"The folder '{self.path.parent}' was removed, moved or unlocked while it was written to"
            raise RunError(f"{gone}: put it back and continue with --resume, or start again.")


_held: dict[tuple[int, int, Path], Lock] = {}  # by process, thread and folder


@contextmanager
def locked(folder: Path, name: str = LOCK, wait: bool = False) -> Iterator[Lock]:
    """Inside, no other process or thread holds the lock `name` of `folder`; it may be entered again.

    The kernel keeps the lock and drops it with the process, so that of a killed one is taken over. A folder
    that does not exist is made, and removed again if nothing was put into it.

    Args:
        wait: for another holder to end, rather than to refuse.

    Raises:
        InputError: if another process holds it (the sentence names it), or the folder cannot be written to.
    """
    folder = folder.absolute()
    key = (os.getpid(), threading.get_ident(), folder / name)
    if key in _held:
        yield _held[key]
        return
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        make_folder(folder)
        lock = _held[key] = _take(folder / name, wait)
        try:
            yield lock
        finally:
            del _held[key]
            with suppress(OSError):
                if _is_at(lock.handle, lock.path):
                    lock.path.unlink()
            os.close(lock.handle)
    finally:
        with suppress(OSError):  # not empty, as it should be
            for each in made:
                each.rmdir()


def _take(path: Path, wait: bool) -> Lock:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            refused = f"The folder '{path.parent}' cannot be locked ({error.strerror}: {path.name})"
            raise InputError(f"{refused}: remove that file, or choose another --out.") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            fix = "wait until it has ended, or choose another --out."
            raise InputError(f"'{path.parent}' is in use by {_holder(path)}: {fix}") from None
        except OSError as error:
            log = logging.getLogger(__name__)
            log.warning("%s cannot be locked (%s): let one process at a time write there.", path, error)
        if _is_at(handle, path):  # else the holder before has just removed it
            break
        os.close(handle)
    left = os.fstat(handle).st_size > 0
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {"process": os.getpid(), "host": platform.node(), "started": started}
    with suppress(OSError):  # a full disk: only the name of the holder is missing then
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(holder) + "\n").encode(), 0)
    return Lock(path, handle, left)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['process']} on {holder['host']} since {holder['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
