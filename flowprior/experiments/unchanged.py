"""Whether a run's config and report are still what its checkpoints were trained under."""

import inspect
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from flowprior.errors import InputError
from flowprior.experiments.bindings import Binding
from flowprior.experiments.builders import buildable
from flowprior.experiments.config import read, spoken
from flowprior.experiments.runs import CONFIG, REPORT, config_of, name_skipped, read_report
from flowprior.models import Autoencoder
from flowprior.training.checkpoint import Checkpoint, load_checkpoint, put_weights
from flowprior.training.engine import resolve_device

FREE = ("experiment.steps", "experiment.metrics", "Source.root", "Source.folder")  # may differ on resuming


def config_hash(bindings: Iterable[Binding]) -> str:
    """SHA-256 of the settings of an operative config; comments, order and what is `FREE` do not count."""
    settings = {binding.key: binding.value for binding in bindings if binding.key not in FREE}
    lines = (f"{key} = {value!r}\n" for key, value in sorted(settings.items()))
    return sha256("".join(lines).encode()).hexdigest()


def notes(text: str) -> dict[str, Any]:
    """What the checkpoints of a run carry of its config."""
    return {"config": text, "config_sha256": config_hash(spoken([text]))}


def changed_since(folder: Path, checkpoint: Checkpoint) -> list[str]:
    """The settings in RUN/config.gin that are not those of the checkpoint, each with both values.

    Checkpoints of older versions do not carry their config: nothing is known to have changed then.
    """
    carried = checkpoint.state.get("notes", {})
    now = read(config_of(folder))
    if "config" not in carried or carried["config_sha256"] == config_hash(now):
        return []
    return _differences(spoken([carried["config"]]), now)


def _differences(before: Sequence[Binding], after: Sequence[Binding]) -> list[str]:
    """A setting that is missing on one side has its default there, as it does for older configs."""
    old, new = ({binding.key: binding for binding in side} for side in (before, after))
    table, found = buildable(), []

    def value(side: dict[str, Binding], key: str) -> str:
        if key in side:
            return repr(side[key].value)
        binding = (old | new)[key]
        parameters = inspect.signature(table[binding.target]).parameters if binding.target in table else {}
        default = parameters[binding.parameter].default if binding.parameter in parameters else "nothing"
        return repr(default)

    for key in dict.fromkeys([*new, *old]):
        was, now = value(old, key), value(new, key)
        if key not in FREE and was != now:
            found.append(f"`{key} = {now}`, there {was}")
    return found


def check_report(folder: Path) -> dict[str, Any]:
    """The report of a run, as `read_report`; an `InputError` if it was written under another config."""
    report, path = read_report(folder), folder / CONFIG
    if "config_sha256" in report and path.is_file() and report["config_sha256"] != config_hash(read(path)):
        other = f"{folder / REPORT} was written under another config than {path}"
        raise InputError(f"{other}: `flowprior repair {folder}` sets right what it can.")
    return report


def restore(model: Autoencoder, folder: Path, device: str) -> torch.device:
    """Give `model` the run's weights and move it, for evaluation, to `device`.

    Raises:
        InputError: without a valid checkpoint, or if RUN/config.gin is not the config of the newest one.
    """
    name_skipped()
    checkpoint = load_checkpoint(folder)
    if changed := changed_since(folder, checkpoint):
        differs = f"{folder / CONFIG} is not the config of {checkpoint.path.name} ({'; '.join(changed)})"
        raise InputError(f"{differs}: `flowprior repair {folder}` puts that back.")
    put_weights(checkpoint, model)
    model.eval().requires_grad_(False)
    resolved = resolve_device(device)
    model.to(resolved)
    return resolved
