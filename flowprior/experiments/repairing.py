"""Putting a damaged run folder in order, from what its checkpoints carry."""

from pathlib import Path

from flowprior.errors import InputError
from flowprior.experiments.runs import CONFIG, FIGURES, REPORT, read_report
from flowprior.experiments.unchanged import changed_since
from flowprior.files import remove_leftovers, write_atomically
from flowprior.locks import locked
from flowprior.training.checkpoint import has_checkpoints, list_checkpoints, load_checkpoint
from flowprior.training.manifest import MANIFEST


def repair(folder: Path) -> list[str]:
    """List the checkpoints that are valid, put back the config, set aside a damaged report.

    Nothing is removed but temporary files. Returns a sentence for each thing that was found.

    Raises:
        InputError: if the folder holds no valid checkpoint, or a process writes to it.
    """
    if not has_checkpoints(folder):
        raise InputError(f"There is no checkpoint in '{folder}': give the folder of a run.")
    with locked(folder):
        for place in (folder, folder / FIGURES):
            remove_leftovers(place)
        listed, left = list_checkpoints(folder)
        said = [f"{MANIFEST} lists {', '.join(listed)}", *(f"left out: {each}" for each in left)]
        return [*said, *_config(folder), *_report(folder)]


def _config(folder: Path) -> list[str]:
    checkpoint, path = load_checkpoint(folder), folder / CONFIG
    text = checkpoint.state.get("notes", {}).get("config")
    if text is None:
        older = f"{checkpoint.path.name}, of an older version, does not hold the config"
        return [] if path.is_file() else [f"{CONFIG} is missing, and {older}: train again, or put it back"]
    try:
        if path.is_file() and not changed_since(folder, checkpoint):
            return []
    except InputError:  # it is no config any more
        pass
    said = f"{CONFIG} is again that of {checkpoint.path.name}"
    if path.exists():
        said += f"; what was there is {_aside(path).name}"
    write_atomically(path, text.encode())
    return [said]


def _report(folder: Path) -> list[str]:
    try:
        read_report(folder)
    except InputError as error:
        aside = _aside(folder / REPORT).name
        return [f"{error} It is {aside} now; `flowprior train {folder / CONFIG} --resume` writes a new one"]
    return []


def _aside(path: Path) -> Path:
    """Rename a file to NAME.damaged-K.ENDING."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)
    return aside
