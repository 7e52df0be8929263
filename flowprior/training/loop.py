"""The loop: it asks an objective for losses and steps its players; of methods it knows nothing."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from flowprior.checks import check_count
from flowprior.errors import InputError, RunError
from flowprior.locks import Lock, locked
from flowprior.training.averages import Meter
from flowprior.training.checkpoint import Checkpoint, has_checkpoints, save_checkpoint
from flowprior.training.engine import (
    Strategy,
    check_engine,
    is_first_process,
    move,
    own_random_state,
    start_fabric,
)
from flowprior.training.logs import MetricsLog, progress_bar
from flowprior.training.results import EpochEnd, TrainResult
from flowprior.training.resume import Progress, collect, restore_progress, take_up
from flowprior.training.stage_run import StageRun
from flowprior.training.stages import Stage
from flowprior.training.stopping import leave, told_to_stop


def train(
    stages: Sequence[Stage],
    *,
    run: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
    strategy: Strategy = "auto",
    sync_batch_norm: bool = False,
    compile: bool = False,
    checkpoint_every: int = 1000,
    keep: int = 3,
    log_every: int = 50,
    resume: bool = False,
    allow_changed: bool = False,
    max_steps: int | None = None,
    progress: bool = True,
    tensorboard: bool = True,
    notes: Mapping[str, Any] | None = None,
    on_epoch: Callable[[EpochEnd], None] | None = None,
) -> TrainResult:
    """Run the stages in sequence; the models inside the objectives are trained in place.

    Everything random follows from `seed`, so two runs on one machine end with equal bits, and so does a run
    that was killed at any moment and resumed. The caller's random state stays as it was. SIGTERM (or SIGHUP)
    ends the run after the step it is in, with a checkpoint and exit status 143 (129); so does Ctrl-C, with
    KeyboardInterrupt. One process at a time writes to a run folder.

    Several processes share each batch, and with the global batch of one process they take its steps; but each
    draws its own noise (from seed + rank), and sees its own share in the statistics of `BatchNorm` (6e-4 of
    the loss after an epoch of the digits; `sync_batch_norm` removes that), in FactorVAE's permutation and the
    pairs of β-TCVAE, MMD and moment matching. A run continues bit by bit with as many processes as before.

    A loss, gradient or weight that is not finite stops the run before the weights take it in: on a CPU it is
    looked for at every step, on a GPU every `log_every` steps (the device skips the updates until then).

    Args:
        run: the run folder, for checkpoints and logs; None writes nothing.
        seed: of the batches' order, of noise and of the held-out rows.
        device, devices, precision, strategy: see `start_fabric`.
        sync_batch_norm: on GPUs, make the `BatchNorm` layers of the objectives `SyncBatchNorm`, for good.
        compile: compile each step's losses and their gradients (torch.compile; CUDA graphs on a GPU), which
            costs a minute or so before the first step; validation stays eager. The numbers are those of eager
            mode up to rounding (1e-5). For runs of many thousand steps: it pays once what the steps save
            exceeds the time of compilation.
        checkpoint_every: steps between checkpoints, beside those at the beginning and at each stage's end.
        keep: how many checkpoints stay.
        log_every: steps that a logged training metric is averaged over; an epoch's end closes a window, too.
        resume: continue from the newest valid checkpoint of `run`, bit-identical, with the stages of the
            interrupted run, freshly built.
        allow_changed: resume although metrics.csv is no longer what the run wrote.
        max_steps: stop (with a checkpoint) after so many steps of the run; schedules do not change by it.
        progress, tensorboard: show a progress bar; write logs for TensorBoard, beside metrics.csv.
        notes: JSON values that every checkpoint carries, such as the config.
        on_epoch: called in the first process after every epoch.

    Raises:
        InputError: on arguments that do not fit, if there is nothing (valid) to resume, or if another
            process writes to the folder.
        RunError: if a number is not finite, the disk is full, or the folder vanishes.
    """
    if not stages:
        raise InputError("`stages` is empty: give at least one Stage.")
    for name, value in (("checkpoint_every", checkpoint_every), ("keep", keep), ("log_every", log_every)):
        check_count(name, value)
    limit = math.inf if max_steps is None else check_count("max_steps", max_steps, least=0)
    folder = None if run is None else Path(run)
    if resume and folder is None:
        raise InputError("`resume` needs a run folder: give `run`.")
    with ExitStack() as stack:
        writes = folder is not None and is_first_process()
        lock = stack.enter_context(locked(folder)) if folder is not None and writes else None
        checkpoint = None
        if folder is not None and resume:
            checkpoint = take_up(folder, keep if writes else None)
        elif folder is not None and writes and has_checkpoints(folder):
            held = f"`run` (={str(run)!r}) holds checkpoints already"
            raise InputError(f"{held}: resume it, or choose another folder.")
        check_engine(device, precision, strategy, sync_batch_norm, compile)
        fabric = start_fabric(device, devices, precision, strategy)
        for stage in stages:
            if sync_batch_norm:
                torch.nn.SyncBatchNorm.convert_sync_batchnorm(stage.objective)
            move(stage.objective, fabric)
        every = (checkpoint_every, keep, log_every)
        loop = _Loop(stages, fabric, folder, lock, seed, *every, limit, dict(notes or {}), on_epoch, compile)
        stack.enter_context(own_random_state(fabric.device, seed + fabric.global_rank))
        loop.received = stack.enter_context(told_to_stop(folder))
        return loop.run(checkpoint, progress and fabric.is_global_zero, tensorboard, allow_changed)


@dataclass
class _Loop:
    """The state of a training between its steps."""

    stages: Sequence[Stage]
    fabric: Any
    folder: Path | None
    lock: Lock | None  # in the process that writes
    seed: int
    checkpoint_every: int
    keep: int
    log_every: int
    limit: float  # of the run's steps
    notes: dict[str, Any]
    on_epoch: Callable[[EpochEnd], None] | None
    compiled: bool
    received: list[int] = field(default_factory=list)  # signals that ask to stop
    progress: Progress = field(default_factory=Progress)
    meter: Meter = field(default_factory=Meter)
    clock: float = field(default_factory=time.perf_counter)

    def run(self, checkpoint: Checkpoint | None, shown: bool, tensorboard: bool, edited: bool) -> TrainResult:
        """All stages, or what a checkpoint left of them."""
        tensors = None
        if checkpoint is not None:
            self.progress = restore_progress(checkpoint, self.stages, self.meter, self.fabric)
            tensors = checkpoint.tensors if self.progress.under_way else None
        written = {} if checkpoint is None else checkpoint.state
        folder = self.folder if self.fabric.is_global_zero else None
        with MetricsLog(folder, written, self.progress.step, tensorboard, edited) as self.log:
            if checkpoint is None:
                self._save(None)
            while self.progress.stage < len(self.stages) and self.progress.step < self.limit:
                stage = self.stages[self.progress.stage]
                # A resumed run prepares its stage again: that must not move the random state of the training.
                with own_random_state(self.fabric.device, self.seed):
                    how = {"fresh": tensors is None, "compiled": self.compiled}
                    current = StageRun(stage, self.fabric, self.seed, self.meter, **how)
                if tensors is None:
                    self.progress.epoch_began = self._seconds()
                else:
                    current.load_state(tensors)
                    tensors = None
                done = self.progress.epoch * current.steps_per_epoch + self.progress.batch
                with current.released(), progress_bar(stage.name, current.steps, done, shown) as self.bar:
                    ended = self._run_stage(current)
                    current.deliver()
                if not ended:
                    break
                self.progress.stage += 1
                self.progress.epoch, self.progress.best = 0, None
                self._save(None)
                if self._asked():
                    break
        if self._asked():
            leave(self.received)
        return self._result()

    def _run_stage(self, current: StageRun) -> bool:
        """Step until the stage is over (True), or until the run has done `max_steps` (False)."""
        progress = self.progress
        if current.stage.judge_start and progress.epoch == progress.batch == 0:
            with current.as_delivered():
                progress.start = self._judge(current)
        while progress.epoch < current.stage.epochs:
            if not progress.batch:
                current.begin_epoch(progress.epoch)
            current.train_mode()
            for batch in current.batches.epoch(progress.epoch, start=progress.batch):
                if progress.step >= self.limit:
                    self._save(current)
                    return False
                current.step(batch, progress.step, progress.epoch * current.steps_per_epoch + progress.batch)
                progress.step += 1
                progress.batch += 1
                self.bar.update()
                if progress.step % self.log_every == 0:
                    self._close_window(current)
                if progress.batch == current.steps_per_epoch and self._end_epoch(current):
                    return True
                self._save_if_due(current)
        return True

    def _asked(self, due: bool = True) -> bool:
        """Whether a signal asks to stop. All processes must do so together: they agree where it is `due`."""
        if self.fabric.world_size == 1:
            return bool(self.received)
        counts = torch.tensor(float(len(self.received)), device=self.fabric.device)
        return due and bool(self.fabric.all_reduce(counts, reduce_op="sum"))

    def _save_if_due(self, current: StageRun) -> None:
        """A checkpoint every so many steps, and one before leaving on SIGTERM or Ctrl-C."""
        stop = self._asked(due=self.progress.step % self.log_every == 0)
        if stop or self.progress.step % self.checkpoint_every == 0:
            self._save(current)
        if stop:
            leave(self.received)

    def _close_window(self, current: StageRun) -> None:
        progress = self.progress
        current.check(progress.step, progress.epoch, progress.batch)
        means = self.meter.close_window(self.fabric.all_reduce)
        self.log.write(progress.step, means)
        losses = [value for name, value in means.items() if name.endswith("loss")]
        if losses:
            self.bar.set_postfix(loss=f"{losses[0]:.4g}", refresh=False)

    def _end_epoch(self, current: StageRun) -> bool:
        """Validate, log, report; whether the stage is over."""
        progress, stage = self.progress, current.stage
        self._close_window(current)
        progress.epoch, progress.batch = progress.epoch + 1, 0
        with current.as_delivered():
            valid = self._judge(current)
            metrics = self.meter.close_epoch() | valid
            rates = {name: rate for player in current.players for name, rate in player.rates().items()}
            self.log.write(progress.step, {**valid, **rates, "epoch": progress.epoch})
            if self.on_epoch is not None:
                with current.shards.whole():
                    if self.fabric.is_global_zero:
                        self.on_epoch(EpochEnd(stage, progress.epoch, progress.step, metrics))
        entry = {"stage": stage.name, "epoch": progress.epoch, "step": progress.step}
        seconds = self._seconds()
        progress.history.append({**entry, "seconds": seconds - progress.epoch_began, **metrics})
        progress.epoch_began = seconds
        current.train_mode()
        waited = 0 if progress.best is None else progress.epoch - (progress.best_epoch or 0)
        return progress.epoch >= stage.epochs or (stage.patience is not None and waited >= stage.patience)

    def _judge(self, current: StageRun) -> dict[str, float]:
        """Validate, and remember the weights if they are the best so far; within `as_delivered`."""
        progress, stage = self.progress, current.stage
        valid = current.validate(progress.step)
        monitored = valid.get(current.players[0].term("loss", "valid"), math.inf)
        if math.isnan(monitored):
            loss = f"The validation loss of stage {stage.name!r} after epoch {progress.epoch}"
            raise RunError(f"{loss} is not a number: look for such values in the validation data.")
        if monitored < (math.inf if progress.best is None else progress.best):
            progress.best, progress.best_epoch = monitored, progress.epoch
            if stage.keep_best:
                current.keep_best()
        return valid

    def _seconds(self) -> float:
        return self.progress.seconds + time.perf_counter() - self.clock

    def _result(self) -> TrainResult:
        progress = self.progress
        times = defaultdict(list)
        for entry in progress.history:
            times[entry["stage"]].append(entry["seconds"])
        last = progress.history[-1] if progress.history else {}
        means = {name: fmean(seconds) for name, seconds in times.items()}
        metrics = {name: value for name, value in last.items() if "/" in name}
        ended, history = progress.stage == len(self.stages), list(progress.history)
        steps, seconds = progress.step, self._seconds()
        best, start = progress.best_epoch, progress.start
        return TrainResult(steps, seconds, means, metrics, history, best, start, finished=ended)

    def _save(self, current: StageRun | None) -> None:
        """Write a checkpoint; `current` is None between stages."""
        if self.folder is None:
            return
        if current is not None:
            current.check(self.progress.step, self.progress.epoch, self.progress.batch)
            current.check_weights(self.progress.step)
        self.progress.seconds, self.clock = self._seconds(), time.perf_counter()
        tensors, state = collect(self.stages, current, self.progress, self.meter, self.fabric)
        if self.lock is not None:
            self.lock.check()
            state |= self.log.mark() | {"notes": self.notes}
            save_checkpoint(self.folder, self.progress.step, tensors, state, self.keep)
        self.fabric.barrier()
