"""A run under torchrun, with two processes that share each batch, is the run of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowprior.errors import InputError
from flowprior.training import train
from flowprior.training.checkpoint import load_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
import worker

sys.path.pop(0)


def test_two_processes_end_as_one(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *launch, str(Path(worker.__file__)), "shared", str(tmp_path / "two")],
        check=True,
        env=environment,
    )
    model, stages = worker.quiet()
    train(stages, run=tmp_path / "one", precision="64-true", progress=False, tensorboard=False, device="cpu")
    found = load_file(tmp_path / "two" / "weights.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)
    one, two = (
        [line.split(",") for line in (tmp_path / run / "metrics.csv").read_text().splitlines()[1:]]
        for run in ("one", "two")
    )
    assert [row[:2] for row in one] == [row[:2] for row in two]
    assert [float(row[2]) for row in two] == pytest.approx([float(row[2]) for row in one], rel=1e-9)
    tensors = load_checkpoint(tmp_path / "two").tensors
    assert not torch.equal(tensors["random.cpu.0"], tensors["random.cpu.1"]), "each process has its own noise"


def test_a_batch_must_split_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowprior.training import stage_run
    from flowprior.training.averages import Meter
    from flowprior.training.engine import start_fabric

    _, stages = worker.quiet()
    fabric = start_fabric("cpu")
    monkeypatch.setattr(type(fabric), "world_size", property(lambda self: 3))
    with pytest.raises(InputError, match="multiple of the 3 processes"):
        stage_run.StageRun(stages[0], fabric, 0, Meter(), True)
