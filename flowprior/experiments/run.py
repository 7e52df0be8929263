"""An experiment in its run folder: trained or resumed there, with a report that explains it."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.evaluation import Measured, applicable, check_metrics, contexts_of, measure
from flowprior.experiments import report
from flowprior.experiments.config import Loaded, load
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.runs import CONFIG, FIGURES, REPORT, update_report
from flowprior.figures import OF_TRAINING, FigureRun, draw, sample_sheet, save
from flowprior.files import make_folder, write_atomically
from flowprior.models.autoencoder import evaluating
from flowprior.tensors import as_input
from flowprior.training.checkpoint import has_checkpoints
from flowprior.training.engine import Strategy, check_engine
from flowprior.training.loop import EpochEnd, TrainResult, train

FREE = ("experiment.steps", "experiment.metrics", "Source.root", "Source.folder")  # may differ on resuming
GRIDS = 8  # sheets of samples that a stage leaves in RUN/figures, about


def run_experiment(
    loaded: Loaded,
    *,
    folder: Path | None = None,
    resume: bool = False,
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
        resume: continue from the newest valid checkpoint; the config must be that of the run but for `FREE`.
        threads: of the CPU, if the config does not say.
        device, devices, strategy, sync_batch_norm, progress: as for `train`.

    Raises:
        InputError: if the folder holds another run, the data is missing, or an argument does not fit.
        RunError: if a loss stops being finite or the disk is full.
    """
    experiment, setup = loaded.experiment, loaded.setup
    folder = Path("runs") / experiment.name if folder is None else folder
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    if first:
        (check_config if resume else _check_new)(folder, loaded)
    _rehearse(experiment)  # missing data and shapes that do not fit are said before anything is written
    check_metrics(applicable(experiment.metrics, experiment.model), experiment.source, experiment.model)
    check_engine(device, setup.precision, strategy, sync_batch_norm, setup.compile)
    if first:
        make_folder(folder / FIGURES)
        write_atomically(folder / CONFIG, loaded.text.encode())
    with cpu_threads(setup.threads or threads):
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
            max_steps=setup.steps,
            progress=progress,
            on_epoch=lambda end: _leave_grid(experiment, folder, end),
        )
        if not first:
            return {}
        return _finish(loaded, folder, result, {"device": device, "devices": devices, "strategy": strategy})


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


def _check_new(folder: Path, _: Loaded) -> None:
    """Refuse to write over another run."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The run folder '{folder}' is a file: choose another --out.")
    if folder.is_dir() and any(folder.iterdir()):
        fix = "add --resume to continue its run, or choose another --out."
        raise InputError(f"The run folder '{folder}' is not empty: {fix}")


def check_config(folder: Path, loaded: Loaded) -> None:
    """Refuse to continue what is no run, or a run whose config differs in more than `FREE` (InputError)."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"There is nothing to resume in '{folder}': start the run without --resume.")
    before = load([str(path)], plugins=loaded.plugins).values
    for key, value in loaded.values.items():
        if key not in FREE and (key not in before or before[key] != value):
            fix = f"resume with {path}, or start a new run with another --out."
            differs = f"The config differs from that of the run in '{folder}'"
            raise InputError(f"{differs} (`{key} = {value!r}`): {fix}")


def _leave_grid(experiment: Experiment, folder: Path, end: EpochEnd) -> None:
    """A dated sheet of samples after every so many epochs; the same z0 each time."""
    every = max(1, math.ceil(end.stage.epochs / GRIDS))
    if end.epoch % every == 0 and len(experiment.source.image_shape) == 3:
        date = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = folder / FIGURES / f"samples-step-{end.step:07d}-{date}.png"
        title = f"{experiment.name}, stage {end.stage.name}, epoch {end.epoch}"
        run = FigureRun(experiment.model, experiment.source, folder, experiment.name)
        save(sample_sheet(run, title=title), path)


def _finish(loaded: Loaded, folder: Path, result: TrainResult, running: dict[str, Any]) -> dict[str, Any]:
    """Pictures, metrics, report, and a small table."""
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
        plugins=list(loaded.plugins),
        running={**running, "precision": loaded.setup.precision, "seed": experiment.seed},
        parameters=sum(parameter.numel() for parameter in experiment.model.parameters()),
        versions=report.versions(),
        machine=report.machine() | {"trained_on": str(experiment.model.device)},
    )
    speeds = {f"seconds per epoch, {name}": value for name, value in result.seconds_per_epoch.items()}
    times = {"wall time in seconds": result.seconds, "steps": result.steps}
    print(report.table({**measured.values, **speeds, **times}))
    for name in experiment.metrics:
        if name not in names:
            print(f"left out: {name}, since {type(experiment.model.prior).__name__} has no density")
    state = "finished" if result.finished else "stopped at --steps; --resume with more --steps continues it"
    print(f"{state}: {folder}", *drawn, folder / REPORT, sep="\n  ")
    return content
