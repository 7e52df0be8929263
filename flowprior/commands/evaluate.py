"""`flowprior eval`: measure a run, print a table, update its report."""

from pathlib import Path
from typing import Any

from flowprior.evaluation import check_metrics, measure
from flowprior.experiments import report
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.runs import REPORT, read_report, update_report
from flowprior.experiments.unchanged import restore


def run(
    experiment: Experiment, folder: Path, *, metrics: str, device: str = "auto", **options: Any
) -> dict[str, float]:
    """Measure the run in `folder`; returns the values by name.

    `metrics` has commas between the names; the options are as for `measure`.

    Raises:
        InputError: on an unknown metric, missing data or weights, or no valid checkpoint.
    """
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    check_metrics(names, experiment.source, experiment.model)
    read_report(folder)  # a damaged report is said before the work, not after it
    restore(experiment.model, folder, device)
    measured = measure(experiment.model, experiment.source, names, **options)
    update_report(folder, metrics=measured.values, metric_facts=measured.facts)
    print(report.table(measured.values))
    for name, facts in measured.facts.items():
        for note in facts.get("notes", ()):
            print(f"note on {name}: {note}")
    print(f"in {folder / REPORT}")
    return measured.values
