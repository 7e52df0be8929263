"""Manifests that are lost or damaged, checkpoints that are edited: nothing is deleted, nothing believed."""

import json
import os
import signal
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowprior.errors import InputError, RunError
from flowprior.objectives import Objective
from flowprior.training import OptimizerSettings, Stage, train
from flowprior.training.checkpoint import (
    has_checkpoints,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    tidy_checkpoints,
)

QUIET = {"progress": False, "device": "cpu", "tensorboard": False}
MANIFEST = "checkpoints/manifest.json"


class Line(Objective):
    """x -> x by a linear layer."""

    players = ("model",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(3, 3)

    def parameter_groups(self, player: str) -> dict[str, list[nn.Parameter]]:
        return {"layer": list(self.layer.parameters())}

    def losses(self, player: str, batch, step: int) -> dict[str, Tensor]:
        return {"loss": (self.layer(batch["x"]) - batch["x"]).square().mean()}


def stage(**settings) -> Stage:
    data = {"x": torch.randn(47, 3, generator=torch.Generator().manual_seed(1))}
    return Stage("fit", Line(), data, 3, 10, OptimizerSettings(lr=0.01), **settings)


def save(run: Path, *steps: int, keep: int = 3) -> list[Path]:
    return [
        save_checkpoint(run, step, {"a": torch.full((9,), float(step))}, {"step": step}, keep)
        for step in steps
    ]


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def listed(run: Path) -> list[int]:
    return [entry["step"] for entry in json.loads((run / MANIFEST).read_text())["checkpoints"]]


def sign(run: Path, path: Path) -> None:
    """Make the manifest agree with an edited file."""
    content = json.loads((run / MANIFEST).read_text())
    for entry in content["checkpoints"]:
        if entry["file"] == path.name:
            entry |= {"bytes": path.stat().st_size, "sha256": sha256(path.read_bytes()).hexdigest()}
    (run / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize("text", [None, "", '{"checkpoints": [{}]}'], ids=["missing", "empty", "damaged"])
def test_a_lost_manifest_is_rebuilt_from_the_files(tmp_path: Path, text: str | None) -> None:
    paths = save(tmp_path, 1, 2, 3)
    manifest = tmp_path / MANIFEST
    manifest.unlink() if text is None else manifest.write_text(text)
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"\x07")
    before = names(tmp_path)
    assert has_checkpoints(tmp_path)
    with pytest.raises(InputError, match=r"manifest\.json .*flowprior repair"):
        load_checkpoint(tmp_path)
    assert names(tmp_path) == before
    lines, left = list_checkpoints(tmp_path)
    assert lines == [paths[0].name, paths[2].name]
    assert left == [f"{paths[1].name} does not match the checksum that it carries"]
    assert load_checkpoint(tmp_path).state == {"step": 3}
    assert all(path.exists() for path in paths)


def test_what_is_not_listed_is_never_removed(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / MANIFEST).unlink()
    foreign = tmp_path / "checkpoints" / "step-mine.safetensors"
    foreign.touch()
    save(tmp_path, 4, 5, 6, 7)
    assert listed(tmp_path) == [5, 6, 7]
    assert {f"step-{step:09d}.safetensors" for step in (1, 2, 3, 5, 6, 7)} | {foreign.name} <= set(
        names(tmp_path)
    )


def test_a_checkpoint_that_a_killed_run_had_not_listed_is_taken(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    before = (tmp_path / MANIFEST).read_bytes()
    newest = save(tmp_path, 3)[0]
    (tmp_path / MANIFEST).write_bytes(before)
    found = load_checkpoint(tmp_path)
    assert (found.state, found.listed) == ({"step": 3}, False)
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x07")
    assert load_checkpoint(tmp_path).state == {"step": 2}


def test_a_removal_that_was_cut_short_is_done_later(tmp_path: Path) -> None:
    first = save(tmp_path, 1)[0]
    kept = first.read_bytes()
    save(tmp_path, 2, 3, 4)
    first.write_bytes(kept)  # as if killed between the manifest and the removal
    assert load_checkpoint(tmp_path).state == {"step": 4}
    tidy_checkpoints(tmp_path)
    assert not first.exists()


def test_an_edited_checkpoint_is_not_believed_although_the_manifest_agrees(tmp_path: Path) -> None:
    _, path = save(tmp_path, 1, 2)
    edited = path.read_bytes().replace(b'step\\": 2', b'step\\": 9')
    assert edited != path.read_bytes()
    path.write_bytes(edited)
    sign(tmp_path, path)
    assert load_checkpoint(tmp_path).state == {"step": 1}
    tensors = load_file(save(tmp_path, 3)[0])
    save_file(tensors, path)
    sign(tmp_path, path)
    (tmp_path / "checkpoints" / "step-000000003.safetensors").unlink()
    assert load_checkpoint(tmp_path).state == {"step": 1}


@pytest.mark.parametrize("name", ["/dev/zero", "../../outside.safetensors", "step-1.safetensors"])
def test_a_manifest_cannot_name_other_files(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    content = json.loads((tmp_path / MANIFEST).read_text())
    content["checkpoints"][0]["file"] = name
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(InputError, match="is no checkpoint"):
        load_checkpoint(tmp_path)


def test_a_place_that_no_run_reaches_is_refused(tmp_path: Path) -> None:
    train([stage()], run=tmp_path, **QUIET)
    newest = load_checkpoint(tmp_path)
    for change in ({"stage": 99}, {"epoch": -1}, {"unknown": 1}):
        state = newest.state | {"progress": newest.state["progress"] | change}
        save_checkpoint(tmp_path, 99, newest.tensors, state)
        with pytest.raises(InputError, match="which no run of 1 stages reaches"):
            train([stage()], run=tmp_path, resume=True, **QUIET)


def test_without_an_optimizers_state_a_stage_does_not_go_on(tmp_path: Path) -> None:
    train([stage(ema=0.9)], run=tmp_path, max_steps=6, **QUIET)
    newest = load_checkpoint(tmp_path)
    tensors = {name: value for name, value in newest.tensors.items() if not name.startswith("ema.")}
    save_checkpoint(tmp_path, 99, tensors, newest.state)
    with pytest.raises(InputError, match="does not fit stage 'fit'"):
        train([stage(ema=0.9)], run=tmp_path, resume=True, **QUIET)


@pytest.mark.parametrize("damage", ["edited", "missing"])
def test_a_changed_log_is_noticed(tmp_path: Path, damage: str) -> None:
    train([stage()], run=tmp_path, max_steps=6, **QUIET)
    log = tmp_path / "metrics.csv"
    text = log.read_bytes()
    log.write_bytes(text.replace(b"0.", b"1.", 1)) if damage == "edited" else log.unlink()
    with pytest.raises(InputError, match=r"metrics\.csv has (changed|vanished).*--allow-changed"):
        train([stage()], run=tmp_path, resume=True, **QUIET)
    result = train([stage()], run=tmp_path, resume=True, allow_changed=True, **QUIET)
    assert result.finished


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_in_any_epoch_is_heeded_and_the_run_continues(tmp_path: Path, name: str, epoch: int) -> None:
    """In the last epoch of the last stage, too."""
    number = getattr(signal, name)

    def tell(end) -> None:
        if end.epoch == epoch:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt if name == "SIGINT" else SystemExit) as ended:
        train([stage()], run=tmp_path, on_epoch=tell, **QUIET)
    if name != "SIGINT":
        assert ended.value.code == 128 + number
    step = load_checkpoint(tmp_path).state["progress"]["step"]
    assert step == 4 * epoch
    assert train([stage()], run=tmp_path, resume=True, **QUIET).finished


def test_a_folder_that_vanishes_stops_the_run_and_is_not_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def move(end) -> None:
        if end.epoch == 2:
            run.rename(tmp_path / "elsewhere")

    with pytest.raises(RunError, match="was removed, moved or unlocked"):
        train([stage()], run=run, on_epoch=move, **QUIET)
    assert not run.exists()
