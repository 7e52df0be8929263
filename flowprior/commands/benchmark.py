"""`flowprior benchmark`: what a flow costs over sizes, backends, precisions and compilers."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from flowprior.bijectors.build import BACKENDS
from flowprior.checks import check_count, check_one_of
from flowprior.errors import InputError
from flowprior.evaluation import costs
from flowprior.experiments import report
from flowprior.experiments.run import cpu_threads
from flowprior.figures import save
from flowprior.figures.costs import cost_panels
from flowprior.files import make_folder, write_atomically, write_json
from flowprior.training.engine import resolve_device

LEAST = {"features": 2, "depth": 1, "width": 1, "batch": 1}  # no coupling can split one feature
KNOWN = {"backend": BACKENDS, "precision": costs.PRECISIONS, "compile": costs.COMPILES}
SHOWN = (*LEAST, "operation", "contestant", "precision", "ms", "to_first", "memory")


def run(
    sweep: Mapping[str, Sequence[Any]], *, device: str, threads: int | None, folder: Path, command: str,
    **options: Any,
) -> None:  # fmt: skip
    """Measure all combinations of `sweep`; print a table and write it, as JSON and CSV, and a figure.

    `sweep` holds the values of each of `LEAST` and `KNOWN`, and `command` repeats it; options are
    `seconds`, `least` and `seed` of `costs.measure`.

    Raises:
        InputError: if a value is unknown or out of range, or is not available on the device.
        RunError: if torch.compile fails.
    """
    for name, least in LEAST.items():
        for number in sweep[name]:
            check_count(name, number, least=least)
    for name, known in KNOWN.items():
        for value in sweep[name]:
            check_one_of(name, value, known)
    resolved = resolve_device(device)
    check_one_of("device", resolved.type, ("cpu", "cuda"))
    if resolved.type == "cpu" and "tf32" in sweep["precision"]:
        raise InputError("`precision` (='tf32') needs a GPU: take 'float32' on the CPU.")
    make_folder(folder)
    contestants = partial(costs.flowpriors, backends=sweep["backend"], compiles=sweep["compile"])
    rows: list[costs.Row] = []
    print(_line(SHOWN), "|---" * len(SHOWN) + "|", sep="\n")
    with cpu_threads(threads):
        machine = report.machine()
        for precision, *numbers in product(sweep["precision"], *(sweep[name] for name in LEAST)):
            size = costs.Size(*numbers)
            new = costs.measure(size, contestants, device=str(resolved), precision=precision, **options)
            print(*(_line([row[name] for name in SHOWN]) for row in new), sep="\n", flush=True)
            rows += new
    facts = {"command": command, "date": date.today().isoformat(), "machine": machine, **options}
    facts |= {"versions": report.versions(), "measured": costs.MEASURED, "rows": rows}
    write_json(folder / "benchmark.json", facts)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "benchmark.csv", stream.getvalue().encode())
    save(cost_panels(rows), folder / "costs.png")
    print(f"in {folder}: benchmark.json, benchmark.csv, costs.png")


def _line(values: Sequence[Any]) -> str:
    """A row of a Markdown table."""
    cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
    return f"| {' | '.join(cells)} |"
