# ruff: noqa: F401 - what the commands import, imported once
"""Commands of flowprior in forked processes, so that torch is imported once."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import lightning_fabric.strategies.model_parallel
import matplotlib.figure
import nflows
import pyro
import safetensors.torch
import sklearn.datasets
import torch
import torch.distributed.tensor
import torch.utils.tensorboard
import torchvision

import flowprior.commands.compare
import flowprior.commands.evaluate
import flowprior.commands.fit
import flowprior.commands.repair
import flowprior.commands.sample
import flowprior.commands.train
import flowprior.data.embedded
import flowprior.training.engine
from flowprior.cli import main

torch.set_num_threads(1)
TINY = ["Source.limit = 60", "FlowPrior.transforms = 2", "FlowPrior.hidden_features = (4,)"]
TINY += ["FlowPrior.base = 'normal'", "joint_stage.batch_size = 20", "joint_stage.epochs = 2"]
TINY += ["experiment.metrics = ('reconstruction',)"]
GLF = [*TINY, "prior_stage.batch_size = 20", "prior_stage.epochs = 2"]


def bound(bindings: list[str]) -> list[str]:
    """The bindings as words of a command."""
    return [word for binding in bindings for word in ("-b", binding)]


def start(words: list[str], log: Path, die_at: tuple[str, int] | None = None) -> int:
    """Fork a process that runs a command; it may kill itself at the n-th call of a function of `os`."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        if die_at is not None:
            _arm(*die_at)
        main([str(word) for word in words], prog_name="flowprior")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _arm(name: str, calls: int) -> None:
    real, left = getattr(os, name), [calls]

    def counted(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(os, name, counted)


def wait(child: int) -> int:
    """The exit status of a forked process; a signal's number is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(words: list[str], log: Path) -> int:
    """Run a command to its end."""
    return wait(start(words, log))


def kill_within(words: list[str], seconds: float, log: Path, chance: random.Random) -> bool:
    """Kill a command at a random moment of its usual time or at a random write; whether that was in time."""
    if chance.random() < 0.5:
        return wait(start(words, log, (chance.choice(["fsync", "replace"]), chance.randint(1, 12)))) == -9
    child = start(words, log)
    time.sleep(chance.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    return wait(child) == -9
