"""`flowprior compare`: run or resume the rows of a study, and set them beside one another and the paper."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from flowprior.commands import train
from flowprior.errors import InputError, RunError
from flowprior.evaluation import check_metrics, measure, prepare
from flowprior.experiments import report
from flowprior.experiments.comparison import Comparison
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.runs import CONFIG, REPORT, restore
from flowprior.experiments.study import Study
from flowprior.figures import FigureRun, StudyRuns, check_figures, draw_study
from flowprior.files import make_folder, write_atomically, write_json
from flowprior.training.engine import resolve_device

TABLE, MARKDOWN, LOG = "table.json", "table.md", "log"
OF_TRAINING = ("reconstruction",)  # what a run measures by itself; the study's metrics come after it
Load = Callable[[list[str], list[str]], Any]  # `config.load`, which this layer cannot import


@dataclass(frozen=True)
class Task:
    """One run of a row."""

    row: str
    seed: int
    folder: Path
    config: str
    bindings: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.row}, seed {self.seed}"


@dataclass(frozen=True)
class Means:
    """What all runs of a study share beside their bindings."""

    load: Load
    study: Study
    weights: Path | None
    download: bool
    device: str
    threads: int
    progress: bool


def run(
    study: Study,
    load: Load,
    *,
    name: str,
    size: str = "",
    command: str = "",
    config: str,
    bindings: Sequence[str] = (),
    folder: Path,
    seeds: int = 1,
    jobs: int | None = None,
    rows: Sequence[str] = (),
    weights: Path | None = None,
    download: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Train and measure what is missing in `folder`, write table and figures; returns the table.

    A run lies in `folder`/ROW/seedK: a finished one is kept, an interrupted one goes on, and only the metrics
    that its report lacks are measured. The table is written anew after every run.

    Args:
        study: its rows, metrics and figures.
        load: `config.load`; a module's function, since other processes call it.
        name: of the study, as the table shows it.
        size: "cpu", "paper", or "" where there is one size only.
        command: what repeats the study, for the table.
        config: the study's own config, a shipped name or a path.
        bindings: for all rows.
        folder: of the study.
        seeds: 0, 1, ... of each row.
        jobs: runs at a time, each with its share of the cores; by default one on a GPU, else one a core.
        rows: only these; by default all.
        weights, download, device: as for `measure` and `train`.
        progress: whether progress is shown.

    Raises:
        InputError: on an unknown row, metric or figure, missing data or weights, or a run folder that holds a
            run under another config; nothing is trained then.
        RunError: after all other runs, if some of them failed.
    """
    chosen = _choose(study, rows)
    tasks = [_task(row, seed, study, config, bindings, folder) for seed in range(seeds) for row in chosen]
    check_figures(study.figures, of="study")
    place = resolve_device(device)
    open_tasks, experiments = _survey(tasks, load, study)
    for experiment, metrics in experiments:
        prepare(experiment.model.to(place), experiment.source, metrics, weights=weights, download=download)
    make_folder(folder)
    cores = os.cpu_count() or 1
    jobs = max(1, min(jobs or (1 if place.type == "cuda" else cores), len(open_tasks)))
    means = Means(load, study, weights, download, device, max(1, cores // jobs), progress and jobs == 1)
    comparison = Comparison(study, name, size, folder, seeds, command)
    failed = []
    for number, (task, ended) in enumerate(_run_all(open_tasks, means, jobs), 1):
        said = f"[{number}/{len(open_tasks)}] {task.name}"
        try:
            values = ended()
        except (InputError, RunError, BrokenProcessPool) as error:
            failed.append(task)
            print(f"{said}: {error}", flush=True)
            continue
        print(f"{said}: {', '.join(f'{key} {value:.4g}' for key, value in values.items())}", flush=True)
        write_json(folder / TABLE, comparison.table())
    table = comparison.table()
    write_json(folder / TABLE, table)
    text = comparison.markdown(table)
    write_atomically(folder / MARKDOWN, text.encode())
    print(text)
    done = {
        row["name"]: _task(row["name"], row["seeds"][0], study, config, bindings, folder)
        for row in table["rows"]
    }
    runs = StudyRuns(
        tuple(done),
        tuple(pair for pair in study.twins if all(row in done for row in pair)),
        cache(lambda row: _restored(done[row], means)),
        comparison.reports,
        study.sweeps,
    )
    for path in (folder / TABLE, folder / MARKDOWN, *draw_study(runs, study.figures, folder)):
        print(path)
    if failed:
        where = ", ".join(task.name for task in failed)
        raise RunError(
            f"{len(failed)} of {len(tasks)} runs failed ({where}): {LOG} in their folders says why."
        )
    return table


def _choose(study: Study, rows: Sequence[str]) -> tuple[str, ...]:
    """The rows asked for, in the study's order: by full name, by the variant's or by the row's alone."""
    for row in rows:
        if row not in (*study.names, *study.rows, *study.variants):
            raise InputError(f"There is no row '{row}' in this study: there are {', '.join(study.names)}.")
    return tuple(name for name in study.names if not rows or {name, *name.split("/")} & set(rows))


def _task(row: str, seed: int, study: Study, config: str, bindings: Sequence[str], folder: Path) -> Task:
    own = (*study.bindings(row), f"experiment.seed = {seed}", f"experiment.metrics = {OF_TRAINING!r}")
    return Task(row, seed, folder / row / f"seed{seed}", study.config(row, config), (*bindings, *own))


def _survey(
    tasks: Sequence[Task], load: Load, study: Study
) -> tuple[list[Task], list[tuple[Experiment, tuple[str, ...]]]]:
    """The runs that are not yet trained and measured; for each data set an experiment and its metrics.

    Raises:
        InputError: if a row's config cannot be built, a folder holds a run under another config, or a metric
            does not suit the data or the model of a row.
    """
    still: list[Task] = []
    by_source: dict[str, tuple[Experiment, tuple[str, ...]]] = {}
    for task in tasks:
        loaded = load([task.config], list(task.bindings))
        kept = task.folder / CONFIG
        if kept.is_file():
            train.check_config(task.folder, loaded.text, load([str(kept)], []).text)
        done = report.read(task.folder / REPORT)
        if kept.is_file() and done.get("finished") and not _missing(done, task.row, study):
            continue
        experiment, metrics = loaded.experiment, study.metrics_of(task.row)
        check_metrics(metrics, experiment.source, experiment.model)
        by_source.setdefault(f"{experiment.source!r} {metrics}", (experiment, metrics))
        still.append(task)
    return still, list(by_source.values())


def _missing(found: Mapping[str, Any], row: str, study: Study) -> list[str]:
    """Metrics of a row that a report lacks, or holds from another number of draws."""
    draws = found.get("draws", {})
    return [metric for metric in study.metrics_of(row) if draws.get(metric) != _draws(study)]


def _draws(study: Study) -> dict[str, int]:
    return {"samples": study.samples, "importance_samples": study.importance_samples}


def _run_all(
    tasks: Sequence[Task], means: Means, jobs: int
) -> Iterator[tuple[Task, Callable[[], dict[str, float]]]]:
    """Each task with a function that gives its values, or raises, as they end."""
    if jobs == 1:
        for task in tasks:
            yield task, lambda task=task: _run(task, means)  # type: ignore[misc]
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_when_interrupted) as pool:
        futures: dict[Future[dict[str, float]], Task] = {
            pool.submit(_run, task, means): task for task in tasks
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_when_interrupted() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once and without a traceback; the runs can be resumed


def _run(task: Task, means: Means) -> dict[str, float]:
    """Train and measure one run, as far as that is missing; what it would print goes to its log."""
    loaded = means.load([task.config], list(task.bindings))
    experiment: Experiment = loaded.experiment
    study, path = means.study, task.folder / REPORT
    make_folder(task.folder)
    threads = loaded.threads or means.threads
    begun = (task.folder / CONFIG).is_file()
    log = task.folder.parent / f"{task.folder.name}.{LOG}"
    with log.open("a", encoding="utf-8") as lines, redirect_stdout(lines), train.threads_set(threads):
        if not report.read(path).get("finished"):
            train.run(
                experiment,
                loaded.text,
                folder=task.folder,
                settings=loaded.settings,
                resume=begun,
                previous=means.load([str(task.folder / CONFIG)], []).text if begun else None,
                threads=threads,
                device=means.device,
                precision=loaded.precision,
                progress=means.progress,
            )
        restore(experiment.model, task.folder, means.device)
        names = _missing(report.read(path), task.row, study)
        found = measure(
            experiment.model,
            experiment.source,
            names,
            count=study.samples,
            weights=means.weights,
            download=means.download,
            seed=task.seed,
            importance_samples=study.importance_samples,
        )
        draws = dict.fromkeys(names, _draws(study))
        report.update(path, metrics=found.values, metric_facts=found.facts, draws=draws)
    return found.values


def _restored(task: Task, means: Means) -> FigureRun:
    """A run, with its weights."""
    experiment: Experiment = means.load([task.config], list(task.bindings)).experiment
    restore(experiment.model, task.folder, means.device)
    return FigureRun(experiment.model, experiment.source, task.folder, experiment.name)
