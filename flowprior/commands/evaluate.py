"""`flowprior eval`: measure a run, print a table, update its report."""

from pathlib import Path

from flowprior.evaluation.measure import check_metrics, measure
from flowprior.experiments import report
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.runs import REPORT, read_report, restore, update_report


def run(
    experiment: Experiment,
    folder: Path,
    *,
    metrics: str,
    count: int = 10_000,
    weights: Path | None = None,
    download: bool = False,
    seed: int = 0,
    device: str = "auto",
    importance_samples: int = 1000,
) -> dict[str, float]:
    """Measure the run in `folder`; returns the values by metric.

    Args:
        experiment: built from the run's config.
        metrics: names with commas between them.
        count: samples for the distances.
        weights: folder of the feature networks' weights; by default FLOWPRIOR_WEIGHTS.
        download: whether missing Inception weights may be downloaded.
        seed: of the samples.
        device: where.
        importance_samples: draws for each test example of iw_nll.

    Raises:
        InputError: on an unknown metric, missing data or weights, or no valid checkpoint.
    """
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    check_metrics(names, experiment.source)
    read_report(folder)  # a damaged report is said before the work, not after it
    restore(experiment.model, folder, device)
    found = measure(
        experiment.model,
        experiment.source,
        names,
        count=count,
        weights=weights,
        download=download,
        seed=seed,
        importance_samples=importance_samples,
    )
    update_report(folder, metrics=found.values, metric_facts=found.facts)
    print(report.table(found.values))
    for name, facts in found.facts.items():
        for note in facts.get("notes", ()):
            print(f"note on {name}: {note}")
    print(f"in {folder / REPORT}")
    return found.values
