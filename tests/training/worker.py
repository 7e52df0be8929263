"""What the tests of killed and distributed runs start in processes of their own; not a test itself.

`worker.py serve` forks a child for each JSON line on its standard input, so that torch is imported once.
`worker.py shared FOLDER` is one of the processes that `torchrun` starts.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.models import Autoencoder
from flowprior.models.posteriors import GaussianPosterior
from flowprior.networks import MLP
from flowprior.objectives import ELBO
from flowprior.priors import FlowPrior
from flowprior.training import Stage, TrainResult, joint_stage, prior_stage, train

STEPS = 33  # of 45: in the middle of the second stage, so that its last checkpoint holds everything
PLAN = {"step": -1, "pause": 0.0}  # at which step to die, and how long to wait at each


def note(step: int) -> None:
    """Called at each step."""
    time.sleep(PLAN["pause"])
    if step == PLAN["step"]:
        kill_self()


class Watched(ELBO):
    """ELBO that notes each step."""

    def losses(self, player: str, batch: Any, step: int) -> dict[str, Tensor]:
        note(step)
        return super().losses(player, batch, step)


def build(batch_norm: bool = True) -> tuple[Autoencoder, list[Stage]]:
    """A small VAE with all that has a state: noise, dropout, batch norm, EMA, validation, a schedule."""
    torch.manual_seed(0)
    body = [nn.BatchNorm1d(8), nn.Dropout(0.2)] if batch_norm else []
    encoder = nn.Sequential(nn.Linear(6, 8), *body, nn.ReLU(), nn.Linear(8, 4))
    prior = FlowPrior(2, transforms=2, hidden_features=(8,), base="mixture" if batch_norm else "normal")
    model = Autoencoder(encoder, MLP(2, 6, (8,)), prior, posterior=GaussianPosterior())
    data = {"x": torch.rand(223, 6, generator=torch.Generator().manual_seed(1))}
    joint = joint_stage(
        model, data, objective=Watched, epochs=2, batch_size=20, ema=0.9, clip=5.0, validation=0.1
    )
    prior_only = prior_stage(model, data, epochs=3, batch_size=22, validation=0.1, patience=5)
    inner = prior_only.objective.losses

    def losses(player: str, batch: Any, step: int) -> dict[str, Tensor]:
        note(step)
        return inner(player, batch, step)

    prior_only.objective.losses = losses  # type: ignore[method-assign]
    return model, [joint, prior_only]


def run(folder: str, resume: bool, slow: bool = False, **options: Any) -> TrainResult:
    """The run that is killed and resumed; a slow one waits at every step for a signal to come."""
    PLAN["pause"] = 0.3 if slow else 0.0
    _, stages = build()
    settings = {"checkpoint_every": 4, "log_every": 3, "max_steps": STEPS, "progress": False} | options
    return train(stages, run=folder, resume=resume, tensorboard=False, device="cpu", **settings)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(plan: dict[str, int]) -> None:
    """Make this process kill itself: at a step, or at the n-th write, fsync or rename of a file."""
    PLAN["step"] = plan.get("step", -1)
    for name in ("fsync", "replace"):
        if name in plan:
            _count(name, plan[name])
    if "write" in plan:
        real = os.fdopen
        left = [plan["write"]]

        def fdopen(*arguments: Any, **options: Any) -> Any:
            stream = real(*arguments, **options)
            left[0] -= 1
            if left[0] == 0:
                whole = stream.write

                class Half:
                    def __enter__(self) -> "Half":
                        return self

                    def __exit__(self, *error: object) -> None:
                        stream.close()

                    def write(self, payload: bytes) -> None:
                        whole(payload[: len(payload) // 2])
                        stream.flush()
                        kill_self()

                return Half()
            return stream

        os.fdopen = fdopen


def _count(name: str, calls: int) -> None:
    real, left = getattr(os, name), [calls]

    def wrapped(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            kill_self()
        return real(*arguments)

    setattr(os, name, wrapped)


def serve() -> None:
    """For each line {"folder", "resume", "plan"} on stdin: fork, run, answer with the child's exit status."""
    import lightning_fabric  # noqa: F401  (imported once, before the forks)

    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                arm(task.get("plan", {}))
                run(task["folder"], task["resume"], **task.get("options", {}))
                status = 0
            except SystemExit as leaving:
                status = int(leaving.code or 0)
            except KeyboardInterrupt:
                status = 130
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def shared(folder: str) -> None:
    """Two halves of a run, shared by the processes of torchrun; the first one saves the weights."""
    from safetensors.torch import save_file

    def once(resume: bool, **options: Any) -> Autoencoder:
        model, stages = quiet()
        train(
            stages[:1],
            run=folder,
            resume=resume,
            precision="64-true",
            progress=False,
            device="cpu",
            **options,
        )
        return model

    once(False, max_steps=7)
    model = once(True)
    if os.environ["RANK"] == "0":
        save_file(dict(model.state_dict()), str(Path(folder) / "weights.safetensors"))


def quiet() -> tuple[Autoencoder, list[Stage]]:
    """Stages without noise or batch statistics, which differ between the processes."""
    model, stages = build(batch_norm=False)
    from flowprior.models.posteriors import DeterministicPosterior
    from flowprior.objectives import LatentFlow

    model.posterior = DeterministicPosterior()
    model.encoder[-1] = nn.Linear(8, 2)
    joint = joint_stage(
        model,
        stages[0].data,
        objective=LatentFlow,
        epochs=2,
        batch_size=20,
        ema=0.9,
        clip=5.0,
        validation=0.1,
    )
    return model, [joint]


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve() if sys.argv[1] == "serve" else shared(sys.argv[2])
