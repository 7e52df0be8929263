"""Runs that are killed at any moment and resumed end as if nothing had happened."""

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from flowprior.training.checkpoint import load_checkpoint

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted, stopped in the middle of its second stage."""
    folder = tmp_path_factory.mktemp("whole")
    assert server.run(folder) == 0
    return folder


def same(one: Path, other: Path) -> None:
    """Weights, optimizers, averages, best weights, random states, positions and logs agree bit by bit."""
    a, b = load_checkpoint(one), load_checkpoint(other)
    assert a.tensors.keys() == b.tensors.keys()
    assert {name.split(".")[0] for name in a.tensors} >= {"objective", "optimizer", "ema", "best", "random"}
    for name, value in a.tensors.items():
        assert torch.equal(value, b.tensors[name]), name
    for state in (a.state, b.state):
        for clock in ("seconds", "epoch_began"):
            state["progress"].pop(clock)
        for entry in state["progress"]["history"]:
            entry.pop("seconds")
    assert a.state == b.state
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()


CHOOSE = random.Random(20261120)
STEPS = {"first stage": CHOOSE.sample(range(1, 20), 3), "second stage": CHOOSE.sample(range(20, 33), 3)}


@pytest.mark.parametrize("step", [step for steps in STEPS.values() for step in steps])
def test_killed_at_a_step(server: Any, whole: Path, tmp_path: Path, step: int) -> None:
    assert server.run(tmp_path, plan={"step": step}) == KILLED
    assert server.run(tmp_path, resume=True) == 0
    same(whole, tmp_path)


@pytest.mark.parametrize(
    "plan", [{"write": 5}, {"write": 18}, {"fsync": 9}, {"replace": 7}, {"replace": 8}], ids=str
)
def test_killed_while_a_checkpoint_is_written(
    server: Any, whole: Path, tmp_path: Path, plan: dict[str, int]
) -> None:
    assert server.run(tmp_path, plan=plan) == KILLED
    assert server.run(tmp_path, resume=True) == 0
    same(whole, tmp_path)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert len(kept) == 4, "three checkpoints and the manifest; what the killed write left is gone"


def test_killed_again_and_again(server: Any, whole: Path, tmp_path: Path) -> None:
    assert server.run(tmp_path, plan={"step": 6}) == KILLED
    for step in (9, 13, 21, 22, 28):
        assert server.run(tmp_path, resume=True, plan={"step": step}) == KILLED
    assert server.run(tmp_path, resume=True) == 0
    same(whole, tmp_path)


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_signal_lets_the_step_finish_and_leaves_a_checkpoint(
    server: Any, whole: Path, tmp_path: Path, name: str
) -> None:
    child = server.start(tmp_path, options={"max_steps": 10**9, "checkpoint_every": 10**9, "slow": True})
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoints" / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    subprocess.run(["kill", f"-{name}", str(child)], check=True)
    assert server.wait() == 128 + getattr(signal, f"SIG{name}")
    stopped = load_checkpoint(tmp_path).state["progress"]["step"]
    assert 0 < stopped < 33
    assert server.run(tmp_path, resume=True) == 0
    same(whole, tmp_path)
