"""Checkpoints: a safetensors file each, listed with its SHA-256; written whole or not at all."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowprior.errors import InputError, RunError, reason
from flowprior.files import write_atomically

FORMAT = 1  # raised when a file written today could no longer be read as it is
FOLDER, MANIFEST = "checkpoints", "manifest.json"
ENTRY = {"file": str, "step": int, "bytes": int, "sha256": str}  # of the manifest, for each checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to continue: tensors by name, and all else as JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path


def save_checkpoint(
    run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 3
) -> Path:
    """Write `RUN/checkpoints/step-XXXXXXXXX.safetensors`, list it, and drop all but the last `keep`.

    The order of the writes leaves a valid checkpoint at any moment: file, manifest, and only then removals.
    Tensors that share memory (tied weights, modules of two objectives) are stored once.

    Raises:
        RunError: if the file system refuses, for instance because the disk is full.
    """
    folder = run / FOLDER
    path = folder / f"step-{step:09d}.safetensors"
    payload = _to_bytes(tensors, state)
    entry = {"file": path.name, "step": step, "bytes": len(payload), "sha256": sha256(payload).hexdigest()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        listed, _ = _read_manifest(folder)
        kept = [*(old for old in listed if old["file"] != path.name), entry][-keep:]
        write_atomically(path, payload)
        write_atomically(folder / MANIFEST, (json.dumps({"checkpoints": kept}, indent=2) + "\n").encode())
        names = {old["file"] for old in kept} | {MANIFEST}
        for leftover in folder.iterdir():  # what is no longer listed, and temporary files of a killed run
            if leftover.name not in names and leftover.name.lstrip(".").startswith(("step-", MANIFEST)):
                leftover.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"The checkpoint of step {step} could not be written to {folder} ({error.strerror or error}): "
            "make room and continue with --resume; the last good checkpoint is untouched."
        ) from error
    return path


def has_checkpoints(run: Path) -> bool:
    """Whether `run` was trained in before."""
    return (run / FOLDER / MANIFEST).exists()


def load_checkpoint(run: Path) -> Checkpoint:
    """The newest valid checkpoint of `run`; the log names each newer one that is skipped, and why.

    Raises:
        InputError: if there is none.
    """
    folder = run / FOLDER
    entries, wrong = _read_manifest(folder)
    if wrong:
        manifest = f"{folder / MANIFEST} does not list the checkpoints ({wrong})"
        raise InputError(f"{manifest}: start the run without resume, in a new folder.")
    skipped = []
    for entry in reversed(entries):
        read = _read(folder / entry["file"], entry)
        if isinstance(read, Checkpoint):
            return read
        skipped.append(f"{entry['file']} {read}")
        logging.getLogger(__name__).warning("Skipped checkpoint %s of %s: it %s.", entry["file"], run, read)
    reasons = f" ({'; '.join(skipped)})" if skipped else ""
    raise InputError(f"No valid checkpoint in {folder}{reasons}: start the run again, in another folder.")


def load_weights(run: Path | str, module: nn.Module) -> int:
    """Load what a run learned into `module`, an objective or a part of one such as its model.

    From the newest valid checkpoint: of a stage that is still running, the best or averaged weights if it
    keeps such, as at the end of the stage. Returns the step.

    Raises:
        InputError: if there is no valid checkpoint, or none of its objectives holds such a module.
    """
    checkpoint = load_checkpoint(Path(run))
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
    meta = {"format": FORMAT, "aliases": aliases, "state": state}
    return save(stored, metadata={"flowprior": json.dumps(meta)})


def _read(path: Path, entry: Mapping[str, Any]) -> Checkpoint | str:
    """The checkpoint at `path`, or what is wrong with it."""
    from safetensors.torch import load

    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if len(payload) != entry["bytes"]:
        return f"is truncated: {len(payload)} of {entry['bytes']} bytes"
    if sha256(payload).hexdigest() != entry["sha256"]:
        return f"does not match its checksum in {MANIFEST}: at least one bit has flipped"
    length = int.from_bytes(payload[:8], "little")
    meta = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["flowprior"])
    if meta["format"] != FORMAT:
        return f"has format {meta['format']}, and this version reads format {FORMAT}"
    tensors = load(payload)
    tensors |= {name: tensors[target] for name, target in meta["aliases"].items()}
    return Checkpoint(tensors, meta["state"], path)


def _read_manifest(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The entries of the manifest, oldest first, and what is wrong with it, if anything."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["checkpoints"]
        return [{name: kind(entry[name]) for name, kind in ENTRY.items()} for entry in entries], ""
    except FileNotFoundError:
        return [], "there is none yet"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], f"it is damaged: {error}"
