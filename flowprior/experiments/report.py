"""What reports share: the machine, the versions of the libraries, tables as text."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("flowprior", "torch", "torchvision", "nflows", "pyro-ppl", "gin-config", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """The versions of Python and the libraries."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a bare checkout
            numbers[package] = "unknown"
    numbers["torch"] = torch.__version__  # says for which accelerator it was built
    return numbers


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


def table(rows: Mapping[str, Any], heads: Sequence[str] = ("metric", "value")) -> str:
    """A small table of names and numbers for the terminal.

    >>> print(table({"nll": 12.345678, "samples": 100}))
    metric   value
    nll      12.35
    samples  100
    """
    cells = [tuple(heads)]
    cells += [
        (key, f"{value:.4g}" if isinstance(value, float) else str(value)) for key, value in rows.items()
    ]
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
