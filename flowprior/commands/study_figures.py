"""The figures of a study, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowprior.training.experiment import Experiment


@dataclass(frozen=True)
class StudyRuns:
    rows: tuple[str, ...]
    twins: tuple[tuple[str, str], ...]
    restore: Callable[[str], Experiment]
    reports: Callable[[str], list[dict[str, Any]]]


def check(names: Sequence[str]) -> None: ...


def draw(runs: StudyRuns, names: Sequence[str], folder: Path) -> list[Path]:
    return []
