"""Measure a model by name: the machine that reads the records of the metrics."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation.context import Diverged, Evaluation, Facts, Result, Values
from flowprior.evaluation.needs import make_ready
from flowprior.models import Autoencoder
from flowprior.registry import METRICS, Metric


@dataclass(frozen=True)
class Measured:
    """Values by name, and by metric what they depend on."""

    values: Values = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)


def measure(
    model: Autoencoder, source: Source, names: Sequence[str], *, count: int = 10_000,
    weights: Path | None = None, download: bool = False, seed: int = 0, importance_samples: int = 1000,
) -> Measured:  # fmt: skip
    """The metrics `names` of `model`, which is in evaluation mode; `describe_metrics` says what there is.

    What a metric needs is checked, and its networks are made, before any of them is measured. Each has its
    own random state, from `seed`. Samples that are not finite are left out with a note; where they are many,
    or a density is not finite, the metric has its worst value. Other arguments are as for `Evaluation`.

    Raises:
        InputError: on an unknown name, one that does not suit the data or the model, or missing weights.
    """
    evaluation = Evaluation(model, source, count, weights, download, seed, importance_samples)
    measured = Measured()
    with torch.random.fork_rng(), torch.no_grad():
        make_ready(evaluation, names)
        for name in dict.fromkeys(names):
            values, measured.facts[name] = _measured(METRICS[name], evaluation)
            measured.values.update(values)
    return measured


def prepare(model: Autoencoder, source: Source, names: Sequence[str], **options: Any) -> None:
    """Check metrics, read the data and make their networks, so that what is missing is said now.

    Arguments as for `measure`, and raises as it does.
    """
    make_ready(Evaluation(model, source, **options), names)


def higher_is_better(value: str) -> bool:
    """Whether a value that a metric returns is better when higher; an unknown one counts as a loss."""
    records = (record for record in METRICS.values() if value in (record.name, *record.values))
    return any(record.direction(value) == "higher" for record in records)


def describe_metrics() -> str:
    """A table of all metrics: name, better direction, unit, needs, and what is measured."""
    rows = [("metric", "better", "unit", "needs", "measures")]
    for each in METRICS.values():
        needs = ", ".join((*each.needs, *each.data))
        rows.append((each.name, each.better, each.unit, needs, each.summary))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _measured(record: Metric, evaluation: Evaluation) -> Result:
    """Values and facts of one metric; what is wrong with the prior is measured, not hidden."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(evaluation.seed)
        try:
            values, facts = record.function(evaluation)
        except InputError as error:
            if record.undefined == "raise" and not isinstance(error, Diverged):
                raise
            worst = record.values if record.undefined == "worst" else (record.name,)
            values, facts = {value: record.worst(value) for value in worst}, {"notes": [str(error)]}
    if undeclared := values.keys() - {record.name, *record.values}:
        wrong = f"The metric '{record.name}' returned '{min(undeclared)}'"
        raise InputError(f"{wrong}: name it in `values` of its decorator.")
    notes = sorted({str(warning.message) for warning in caught}) + facts.get("notes", [])
    return values, {"unit": record.unit} | facts | ({"notes": notes} if notes else {})
