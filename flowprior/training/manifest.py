"""The list of a run's checkpoints, and the checksum that each of them also carries itself."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from flowprior.files import write_atomically

FOLDER, MANIFEST = "checkpoints", "manifest.json"
ENTRY = {"file": str, "step": int, "bytes": int, "sha256": str}  # of the manifest, for each checkpoint
UNSEALED = "0" * 64  # in the place of a file's checksum while that is computed
_NAME = re.compile(r"step-(\d{9,18})\.safetensors")
_SEAL = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')  # in the header, as JSON within JSON

Entry = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What `checkpoints/manifest.json` says.

    Args:
        entries: of the checkpoints, oldest first.
        dropped: names of files that were to be removed when it was written.
        wrong: why it says nothing, if so.
    """

    entries: Sequence[Entry] = ()
    dropped: Sequence[str] = ()
    wrong: str = ""


def read_manifest(folder: Path) -> Manifest:
    """The manifest in the folder of checkpoints; names that lead out of it are none."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = [
            {name: kind(entry[name]) for name, kind in ENTRY.items()} for entry in content["checkpoints"]
        ]
        dropped = [str(name) for name in content.get("dropped", ())]
    except FileNotFoundError:
        lost = any(True for _ in checkpoint_files(folder))
        return Manifest(wrong="it is missing" if lost else "there is none yet")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Manifest(wrong=f"it is damaged: {error}")
    for name in (*(entry["file"] for entry in entries), *dropped):
        if not _NAME.fullmatch(name):
            return Manifest(wrong=f"it is damaged: {name!r} is no checkpoint")
    return Manifest(entries, dropped)


def write_manifest(folder: Path, entries: Sequence[Entry], dropped: Sequence[str] = ()) -> None:
    """Write the manifest whole or not at all."""
    content = {"checkpoints": list(entries), **({"dropped": list(dropped)} if dropped else {})}
    write_atomically(folder / MANIFEST, (json.dumps(content, indent=2) + "\n").encode())


def checkpoint_files(folder: Path) -> list[Path]:
    """What is named as a checkpoint is, oldest first."""
    paths = {path: _NAME.fullmatch(path.name) for path in folder.glob("step-*")} if folder.is_dir() else {}
    return sorted((path for path, match in paths.items() if match), key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(path.name[len("step-") : -len(".safetensors")])


def entry_of(path: Path, payload: bytes) -> Entry:
    """What the manifest says of a file."""
    digest = sha256(payload).hexdigest()
    return {"file": path.name, "step": step_of(path), "bytes": len(payload), "sha256": digest}


def seal(payload: bytes) -> bytes:
    """A safetensors file with its checksum put where its header has `UNSEALED`."""
    start, end = _place(payload)
    return b"".join((payload[:start], sha256(payload).hexdigest().encode(), payload[end:]))


def broken_seal(payload: bytes) -> str | None:
    """What is wrong with the checksum that a file carries, "" if nothing is; None if it carries none."""
    start, end = _place(payload)
    if not end:
        return None
    digest = sha256(payload[:start])
    digest.update(UNSEALED.encode())
    digest.update(memoryview(payload)[end:])
    same = digest.hexdigest().encode() == payload[start:end]
    return "" if same else "does not match the checksum that it carries"


def _place(payload: bytes) -> tuple[int, int]:
    """Where the checksum stands, (0, 0) if nowhere."""
    length = int.from_bytes(payload[:8], "little")
    match = _SEAL.search(payload, 8, min(len(payload), 8 + length))
    return match.span(1) if match else (0, 0)


def mismatch(payload: bytes, entry: Mapping[str, Any]) -> str:
    """How a file differs from what the manifest says of it, "" if it does not."""
    if len(payload) != entry["bytes"]:
        return f"is truncated: {len(payload)} of {entry['bytes']} bytes"
    if sha256(payload).hexdigest() != entry["sha256"]:
        return f"does not match its checksum in {MANIFEST}: at least one bit has flipped"
    return ""
