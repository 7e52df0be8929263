"""What the benchmark scripts share: rows in, one JSON file and a Markdown table out."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from flowprior.experiments import report
from flowprior.experiments.comparison import cell


def write(path: Path, rows: Sequence[Mapping[str, Any]], *, command: str, **facts: Any) -> None:
    """The results file: the command that repeats it, machine, versions, date, and the rows."""
    content = {
        "command": command,
        "date": date.today().isoformat(),
        "machine": report.machine(),
        "versions": report.versions(),
        **facts,
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def markdown(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """A table of the rows' means, with ± one standard deviation where there are several values."""
    cells = [[row["name"], *(cell(row["metrics"].get(metric)) for metric in metrics)] for row in rows]
    return "\n".join(report.markdown(["", *metrics], cells))
