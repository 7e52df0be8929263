"""The table of a study: its rows over the seeds that are done, the paper's figures, the directions."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from flowprior.evaluation import higher_is_better
from flowprior.experiments import report
from flowprior.experiments.runs import read_report
from flowprior.experiments.study import Study
from flowprior.metrics.summary import summary

Table = dict[str, Any]
NOT_OF_PRIORS = (
    "reconstruction",
    "_aggregate",
    "_floor",
    "_critic",
)  # of codes and decoder: no order is claimed
CRITICS, PLUG_IN = "total_correlation_critic", "total_correlation_z"
"""The total correlation that FactorVAE's critic sees in the last epoch, and the plug-in value beside it."""
VERDICTS = {True: "yes", False: "NO", None: "undecided"}
SIBLINGS = {"lp_fd_": "lp_fid", "fd_": "fid", "skl_density": "skl"}  # ours that stand beside a paper's metric


@dataclass(frozen=True)
class Comparison:
    """The rows of a study that are done, read from their reports.

    Args:
        study: its rows, metrics and figures.
        name, size: of the study; "" where it has one size only.
        folder: the runs lie in `folder`/ROW/seedK.
        seeds: 0, 1, ... of each row.
        command: what repeats the study.
    """

    study: Study
    name: str
    size: str
    folder: Path
    seeds: int
    command: str = ""

    def run(self, row: str, seed: int) -> Path:
        """The folder of one run."""
        return self.folder / row / f"seed{seed}"

    def reports(self, row: str) -> list[dict[str, Any]]:
        """The reports of a row's finished and measured runs, by seed."""
        return list(self._reports(row).values())

    def _reports(self, row: str) -> dict[int, dict[str, Any]]:
        found = {seed: read_report(self.run(row, seed)) for seed in range(self.seeds)}
        wanted = set(self.study.metrics_of(row))
        done = {seed: content for seed, content in found.items() if content.get("finished")}
        return {seed: each for seed, each in done.items() if wanted <= set(each.get("metric_facts", {}))}

    def table(self) -> Table:
        """What goes to table.json: the rows, which direction holds, and where it was measured."""
        rows = [row for name in self.study.names if (row := self._row(name)) is not None]
        return {
            "study": self.name,
            "size": self.size,
            "rows": rows,
            "directions": list(self._directions({row["name"]: row for row in rows})),
            "command": self.command,
            "date": date.today().isoformat(),
            "machine": report.machine(),
            "versions": report.versions(),
        }

    def _row(self, name: str) -> Table | None:
        reports = self._reports(name)
        if not reports:
            return None
        every = list(reports.values())
        values = [each["metrics"] | _seen_by_critic(each) for each in every]
        metrics = [key for key in values[0] if all(key in each for each in values)]
        return {
            "name": name,
            "settings": dict(
                re.split(r"\s*=\s*", each.strip(), maxsplit=1) for each in self.study.bindings(name)
            ),
            "seeds": list(reports),
            "metrics": {key: summary([each[key] for each in values]) for key in metrics},
            "paper": dict(self.study.paper.get(name, {})),
            "seconds": [each["wall_time_seconds"] for each in every],
            "parameters": every[0]["parameters"],
        }

    def _directions(self, rows: Mapping[str, Table]) -> Iterable[Table]:
        """For each pair of neighbors in `orders` and each metric: does the better row do better?"""
        for a, b in ((rows[a], rows[b]) for a, b in self.study.twins if a in rows and b in rows):
            for metric in a["metrics"]:
                x, y = a["metrics"][metric], b["metrics"].get(metric)
                if y is None or metric.endswith(NOT_OF_PRIORS):
                    continue
                sign = -1 if higher_is_better(metric) else 1
                theirs = dict(zip(b["seeds"], y["values"], strict=True))
                by_seed = zip(a["seeds"], x["values"], strict=True)
                gains = [sign * (value - theirs[seed]) for seed, value in by_seed if seed in theirs]
                known = [side["paper"].get(papers_name(metric)) for side in (a, b)]
                paper = None if None in known else known
                yield {
                    "from": a["name"],
                    "to": b["name"],
                    "metric": metric,
                    "means": [x["mean"], y["mean"]],
                    "better_seeds": sum(gain > 0 for gain in gains),
                    "seeds": len(gains),
                    "standard_error": standard_error(gains),
                    "holds": verdict(gains),
                    "paper": paper,
                    "paper_holds": paper and sign * paper[1] < sign * paper[0],
                }

    def markdown(self, table: Table) -> str:
        """The table and the directions, for people."""
        rows = table["rows"]
        seeds = max((len(row["seeds"]) for row in rows), default=0)
        title = f"# {self.name}" + (f", size {self.size}" if self.size else "")
        spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
        lines = [title, "", f"`{self.command}`: {spread}, {table['date']}, {table['machine']['cpu']}", ""]
        ours = list(dict.fromkeys(key for row in rows for key in row["metrics"]))
        papers = list(dict.fromkeys(key for row in rows for key in row["paper"]))
        lines += report.markdown(
            ["row", *ours, *(f"paper: {key}" for key in papers)],
            [
                [row["name"]]
                + [cell(row["metrics"].get(key)) for key in ours]
                + [f"{row['paper'][key]:g}" if key in row["paper"] else "-" for key in papers]
                for row in rows
            ],
        )
        lines += [f"\n{note}" for row in rows for note in _notes(row)]
        if table["directions"]:
            heading = (
                "Which direction holds (the second row of a pair is said to be the better one; undecided "
                "unless all seeds agree and the difference exceeds its standard error):"
            )
            lines += ["", heading, ""]
            lines += report.markdown(
                ["pair", "metric", "ours", "seeds", "holds", "paper", "paper holds"],
                [
                    [
                        f"{one['from']} → {one['to']}",
                        one["metric"],
                        " → ".join(_number(mean) for mean in one["means"]),
                        f"{one['better_seeds']} of {one['seeds']}",
                        VERDICTS[one["holds"]],
                        " → ".join(f"{value:g}" for value in one["paper"] or ()) or "-",
                        "-" if one["paper"] is None else VERDICTS[one["paper_holds"]],
                    ]
                    for one in table["directions"]
                ],
            )
        return "\n".join(lines) + "\n"


def _seen_by_critic(content: Mapping[str, Any]) -> dict[str, float]:
    """{CRITICS: ...} of a report of FactorVAE, else nothing."""
    seen = content.get("last_epoch", {}).get("train/model/total_correlation")
    return {} if seen is None else {CRITICS: seen}


def _notes(row: Table) -> Iterable[str]:
    """Where the critic of FactorVAE sees less than half of the total correlation."""
    known = [row["metrics"][name]["mean"] for name in (CRITICS, PLUG_IN) if name in row["metrics"]]
    if len(known) == 2 and known[0] < known[1] / 2:
        seen, there = map(_number, known)
        yield f"{row['name']}: the critic sees {seen} nats of a total correlation of {there}, less than half."


def papers_name(metric: str) -> str:
    """The paper's metric that ours stands beside: a distance on other features beside its FID.

    >>> papers_name("lp_fd_classifier"), papers_name("iw_nll")
    ('lp_fid', 'iw_nll')
    """
    return next((name for start, name in SIBLINGS.items() if metric.startswith(start)), metric)


def standard_error(gains: Sequence[float]) -> float | None:
    """That of the mean of finite differences; None for fewer than two."""
    if len(gains) < 2 or not all(map(math.isfinite, gains)):
        return None
    return statistics.stdev(gains) / math.sqrt(len(gains))


def verdict(gains: Sequence[float]) -> bool | None:
    """Whether a row does better than another, from its gains seed by seed; None: undecided.

    It is decided where all seeds agree and the mean gain exceeds its standard error; one seed decides
    nothing.

    >>> verdict([1.0, 1.2, 0.9]), verdict([-1.0, -1.2]), verdict([1.0, -0.1, 0.5]), verdict([1.0])
    (True, False, None, None)
    """
    signs, error = {gain > 0 for gain in gains}, standard_error(gains)
    if len(gains) < 2 or len(signs) > 1 or 0 in gains:
        return None
    if error is not None and abs(statistics.fmean(gains)) <= error:
        return None
    return signs.pop()


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "inf"


def cell(value: Mapping[str, Any] | None) -> str:
    """A `summary` as text: the mean, with ± one standard deviation where there are several values."""
    if value is None:
        return "-"
    spread = "" if value["std"] is None else f" ± {value['std']:.2g}"
    return _number(value["mean"]) + spread
