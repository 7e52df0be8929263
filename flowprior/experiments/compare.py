"""The runs of a study: which are missing, run in one process or several, and set beside one another."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

from flowprior.errors import InputError, RunError
from flowprior.evaluation import check_metrics, measure, prepare
from flowprior.experiments.comparison import Comparison, Table
from flowprior.experiments.config import Loaded, load
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.run import check_config, cpu_threads, run_experiment
from flowprior.experiments.runs import CONFIG, read_report, update_report
from flowprior.experiments.study import Study
from flowprior.experiments.unchanged import check_report, restore
from flowprior.experiments.workers import run_all
from flowprior.figures import FigureRun, StudyRuns, check_figures, draw_study
from flowprior.files import remove_leftovers, write_atomically, write_json
from flowprior.locks import locked
from flowprior.training.engine import resolve_device

TABLE, MARKDOWN = "table.json", "table.md"
OF_TRAINING = ("reconstruction",)  # what a run measures by itself; the study's metrics come after it


@dataclass(frozen=True)
class Task:
    """One run of a row."""

    row: str
    seed: int
    folder: Path
    config: str
    bindings: tuple[str, ...]
    plugins: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"

    def load(self) -> Loaded:
        """Its config, built."""
        return load([self.config], self.bindings, self.plugins)


@dataclass(frozen=True)
class Means:
    """What all runs of a study share beside their bindings: arguments of `measure` and `run_experiment`."""

    study: Study
    weights: Path | None
    download: bool
    device: str
    threads: int
    progress: bool

    @property
    def draws(self) -> dict[str, int]:
        return {"samples": self.study.samples, "importance_samples": self.study.importance_samples}

    def missing(self, task: Task) -> list[str]:
        """Metrics that the report of a run lacks, or holds from another number of draws."""
        draws = read_report(task.folder).get("draws", {})
        return [name for name in self.study.metrics_of(task.row) if draws.get(name) != self.draws]


def run_study(
    comparison: Comparison,
    *,
    config: str,
    bindings: Sequence[str] = (),
    plugins: Sequence[str] = (),
    jobs: int | None = None,
    rows: Sequence[str] = (),
    weights: Path | None = None,
    download: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Table:
    """Train and measure what is missing of a study, write table and figures; returns the table.

    A finished run is kept, an interrupted one continues, and only the metrics that its report lacks are
    measured. The table is written again after every run.

    Args:
        comparison: the study, the folder of its runs, and how many seeds each row has.
        config: the study's own config, a shipped name or a path.
        bindings, plugins: for all rows, as for `load`.
        jobs: runs at a time, each with its share of the cores; by default one on a GPU, else one a core.
        rows: only these; by default all.
        weights, download, device: as for `measure` and `train`.

    Raises:
        InputError: on an unknown row, metric or figure, missing data or weights, or a run folder that holds a
            run under another config, or if another process writes to the folder; nothing is trained then.
        RunError: after all other runs, if some of them failed.
    """
    check_figures(comparison.study.figures, of="study")
    tasks = list(_tasks(comparison, rows, config, bindings, plugins))
    resolved = resolve_device(device)
    means = Means(comparison.study, weights, download, device, 1, False)
    with locked(comparison.folder):
        remove_leftovers(comparison.folder)
        for row, seed in product(comparison.study.names, range(comparison.seeds)):
            check_report(comparison.run(row, seed))
        open_tasks, experiments = _survey(tasks, means)
        for experiment, names in experiments:
            prepare(
                experiment.model.to(resolved), experiment.source, names, weights=weights, download=download
            )
        cores = os.cpu_count() or 1
        jobs = max(1, min(jobs or (1 if resolved.type == "cuda" else cores), len(open_tasks)))
        means = replace(means, threads=max(1, cores // jobs), progress=progress and jobs == 1)
        failed = _train(open_tasks, means, jobs, comparison)
        table = _write(comparison, tasks, device)
    if failed:
        said = f"{len(failed)} of {len(tasks)} runs failed ({', '.join(failed)}): their logs say why."
        raise RunError(said)
    return table


def _tasks(
    comparison: Comparison, rows: Sequence[str], config: str, bindings: Sequence[str], plugins: Sequence[str]
) -> Iterator[Task]:
    """The runs of the rows asked for: by full name, by the variant's or by the row's alone."""
    study = comparison.study
    for row in rows:
        if row not in (*study.names, *study.rows, *study.variants):
            raise InputError(f"There is no row '{row}' in this study: there are {', '.join(study.names)}.")
    chosen = [name for name in study.names if not rows or {name, *name.split("/")} & set(rows)]
    for seed, row in product(range(comparison.seeds), chosen):
        own = (f"experiment.seed = {seed}", f"experiment.metrics = {OF_TRAINING!r}")
        given = (*bindings, *study.bindings(row), *own)
        yield Task(row, seed, comparison.run(row, seed), study.config(row, config), given, tuple(plugins))


def _train(tasks: Sequence[Task], means: Means, jobs: int, comparison: Comparison) -> list[str]:
    """Run all tasks and say how each ended; the names of those that failed."""
    failed = []
    with closing(run_all(partial(_run, means=means), tasks, jobs)) as running:
        for number, (task, ended) in enumerate(running, 1):
            said = f"[{number}/{len(tasks)}] {task.name}"
            try:
                values = ended()
            except (InputError, RunError, BrokenProcessPool) as error:
                failed.append(task.name)
                print(f"{said}: {error}", flush=True)
                continue
            print(f"{said}: {', '.join(f'{key} {value:.4g}' for key, value in values.items())}", flush=True)
            write_json(comparison.folder / TABLE, comparison.table())
    return failed


def _survey(
    tasks: Sequence[Task], means: Means
) -> tuple[list[Task], list[tuple[Experiment, tuple[str, ...]]]]:
    """The runs that are not yet trained and measured; for each data set an experiment and its metrics."""
    still: list[Task] = []
    by_source: dict[str, tuple[Experiment, tuple[str, ...]]] = {}
    for task in tasks:
        loaded = task.load()
        if (task.folder / CONFIG).is_file():
            check_config(task.folder, loaded)
            if read_report(task.folder).get("finished") and not means.missing(task):
                continue
        experiment, metrics = loaded.experiment, means.study.metrics_of(task.row)
        check_metrics(metrics, experiment.source, experiment.model)
        by_source.setdefault(f"{experiment.source!r} {metrics}", (experiment, metrics))
        still.append(task)
    return still, list(by_source.values())


def _run(task: Task, means: Means) -> dict[str, float]:
    """Train and measure one run, as far as that is missing; what it would print goes to its log."""
    loaded, study = task.load(), means.study
    threads = loaded.setup.threads or means.threads
    log = task.folder.parent / f"{task.folder.name}.log"
    with (
        locked(task.folder),
        log.open("a", encoding="utf-8", errors="backslashreplace") as lines,
        redirect_stdout(lines),
        cpu_threads(threads),
    ):
        if not read_report(task.folder).get("finished"):
            run_experiment(
                loaded,
                folder=task.folder,
                resume=True,
                threads=threads,
                device=means.device,
                progress=means.progress,
            )
        experiment, names = loaded.experiment, means.missing(task)
        restore(experiment.model, task.folder, means.device)
        measured = measure(
            experiment.model,
            experiment.source,
            names,
            count=study.samples,
            weights=means.weights,
            download=means.download,
            seed=task.seed,
            importance_samples=study.importance_samples,
        )
        draws = dict.fromkeys(names, means.draws)
        update_report(task.folder, metrics=measured.values, metric_facts=measured.facts, draws=draws)
    return measured.values


def _write(comparison: Comparison, tasks: Sequence[Task], device: str) -> Table:
    """The table as JSON and Markdown, and the study's figures."""
    folder, study = comparison.folder, comparison.study
    table = comparison.table()
    write_json(folder / TABLE, table)
    text = comparison.markdown(table)
    write_atomically(folder / MARKDOWN, text.encode(errors="backslashreplace"))
    print(text)
    first = {row["name"]: row["seeds"][0] for row in table["rows"]}

    def restored(row: str) -> FigureRun:
        (task,) = (task for task in tasks if (task.row, task.seed) == (row, first[row]))
        experiment = task.load().experiment
        restore(experiment.model, task.folder, device)
        return FigureRun(experiment.model, experiment.source, task.folder, experiment.name)

    twins = tuple(pair for pair in study.twins if set(pair) <= set(first))
    runs = StudyRuns(tuple(first), twins, cache(restored), comparison.reports, study.sweeps)
    print(folder / TABLE, folder / MARKDOWN, *draw_study(runs, study.figures, folder), sep="\n")
    return table
