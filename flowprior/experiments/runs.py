"""Run folders: what is in one, and its report.json."""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from flowprior.errors import InputError
from flowprior.files import json_of, remove_leftovers, write_json
from flowprior.locks import LOCK, REPORT_LOCK, locked
from flowprior.training.checkpoint import has_checkpoints
from flowprior.training.manifest import FOLDER

CONFIG, REPORT, METRICS, FIGURES = "config.gin", "report.json", "metrics.csv", "figures"
PRIOR = "config.json"
HEAD = "# Every setting of a run; `flowprior train` with this file repeats it.\n"  # begins a run's config.gin
LOGS = (METRICS, "tensorboard")
OWN = (FOLDER, *LOGS, REPORT, "report.html", "samples.png", "reconstructions.png", FIGURES, CONFIG)
"""All that a run makes in its folder."""


def config_of(folder: Path) -> Path:
    """The config of a run folder; if `folder` is none, an `InputError`."""
    path = folder / CONFIG
    if not path.is_file():
        kind = "has no config.gin" if folder.is_dir() else "does not exist"
        raise InputError(f"'{folder}' {kind}: give the folder of a run, as `flowprior train` made it.")
    return path


def is_prior(folder: Path) -> bool:
    """Whether `folder` holds a fitted prior, as `flowprior fit` and `save_pretrained` write it."""
    return (folder / PRIOR).is_file()


def is_begun(folder: Path) -> bool:
    """Whether `folder` holds more than a run leaves that is killed before its first checkpoint."""
    if not folder.is_dir():
        return False
    own = _is_ours(folder / CONFIG)
    passing = {LOCK, REPORT_LOCK, *((CONFIG, FOLDER, *LOGS) if own else ())}
    for path in folder.iterdir():
        empty = path.name in OWN and path.is_dir() and all(map(_is_temporary, path.iterdir()))
        if path.name not in passing and not _is_temporary(path) and not empty:
            return True
    return has_checkpoints(folder)


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".tmp"


def _is_ours(config: Path) -> bool:
    """Whether a run has written this config, rather than a person."""
    with suppress(OSError, UnicodeDecodeError):
        return config.read_text(encoding="utf-8").startswith(HEAD)
    return False


def is_run(folder: Path) -> bool:
    """Whether a run was trained in `folder`, at least in part."""
    return (folder / CONFIG).is_file() or has_checkpoints(folder)


def clear_run(folder: Path) -> None:
    """Remove all that a run makes in its folder, the config last; what else is there stays."""
    for name in OWN:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def name_skipped() -> None:
    """Have the checkpoints that are skipped named on stderr."""
    logging.basicConfig(format="flowprior: %(message)s")


def read_report(folder: Path) -> dict[str, Any]:
    """The report of the run or prior in `folder`, empty where there is none yet.

    Raises:
        InputError: if it is damaged, or not what was written: its checksum tells (older reports have none).
    """
    path = folder / REPORT
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): move it away, and a new one is written."
        ) from None
    if not isinstance(report, dict):
        raise InputError(f"{path} must hold a JSON object: move it away, and a new one is written.")
    own = report.pop("sha256", None)
    if own is not None and own != _checksum(report):
        changed = f"{path} is not what was written (its checksum does not match)"
        raise InputError(f"{changed}: move it away, and a new one is written.")
    return report


def _checksum(report: Mapping[str, Any]) -> str:
    try:
        return sha256(json_of(report).encode()).hexdigest()
    except (ValueError, RecursionError):
        return ""


def update_report(folder: Path, **entries: Any) -> dict[str, Any]:
    """The report with `entries` put in, mappings merged one level deep; the file is replaced in one step.

    Of several processes that update it, one waits for the other.
    """
    with locked(folder, REPORT_LOCK, wait=True):
        remove_leftovers(folder)
        report = read_report(folder)
        for name, value in entries.items():
            old = report.get(name)
            merged = isinstance(old, dict) and isinstance(value, Mapping)
            report[name] = {**old, **value} if merged else value  # type: ignore[dict-item]
        write_json(folder / REPORT, report | {"sha256": _checksum(report)})
    return report
