"""Bounds: what a file may unpack to and what the machine can hold, asked before anything is read."""

import os
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from flowprior.errors import InputError

UNPACKED = 2**30  # bytes that any file may unpack to
RATIO = 100  # times its own bytes that a larger one may; deflate reaches 1,000


@cache
def memory() -> int:
    """Bytes of memory of this machine, or of the control group (container) that the process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(physical, int(text)) if text.isdigit() else physical


def check_memory(what: str, size: int, fix: str) -> None:
    """Refuse what would take more than the memory of this machine; `size` is in bytes."""
    if size > memory():
        much = f"{what} would take {spell_bytes(size)}, and this machine has {spell_bytes(memory())}"
        raise InputError(f"{much}: {fix}.")


def check_regular(path: Path, what: str = "The file") -> None:
    """Refuse what is no regular file, such as a pipe, which would wait for ever, or /dev/zero."""
    if not path.is_file():
        kind = (
            "is not there"
            if not os.path.lexists(path)
            else "is no regular file, but a pipe, device or folder"
        )
        kind = "is a link to nothing" if path.is_symlink() and not path.exists() else kind
        raise InputError(f"{what} {str(path)!r} {kind}: give a file.")
    check_memory(f"{what} {str(path)!r}", path.stat().st_size, "give a smaller one")


def check_unpacked(what: str, unpacked: int, packed: int) -> None:
    """Refuse what unpacks from `packed` to `unpacked` bytes, more than `UNPACKED` and `RATIO` allow."""
    if unpacked > max(UNPACKED, RATIO * packed):
        sizes = f"unpacks from {spell_bytes(packed)} to {spell_bytes(unpacked)}"
        raise InputError(f"{what} {sizes}, more than {RATIO} times: store it uncompressed, if it is meant.")


def check_members(path: Path, names: Iterable[str] | None = None) -> None:
    """`check_unpacked` of the members `names` of a zip archive, by default all; nothing is unpacked."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist() if names is None else map(archive.getinfo, names)
        for member in members:
            what = f"{member.filename!r} in {str(path)!r}"
            check_unpacked(what, member.file_size, member.compress_size)


def spell_bytes(size: float) -> str:
    """Bytes as a user would say them.

    >>> spell_bytes(3 * 2**30), spell_bytes(12)
    ('3.2 GB', '12 bytes')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}" if size < 1e15 else f"{size / factor:.1e} {unit}"
    return f"{size} bytes"
