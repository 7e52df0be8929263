"""`flowprior train`: run an experiment's stages and leave a run folder that explains itself."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from flowprior.checks import check_count
from flowprior.errors import InputError
from flowprior.evaluation import Measured, applicable, check_metrics, contexts_of, measure
from flowprior.experiments import report
from flowprior.experiments.experiment import Experiment
from flowprior.experiments.runs import CONFIG, FIGURES, REPORT
from flowprior.figures import OF_TRAINING, FigureRun, draw, sample_sheet, save
from flowprior.files import make_folder, write_atomically
from flowprior.models.autoencoder import evaluating
from flowprior.tensors import as_input
from flowprior.training.checkpoint import has_checkpoints
from flowprior.training.engine import check_engine
from flowprior.training.loop import EpochEnd, TrainResult, train

FREE = (
    "experiment.steps =",
    "experiment.metrics =",
    "Source.root =",
    "Source.folder =",
)  # lines of a config that may differ on resuming
GRIDS = 8  # sheets of samples that a stage leaves in RUN/figures, about


def run(
    experiment: Experiment,
    config: str,
    *,
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    previous: str | None = None,
    steps: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    precision: str = "32-true",
    devices: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `experiment` in the run folder; returns the report.

    Args:
        experiment: freshly built.
        config: the operative config, written to RUN/config.gin.
        folder: the run folder, by default runs/<name>.
        settings: what the report shows of the config.
        resume: go on from the newest valid checkpoint; the config must be that of the run but for `FREE`.
        previous: the run's own config as this version spells it out; an older one may not have had a setting
            whose default it kept.
        steps: optimizer steps at most.
        threads: of the CPU; None takes torch's own number.
        device, precision, devices, progress: as for `train`.

    Raises:
        InputError: if the folder holds another run, the data is missing, or an argument does not fit.
        RunError: if a loss stops being finite or the disk is full.
    """
    folder = Path("runs") / experiment.name if folder is None else folder
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    if first:
        _check_folder(folder, config, resume, previous or "")
    _rehearse(experiment)  # missing data and shapes that do not fit are said before anything is written
    check_metrics(experiment.metrics, experiment.source)
    check_engine(device, precision)
    if first:
        make_folder(folder / FIGURES)
        write_atomically(folder / CONFIG, config.encode())
    with threads_set(threads):
        result = train(
            experiment.build_stages(),
            run=folder,
            seed=experiment.seed,
            device=device,
            devices=devices,
            precision=precision,
            resume=resume and has_checkpoints(folder),  # a run killed before its first one begins anew
            max_steps=steps,
            progress=progress,
            on_epoch=lambda end: _leave_grid(experiment, folder, end),
        )
        if not first:
            return {}
        return _finish(experiment, folder, result, settings or {}, device, precision, devices)


@contextmanager
def threads_set(count: int | None) -> Iterator[None]:
    """`count` CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        check_count("threads", count)
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rehearse(experiment: Experiment) -> None:
    """One example through the model, so that what cannot be trained leaves no run folder behind.

    Raises:
        InputError: if the data is missing, or does not fit the model.
    """
    model, data = experiment.model, experiment.source.train()
    found = contexts_of(model, data)
    context = None if found is None else as_input(found[:1])
    with torch.random.fork_rng(), evaluating(model):
        x = as_input(data.x[:1])
        z = model.encode(x, context).mean
        model.reconstruction_nll(x, z, context)
        if model.prior.has_density:
            model.prior.log_prob(z, model.prior_context(model.condition(context)))


def _check_folder(folder: Path, config: str, resume: bool, previous: str) -> None:
    """Refuse to write over another run, or to resume under another config."""
    if resume:
        check_config(folder, config, previous)
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"The run folder '{folder}' is not empty: add --resume to go on with its run, or choose another "
            "--out."
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The run folder '{folder}' is a file: choose another --out.")


def check_config(folder: Path, config: str, previous: str = "") -> None:
    """Refuse to go on with the run in `folder` under a config that differs in more than `FREE`.

    Args:
        config: the operative config asked for.
        previous: the run's own config as this version spells it out.

    Raises:
        InputError: if it differs, or `folder` holds no run.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"There is nothing to resume in '{folder}': start the run without --resume.")
    old = f"{(folder / CONFIG).read_text(encoding='utf-8')}\n{previous}".splitlines()
    changed = [line for line in config.splitlines() if line not in old and not line.startswith(FREE)]
    if changed:
        raise InputError(
            f"The config differs from that of the run in '{folder}' (`{changed[0].strip()}`): resume "
            f"with {folder / CONFIG}, or start a new run with another --out."
        )


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
    experiment: Experiment,
    folder: Path,
    result: TrainResult,
    settings: Mapping[str, Any],
    device: str,
    precision: str,
    devices: int,
) -> dict[str, Any]:
    """Pictures, metrics, report, and a small table."""
    experiment.model.eval().requires_grad_(False)
    run = FigureRun(experiment.model, experiment.source, folder, experiment.name)
    drawn = draw(run, OF_TRAINING)
    prior, names = experiment.model.prior, applicable(experiment.metrics, experiment.model)
    found = Measured()
    if names:
        found = measure(experiment.model, experiment.source, names, seed=experiment.seed)
    train_set, test_set = experiment.source.train(), experiment.source.test()
    content = report.update(
        folder / REPORT,
        name=experiment.name,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        finished=result.finished,
        steps=result.steps,
        wall_time_seconds=round(result.seconds, 3),
        seconds_per_epoch={name: round(value, 4) for name, value in result.seconds_per_epoch.items()},
        metrics=found.values,
        metric_facts=found.facts,
        last_epoch=result.metrics,
        data={
            "name": experiment.source.name,
            "train": len(train_set),
            "test": len(test_set),
            "preprocessing": train_set.preprocessing,
            "fingerprint": train_set.fingerprint,
        },
        settings=dict(settings),
        running={"device": device, "precision": precision, "devices": devices, "seed": experiment.seed},
        parameters=sum(parameter.numel() for parameter in experiment.model.parameters()),
        versions=report.versions(),
        machine=report.machine() | {"trained_on": str(experiment.model.device)},
    )
    rows = {
        **found.values,
        **{f"seconds per epoch, {name}": s for name, s in result.seconds_per_epoch.items()},
    }
    state = "finished" if result.finished else "stopped at --steps; --resume with more --steps goes on"
    print(report.table({**rows, "wall time in seconds": result.seconds, "steps": result.steps}))
    for name in experiment.metrics:
        if name not in names:
            print(f"left out: {name}, since {type(prior).__name__} has no density")
    print(f"{state}: {folder}")
    for path in drawn:
        print(f"  {path}")
    print(f"  {folder / REPORT}")
    return content
