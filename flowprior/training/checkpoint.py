"""Checkpoints: a safetensors file each, listed with its SHA-256; written whole or not at all."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowprior.errors import InputError, RunError, reason
from flowprior.files import remove_leftovers, write_atomically
from flowprior.training.manifest import (
    FOLDER,
    MANIFEST,
    UNSEALED,
    Entry,
    broken_seal,
    checkpoint_files,
    entry_of,
    mismatch,
    read_manifest,
    seal,
    step_of,
    write_manifest,
)

FORMAT = 1  # raised when a file written today could no longer be read as it is


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to continue: tensors by name, and all else as JSON values.

    `listed` says whether the manifest names it; else it is known by the checksum that it carries.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path
    listed: bool = True


def save_checkpoint(
    run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 3
) -> Path:
    """Write `RUN/checkpoints/step-XXXXXXXXX.safetensors`, list it, and drop all but the last `keep` listed.

    The order of the writes leaves a valid checkpoint at any moment: file, manifest, and only then removals.
    A manifest comes before the first file, so that one that is missing was lost. Tensors that share memory
    (tied weights, modules of two objectives) are stored once.

    Raises:
        RunError: if the file system refuses, for instance because the disk is full.
    """
    folder = run / FOLDER
    path = folder / f"step-{step:09d}.safetensors"
    payload = _to_bytes(tensors, state)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        listed = read_manifest(folder).entries
        if not (folder / MANIFEST).exists():
            write_manifest(folder, listed)
        write_atomically(path, payload)
        _list(folder, [*(old for old in listed if old["file"] != path.name), entry_of(path, payload)], keep)
    except OSError as error:
        raise RunError(
            f"The checkpoint of step {step} could not be written to {folder} ({error.strerror or error}): "
            "make room and continue with --resume; the last good checkpoint is untouched."
        ) from error
    return path


def _list(folder: Path, entries: Sequence[Entry], keep: int | None = None) -> None:
    """Write the manifest of the last `keep` entries, and remove the files of the others."""
    kept = entries[-keep:] if keep else entries
    names = {entry["file"] for entry in kept}
    listed = [*read_manifest(folder).entries, *entries]
    dropped = sorted({old["file"] for old in listed if keep} - names)
    write_manifest(folder, kept, dropped)
    tidy_checkpoints(folder.parent)


def tidy_checkpoints(run: Path) -> None:
    """Remove what a killed run was about to remove: checkpoints that it dropped, and temporary files."""
    folder = run / FOLDER
    for name in read_manifest(folder).dropped:
        (folder / name).unlink(missing_ok=True)
    remove_leftovers(folder)


def has_checkpoints(run: Path) -> bool:
    """Whether `run` was trained in before."""
    folder = run / FOLDER
    return bool(checkpoint_files(folder)) or bool(read_manifest(folder).entries)


def load_checkpoint(run: Path) -> Checkpoint:
    """The newest valid checkpoint of `run`; the log names each newer one that is skipped, and why.

    One that a killed run has written but not yet listed is valid if its own checksum holds.

    Raises:
        InputError: if there is none, or the manifest is lost or damaged.
    """
    folder = run / FOLDER
    manifest = read_manifest(folder)
    if manifest.wrong:
        fix = "start the run without resume, in a new folder"
        if checkpoint_files(folder):
            fix = f"`flowprior repair {run}` lists those that are whole"
        raise InputError(f"{folder / MANIFEST} does not list the checkpoints ({manifest.wrong}): {fix}.")
    skipped = []
    for path, entry in reversed(_candidates(folder)):
        read = _read(path, entry)
        if isinstance(read, Checkpoint):
            return read
        skipped.append(f"{path.name} {read}")
        logging.getLogger(__name__).warning("Skipped checkpoint %s of %s: it %s.", path.name, run, read)
    if read_manifest(folder) != manifest:  # a run under way has replaced what it listed
        return load_checkpoint(run)
    raise _none_valid(folder, skipped)


def _none_valid(folder: Path, wrong: Sequence[str]) -> InputError:
    reasons = f" ({'; '.join(wrong)})" if wrong else ""
    return InputError(f"No valid checkpoint in {folder}{reasons}: start the run again, in another folder.")


def list_checkpoints(run: Path, keep: int | None = None) -> tuple[list[str], list[str]]:
    """Rebuild the manifest from the files that are valid: those that it lists, and by their own checksums.

    Returns:
        The names that it lists, oldest first, and a sentence for each file that it does not.

    Raises:
        InputError: if no file is valid; nothing is written then.
        RunError: if the file system refuses.
    """
    folder = run / FOLDER
    entries, wrong = [], []
    known = dict(_candidates(folder))
    for path in checkpoint_files(folder):
        read = _read(path, known.get(path))
        if not isinstance(read, Checkpoint) and path in known:
            read = _read(path, None)
        if isinstance(read, Checkpoint):
            entries.append(entry_of(path, path.read_bytes()))
        else:
            wrong.append(f"{path.name} {read}")
    if not entries:
        raise _none_valid(folder, wrong)
    try:
        _list(folder, entries, keep)
    except OSError as error:
        raise RunError(f"{folder / MANIFEST} could not be written ({error.strerror}): make room.") from error
    return [entry["file"] for entry in entries], wrong


def _candidates(folder: Path) -> list[tuple[Path, Entry | None]]:
    """The files that may be checkpoints, oldest first, each with its entry if it has one."""
    manifest = read_manifest(folder)
    listed: list[tuple[Path, Entry | None]] = [(folder / entry["file"], entry) for entry in manifest.entries]
    names = {path for path, _ in listed} | {folder / name for name in manifest.dropped}
    others = [path for path in checkpoint_files(folder) if path not in names]
    last = max((entry["step"] for entry in manifest.entries), default=-1)
    older: list[tuple[Path, Entry | None]] = [(path, None) for path in others if step_of(path) <= last]
    return [*older, *listed, *((path, None) for path in others if step_of(path) > last)]


def load_weights(run: Path | str, module: nn.Module) -> int:
    """Load what a run learned into `module`, an objective or a part of one such as its model.

    From the newest valid checkpoint: of a stage that is still running, the best or averaged weights if it
    keeps such, as at the end of the stage. Returns the step.

    Raises:
        InputError: if there is no valid checkpoint, or none of its objectives holds such a module.
    """
    return put_weights(load_checkpoint(Path(run)), module)


def put_weights(checkpoint: Checkpoint, module: nn.Module) -> int:
    """As `load_weights`, from a checkpoint that was read."""
    step = int(checkpoint.state["progress"]["step"])
    weights, wanted = _delivered(checkpoint), module.state_dict()
    if not wanted:
        return step
    first = next(iter(wanted))
    fitting: dict[tuple[int, ...], dict[str, Tensor]] = {}  # by identity: objectives share modules
    for prefix in [name.removesuffix(first) for name in weights if f".{name}".endswith(f".{first}")]:
        inside = part(weights, prefix)
        if all(name in inside and inside[name].shape == value.shape for name, value in wanted.items()):
            fitting[tuple(id(inside[name]) for name in wanted)] = inside
    path, kind = checkpoint.path, f"this {type(module).__name__}"
    if len(fitting) > 1:
        raise InputError(f"{path} holds {len(fitting)} parts that {kind} could be: load the whole model.")
    wrong = "no part of the run has these parameters"
    for inside in fitting.values():
        try:
            module.load_state_dict(inside)
            return step
        except RuntimeError as error:
            wrong = reason(error)
    raise InputError(f"{path} does not fit {kind} ({wrong}): build it with the settings of the run.")


def _delivered(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The objectives' tensors; of a stage under way with its best, else its averaged weights put in."""
    tensors = checkpoint.tensors
    current = f"objective.{checkpoint.state['progress']['stage']}."
    kept = part(tensors, "best.") or part(tensors, "ema.")
    better = {id(tensors[current + name]): value for name, value in kept.items()}
    return {k: better.get(id(v), v) for k, v in tensors.items() if k.startswith("objective.")}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _to_bytes(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    first: dict[tuple[Any, ...], str] = {}
    aliases, stored = {}, {}
    for name, tensor in tensors.items():
        memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
        if tensor.numel() and memory in first:
            aliases[name] = first[memory]
        else:
            first[memory] = name
            stored[name] = tensor.detach().to("cpu", copy=True).contiguous()
    meta = {"format": FORMAT, "sha256": UNSEALED, "aliases": aliases, "state": state}
    return seal(save(stored, metadata={"flowprior": json.dumps(meta)}))


def _read(path: Path, entry: Entry | None) -> Checkpoint | str:
    """The checkpoint at `path`, or what is wrong with it; without an `entry` it must carry a checksum."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if not path.is_file() and path.exists():
            return "is not a file"
        if entry is not None and (size := path.stat().st_size) != entry["bytes"]:
            return f"is truncated: {size} of {entry['bytes']} bytes"
        payload = path.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if entry is not None and (wrong := mismatch(payload, entry)):
        return wrong
    broken = broken_seal(payload)
    if broken is None and entry is None:
        return f"is not in {MANIFEST}, and carries no checksum of its own by which it could be verified"
    if broken:
        return broken
    try:
        length = int.from_bytes(payload[:8], "little")
        meta = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["flowprior"])
        if meta["format"] != FORMAT:
            return f"has format {meta['format']}, and this version reads format {FORMAT}"
        tensors = load(payload)
        tensors |= {name: tensors[target] for name, target in meta["aliases"].items()}
        return Checkpoint(tensors, meta["state"], path, entry is not None)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"is not a checkpoint ({reason(error)})"
