"""What the tests of killed and distributed runs start in processes of their own; not a test itself.

It forks a child for each JSON line on its standard input, so that torch is imported once.
"""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.models import Autoencoder
from flowprior.models.posteriors import DeterministicPosterior, GaussianPosterior
from flowprior.networks import MLP
from flowprior.networks.critics import LatentCritic
from flowprior.objectives import ELBO, AdversarialAutoencoder, FactorVAE, LatentFlow, Objective
from flowprior.priors import FlowPrior, ImplicitPrior
from flowprior.training import OptimizerSettings, Stage, TrainResult, joint_stage, prior_stage, train

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
    import torch.distributed.launcher.api
    import torch.distributed.tensor  # noqa: F401  (all imported once, before the forks)

    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(2, 1)  # standard output is for answers
                if task.get("shared"):
                    shared(task["folder"])
                else:
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
    """Two processes under torchrun's agent, which starts both again after the second one has died."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    options = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "shared"}
    config = LaunchConfig(1, 1, 2, **options, start_method="fork", max_restarts=1, monitor_interval=0.1)
    elastic_launch(config, process)(folder)


def process(folder: str) -> None:
    """What each does: first all that is to end well, then the run in which the second process dies."""
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        undisturbed(folder)
        if os.environ["RANK"] == "1":
            arm({"step": 26})
    restarted = Path(folder) / "restarted"
    run(str(restarted), resume=(restarted / "checkpoints").exists())


def undisturbed(folder: str) -> None:
    """What two processes do together; the first one saves the weights of the resumed run."""
    from safetensors.torch import save_file

    options = {"progress": False, "tensorboard": False, "device": "cpu"}
    for name in METHODS:
        train([method(name)], run=f"{folder}/{name}", log_every=1, **options)
    run(f"{folder}/undisturbed", resume=False)
    for strategy, precision in STRATEGIES.items():
        more = {"run": f"{folder}/{strategy}", "strategy": strategy, "precision": precision, **options}
        for resume in (False, True):
            model, stages = quiet()
            train(stages, resume=resume, max_steps=None if resume else 7, **more)
        if os.environ["RANK"] == "0":
            save_file(dict(model.state_dict()), f"{folder}/{strategy}.safetensors")


STRATEGIES = {"ddp": "64-true", "fsdp": "32-true"}
METHODS = ("glf", "factor_vae", "aae")


def method(name: str, processes: int = 1) -> Stage:
    """50 steps of a method on networks without batch statistics; see `InShares` for `processes`."""
    torch.manual_seed(0)
    posterior = GaussianPosterior() if name == "factor_vae" else DeterministicPosterior()
    prior = ImplicitPrior(2, hidden_features=(8,)) if name == "aae" else FlowPrior(2, hidden_features=(8,))
    encoder = MLP(6, posterior.out_features(2), (8,))
    model = Autoencoder(encoder, MLP(2, 6, (8,)), prior, posterior=posterior)
    objective = {
        "glf": lambda: LatentFlow(model),
        "factor_vae": lambda: FactorVAE(model, critic=partial(LatentCritic, hidden=(16, 16))),
        "aae": lambda: AdversarialAutoencoder(
            model, beta=0.5, critic=partial(MLP, out_features=1, hidden=(16, 16)), gradient_penalty=1.0
        ),
    }[name]()
    data = {"x": torch.rand(200, 6, generator=torch.Generator().manual_seed(1))}
    if processes > 1:
        objective = InShares(objective, processes)
    return Stage(name, objective, data, 5, 20, OptimizerSettings())


class InShares(Objective):
    """An objective on the global batch, in one process, that draws as several processes would.

    Each share of the batch has the random numbers of its process, and is what a process permutes.
    """

    def __init__(self, objective: Objective, processes: int) -> None:
        super().__init__()
        self.objective, self.players = objective, objective.players
        self.random = [torch.Generator().manual_seed(rank).get_state() for rank in range(processes)]

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        return self.objective.parameter_groups(player)

    def losses(self, player: str, batch: Any, step: int) -> dict[str, Tensor]:
        terms = []
        for rank, state in enumerate(self.random):
            torch.set_rng_state(state)
            share = {name: value[rank :: len(self.random)] for name, value in batch.items()}
            terms.append(self.objective.losses(player, share, step))
            self.random[rank] = torch.get_rng_state()
        return {name: torch.stack([each[name] for each in terms]).mean() for name in terms[0]}


def quiet() -> tuple[Autoencoder, list[Stage]]:
    """Stages without noise or batch statistics, which differ between the processes."""
    model, stages = build(batch_norm=False)
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
    serve()
