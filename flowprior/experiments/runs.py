"""Run folders: what is in one, its report.json, and the weights of its newest valid checkpoint."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowprior.errors import InputError
from flowprior.files import write_json
from flowprior.models import Autoencoder
from flowprior.training.checkpoint import load_weights
from flowprior.training.engine import resolve_device

CONFIG, REPORT, METRICS, FIGURES = "config.gin", "report.json", "metrics.csv", "figures"
PRIOR = "config.json"


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


def restore(model: Autoencoder, folder: Path, device: str) -> torch.device:
    """Give `model` the run's weights and move it, for evaluation, to `device`; InputError without."""
    logging.basicConfig(format="flowprior: %(message)s")  # a skipped checkpoint is named on stderr
    load_weights(folder, model)
    model.eval().requires_grad_(False)
    resolved = resolve_device(device)
    model.to(resolved)
    return resolved


def read_report(folder: Path) -> dict[str, Any]:
    """The report of the run or prior in `folder`, empty where there is none yet; else an `InputError`."""
    path = folder / REPORT
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): move it away, and a new one is written."
        ) from None
    if not isinstance(report, dict):
        raise InputError(f"{path} must hold a JSON object: move it away, and a new one is written.")
    return report


def update_report(folder: Path, **entries: Any) -> dict[str, Any]:
    """The report with `entries` put in, mappings merged one level deep; the file is replaced in one step."""
    report = read_report(folder)
    for name, value in entries.items():
        old = report.get(name)
        report[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
    write_json(folder / REPORT, report)
    return report
