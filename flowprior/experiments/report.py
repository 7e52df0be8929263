"""RUN/report.json: what a run did, with what, where, and how well."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from flowprior.errors import InputError
from flowprior.files import write_json

PACKAGES = ("flowprior", "torch", "torchvision", "nflows", "pyro-ppl", "gin-config", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Python's and the libraries' versions."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a bare checkout
            found[package] = "unknown"
    found["torch"] = torch.__version__  # says for which accelerator it was built
    return found


def machine() -> dict[str, Any]:
    """The processor, the cores and threads that were used, and the GPU, if any."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def read(path: Path) -> dict[str, Any]:
    """The report at `path`, empty where there is none yet.

    Raises:
        InputError: if the file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): move it away, and it is written anew."
        ) from None
    if not isinstance(report, dict):
        raise InputError(f"{path} must hold a JSON object: move it away, and it is written anew.")
    return report


def update(path: Path, **entries: Any) -> dict[str, Any]:
    """The report with `entries` put in, mappings merged one level deep; the file is replaced in one step."""
    report = read(path)
    for name, value in entries.items():
        old = report.get(name)
        report[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, Mapping) else value
    write_json(path, report)
    return report


def table(rows: Mapping[str, Any], heads: Sequence[str] = ("metric", "value")) -> str:
    """A small table of names and numbers for the terminal.

    >>> print(table({"nll": 12.345678, "samples": 100}))
    metric   value
    nll      12.35
    samples  100
    """
    cells = [tuple(heads)] + [(name, _spell(value)) for name, value in rows.items()]
    width = max(len(name) for name, _ in cells)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in cells)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table whose columns line up in a terminal, too.

    >>> print(*markdown(["row", "nll"], [["vae", "12.35"]]), sep="\\n")
    | row | nll   |
    | --- | ----- |
    | vae | 12.35 |
    """
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "| " + " | ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)) + " |"
        for row in (heads, ["-" * width for width in widths], *rows)
    ]


def _spell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
