"""What the benchmark scripts share: rows in, one JSON file and a Markdown table out."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from flowprior.commands import report


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
    lines = ["| | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for row in rows:
        cells = [_cell(row["metrics"].get(metric)) for metric in metrics]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    spread = f" ± {value['std']:.2g}" if len(value["values"]) > 1 else ""
    return f"{value['mean']:.4g}{spread}"
