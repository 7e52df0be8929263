"""An experiment in its run folder: trained or resumed there, with a report that explains it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from flowprior.checks import check_count
from flowprior.errors import InputError, RunError
from flowprior.evaluation import Measured, applicable, check_metrics, contexts_of, measure
from flowprior.experiments import report
from flowprior.experiments.config import Loaded, load
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.runs import (
    CONFIG,
    FIGURES,
    REPORT,
    clear_run,
    is_begun,
    is_run,
    name_skipped,
    update_report,
)
from flowprior.experiments.unchanged import FREE, changed_since, notes
from flowprior.figures import OF_TRAINING, FigureRun, draw, sample_sheet, save
from flowprior.files import make_folder, remove_leftovers, write_atomically
from flowprior.locks import Lock, locked
from flowprior.models.autoencoder import evaluating
from flowprior.tensors import as_input
from flowprior.training.checkpoint import has_checkpoints, load_checkpoint
from flowprior.training.engine import Strategy, check_engine, is_first_process
from flowprior.training.loop import train
from flowprior.training.manifest import FOLDER, checkpoint_files, step_of
from flowprior.training.results import EpochEnd, TrainResult

GRIDS = 8  # sheets of samples that a stage leaves in RUN/figures, about


def run_experiment(
    loaded: Loaded,
    *,
    folder: Path | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    device: str = "auto",
    devices: int = 1,
    strategy: Strategy = "auto",
    sync_batch_norm: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train the experiment of a config in its run folder; returns the report.

    Args:
        loaded: freshly built.
        folder: the run folder, by default runs/<name>.
        resume: continue from the newest valid checkpoint; start where there is none yet. The config must be
            that of the run but for `FREE`.
        allow_changed: resume even so, and say what changed.
        overwrite: remove the run that is there, once the new one is known to be possible.
        threads: of the CPU, if the config does not say.
        device, devices, strategy, sync_batch_norm, progress: as for `train`.

    Raises:
        InputError: if the folder holds another run or is in use, the data is missing, or an argument does
            not fit. A run that never took a step leaves nothing behind then.
        RunError: if a loss stops being finite, the disk is full, or the folder or its config vanishes.
    """
    if resume and overwrite:
        raise InputError("`--resume` and `--overwrite` exclude each other: leave one of them out.")
    experiment, setup = loaded.experiment, loaded.setup
    folder = Path("runs") / experiment.name if folder is None else folder
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The run folder '{folder}' is a file: choose another --out.")
    first = is_first_process()
    with locked(folder) if first else nullcontext() as lock:
        if first:
            _check_folder(folder, loaded, resume, overwrite, allow_changed)
        _rehearse(experiment)  # missing data and shapes that do not fit are said before anything is written
        check_metrics(applicable(experiment.metrics, experiment.model), experiment.source, experiment.model)
        check_engine(device, setup.precision, strategy, sync_batch_norm, setup.compile)
        if first:
            _prepare(folder, loaded, overwrite)
        with cpu_threads(setup.threads or threads), _undone_if_refused(folder, lock):
            result = train(
                experiment.stages,
                run=folder,
                seed=experiment.seed,
                device=device,
                devices=devices,
                strategy=strategy,
                sync_batch_norm=sync_batch_norm,
                precision=setup.precision,
                compile=setup.compile,
                resume=resume and has_checkpoints(folder),  # a run killed before its first one starts over
                allow_changed=allow_changed,
                max_steps=setup.steps,
                progress=progress,
                notes=notes(loaded.text),
                on_epoch=lambda end: _leave_grid(experiment, folder, end),
            )
            if lock is None:
                return {}
            running = {"device": device, "devices": devices, "strategy": strategy}
            return _finish(loaded, folder, lock, result, running)


def _prepare(folder: Path, loaded: Loaded, overwrite: bool) -> None:
    """A folder with nothing in it but the config and, on resuming, the run so far."""
    if overwrite:
        clear_run(folder)
    make_folder(folder / FIGURES)
    for place in (folder, folder / FIGURES):
        remove_leftovers(place)
    write_atomically(folder / CONFIG, loaded.text.encode())


@contextmanager
def _undone_if_refused(folder: Path, lock: Lock | None) -> Iterator[None]:
    """Inside, what is refused before the first step leaves no run: the corrected command can start."""
    try:
        yield
    except InputError:
        if lock is not None and not any(map(step_of, checkpoint_files(folder / FOLDER))):
            clear_run(folder)
        raise


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """`count` CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(check_count("threads", count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rehearse(experiment: Experiment) -> None:
    """One example through the model, so that what cannot be trained leaves no run folder behind."""
    model, data = experiment.model, experiment.source.train()
    contexts = contexts_of(model, data)
    context = None if contexts is None else as_input(contexts[:1])
    with torch.random.fork_rng(), evaluating(model):
        x = as_input(data.x[:1])
        z = model.encode(x, context).mean
        model.reconstruction_nll(x, z, context)
        if model.prior.has_density:
            model.prior.log_prob(z, model.prior_context(model.condition(context)))


def _check_folder(folder: Path, loaded: Loaded, resume: bool, overwrite: bool, allow_changed: bool) -> None:
    """Refuse to write over another run, to continue what is no run, and a changed config (InputError)."""
    if resume and (folder / CONFIG).is_file():
        changed = _changes(folder, loaded)
        if changed and not allow_changed:
            fix = (
                f"resume with {folder / CONFIG}, start a new run with another --out, or add --allow-changed."
            )
            raise InputError(f"The config differs from that of the run in '{folder}' ({changed[0]}): {fix}")
        for each in changed:
            print(f"changed: {each}")
    elif resume and has_checkpoints(folder):
        fix = f"`flowprior repair {folder}` writes it again from the newest checkpoint."
        raise InputError(f"'{folder}' holds checkpoints and no {CONFIG}: {fix}")
    elif overwrite and not is_run(folder) and is_begun(folder):
        raise InputError(f"'{folder}' holds other files than those of a run: choose another --out.")
    elif not overwrite and is_begun(folder):
        fix = "add --resume to continue its run, --overwrite to replace it, or choose another --out."
        raise InputError(f"The run folder '{folder}' is not empty: {fix}")


def check_config(folder: Path, loaded: Loaded) -> None:
    """Refuse to continue a run whose config differs from this one in more than `FREE` (InputError)."""
    _check_folder(folder, loaded, resume=True, overwrite=False, allow_changed=False)


def _changes(folder: Path, loaded: Loaded) -> list[str]:
    """How the config differs from RUN/config.gin, and that from the one its newest checkpoint carries."""
    path = folder / CONFIG
    before = load([str(path)], plugins=loaded.plugins).values
    found = [
        f"`{key} = {value!r}`, there {before.get(key, 'nothing')!r}"
        for key, value in loaded.values.items()
        if key not in FREE and (key not in before or before[key] != value)
    ]
    if not has_checkpoints(folder):
        return found
    name_skipped()
    checkpoint = load_checkpoint(folder)
    edited = changed_since(folder, checkpoint)
    return found + [f"{path} was edited: {each} in {checkpoint.path.name}" for each in edited]


def _check_whole(folder: Path, loaded: Loaded, lock: Lock) -> None:
    """Refuse to call a run finished whose folder or config is not there any more (RunError)."""
    lock.check()
    path = folder / CONFIG
    if not path.is_file() or path.read_bytes() != loaded.text.encode():
        fix = f"`flowprior repair {folder}` puts it back, and --resume then writes the report."
        raise RunError(f"{path} vanished or was changed while the run trained: {fix}")


def _leave_grid(experiment: Experiment, folder: Path, end: EpochEnd) -> None:
    """A dated sheet of samples after every so many epochs; the same z0 each time."""
    every = max(1, math.ceil(end.stage.epochs / GRIDS))
    if end.epoch % every == 0 and len(experiment.source.image_shape) == 3:
        date = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = folder / FIGURES / f"samples-step-{end.step:07d}-{date}.png"
        title = f"{experiment.name}, stage {end.stage.name}, epoch {end.epoch}"
        run = FigureRun(experiment.model, experiment.source, folder, experiment.name)
        save(sample_sheet(run, title=title), path)


def _finish(
    loaded: Loaded, folder: Path, lock: Lock, result: TrainResult, running: dict[str, Any]
) -> dict[str, Any]:
    """Pictures, metrics, report, and a small table."""
    _check_whole(folder, loaded, lock)
    experiment = loaded.experiment
    experiment.model.eval().requires_grad_(False)
    run = FigureRun(experiment.model, experiment.source, folder, experiment.name)
    drawn = draw(run, OF_TRAINING)
    names = applicable(experiment.metrics, experiment.model)
    measured = Measured()
    if names:
        measured = measure(experiment.model, experiment.source, names, seed=experiment.seed)
    data = experiment.source.train()
    content = update_report(
        folder,
        name=experiment.name,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        finished=result.finished,
        steps=result.steps,
        wall_time_seconds=round(result.seconds, 3),
        seconds_per_epoch={name: round(value, 4) for name, value in result.seconds_per_epoch.items()},
        metrics=measured.values,
        metric_facts=measured.facts,
        last_epoch=result.metrics,
        data={
            "name": experiment.source.name,
            "train": len(data),
            "test": len(experiment.source.test()),
            "preprocessing": data.preprocessing,
            "fingerprint": data.fingerprint,
        },
        settings=loaded.settings,
        config_sha256=notes(loaded.text)["config_sha256"],
        plugins=list(loaded.plugins),
        running={**running, "precision": loaded.setup.precision, "seed": experiment.seed},
        parameters=sum(parameter.numel() for parameter in experiment.model.parameters()),
        versions=report.versions(),
        machine=report.machine() | {"trained_on": str(experiment.model.device)},
    )
    _check_whole(folder, loaded, lock)
    speeds = {f"seconds per epoch, {name}": value for name, value in result.seconds_per_epoch.items()}
    times = {"wall time in seconds": result.seconds, "steps": result.steps}
    print(report.table({**measured.values, **speeds, **times}))
    for name in experiment.metrics:
        if name not in names:
            print(f"left out: {name}, since {type(experiment.model.prior).__name__} has no density")
    state = "finished" if result.finished else "stopped at --steps; --resume with more --steps continues it"
    print(f"{state}: {folder}", *drawn, folder / REPORT, sep="\n  ")
    return content
