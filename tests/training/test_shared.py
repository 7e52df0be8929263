"""Runs under torchrun's agent, with two processes that share each batch, are the runs of one process."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flowprior.errors import InputError
from flowprior.training import players, train
from flowprior.training.checkpoint import load_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
import worker
from test_killed import same

sys.path.pop(0)

QUIET = {"progress": False, "tensorboard": False, "device": "cpu"}


@pytest.fixture(scope="module")
def two(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of two processes."""
    folder = tmp_path_factory.mktemp("two")
    assert server.run(folder, shared=True) == 0
    return folder


def logged(run: Path) -> dict[tuple[int, str], float]:
    with (run / "metrics.csv").open() as stream:
        return {(int(step), name): float(value) for step, name, value in list(csv.reader(stream))[1:]}


@pytest.mark.parametrize("name", worker.METHODS)
def test_losses_are_those_of_one_process(two: Path, tmp_path: Path, name: str) -> None:
    stage = worker.method(name, processes=1 if name == "glf" else 2)  # GLF draws nothing
    train([stage], run=tmp_path, log_every=1, **QUIET)
    one, both = logged(tmp_path), logged(two / name)
    assert max(step for step, _ in one) == 50
    assert both == pytest.approx(one, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("strategy", "close"), [("ddp", 1e-12), ("fsdp", 1e-5)])
def test_two_processes_end_as_one(two: Path, tmp_path: Path, strategy: str, close: float) -> None:
    model, stages = worker.quiet()
    train(stages, run=tmp_path, precision=worker.STRATEGIES[strategy], **QUIET)
    weights = load_file(two / f"{strategy}.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=close, atol=close)
    assert logged(two / strategy) == pytest.approx(logged(tmp_path), rel=max(close, 1e-9))
    one, both = (load_checkpoint(run).tensors for run in (tmp_path, two / strategy))
    assert one.keys() == both.keys() - {"random.cpu.1"}
    assert all(both[name].shape == value.shape for name, value in one.items())
    assert not torch.equal(both["random.cpu.0"], both["random.cpu.1"]), "each process has its own noise"


def test_a_process_that_is_killed_leaves_no_trace(two: Path) -> None:
    same(two / "undisturbed", two / "restarted")


def test_a_batch_must_split_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowprior.training import stage_run
    from flowprior.training.averages import Meter
    from flowprior.training.engine import start_fabric

    _, stages = worker.quiet()
    fabric = start_fabric("cpu")
    monkeypatch.setattr(type(fabric), "world_size", property(lambda self: 3))
    with pytest.raises(InputError, match="multiple of the 3 processes"):
        stage_run.StageRun(stages[0], fabric, 0, Meter(), True)


def test_what_a_strategy_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(players, "is_sharded", lambda fabric: True)
    with pytest.raises(InputError, match="one player, and FactorVAE has model, critic"):
        train([worker.method("factor_vae")], **QUIET)
    with pytest.raises(InputError, match=r"fsdp.*has no precision '64-true'"):
        train([worker.method("glf")], strategy="fsdp", precision="64-true", **QUIET)
    with pytest.raises(InputError, match="sync_batch_norm"):
        train([worker.method("glf")], sync_batch_norm=True, **QUIET)
