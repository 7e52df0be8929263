"""Checkpoints: damage is noticed and named, a full disk leaves the last good one."""

import json
import logging
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import flowprior.training.checkpoint as module
from flowprior.errors import InputError, RunError
from flowprior.priors import FlowPrior
from flowprior.training.checkpoint import (
    has_checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)


def save(run: Path, step: int, keep: int = 3, size: int = 4) -> Path:
    tensors = {"a": torch.full((size,), float(step)), "b": torch.tensor([step]), "none": torch.zeros(0)}
    return save_checkpoint(run, step, tensors, {"step": step, "half": 0.1}, keep)


def test_what_is_saved_is_loaded_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    assert not has_checkpoints(tmp_path)
    for step in range(5):
        save(tmp_path, step)
    assert has_checkpoints(tmp_path)
    found = load_checkpoint(tmp_path)
    assert found.state == {"step": 4, "half": 0.1}
    assert found.tensors["a"].tolist() == [4.0] * 4
    assert found.tensors["b"].tolist() == [4]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["manifest.json", *(f"step-{step:09d}.safetensors" for step in (2, 3, 4))]


def test_another_safetensors_reader_agrees(tmp_path: Path) -> None:
    assert load_file(save(tmp_path, 7))["a"].tolist() == [7.0] * 4


def test_shared_tensors_are_stored_once_and_come_back_under_both_names(tmp_path: Path) -> None:
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    alone = save_checkpoint(tmp_path / "one", 0, {"a": weight}, {}).stat().st_size
    both = (
        save_checkpoint(tmp_path / "two", 0, {"a": weight, "b": weight, "part": weight[:2]}, {})
        .stat()
        .st_size
    )
    assert both < alone + 500
    found = load_checkpoint(tmp_path / "two").tensors
    assert torch.equal(found["a"], weight)
    assert torch.equal(found["b"], weight)
    assert torch.equal(found["part"], weight[:2])


def flip(path: Path) -> None:
    payload = bytearray(path.read_bytes())
    payload[-3] ^= 16
    path.write_bytes(payload)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(flip, "bit has flipped"), (truncate, "truncated"), (Path.unlink, "missing")],
    ids=["flip", "truncate", "missing"],
)
def test_damage_is_named_and_the_newest_valid_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage, reason: str
) -> None:
    paths = [save(tmp_path, step) for step in range(3)]
    damage(paths[2])
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(tmp_path).state["step"] == 1
    assert paths[2].name in caplog.text
    assert reason in caplog.text
    for path in paths[:2]:
        damage(path)
    with pytest.raises(InputError, match="No valid checkpoint") as error:
        load_checkpoint(tmp_path)
    assert all(path.name in str(error.value) for path in paths)
    assert str(error.value).count(reason) == 3


@pytest.mark.parametrize("text", ["", "{", '{"checkpoints": 3}', '{"checkpoints": [{}]}', "[]"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    save(tmp_path, 1)
    (tmp_path / "checkpoints" / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        load_checkpoint(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORMAT", 99)
    save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 99"):
        load_checkpoint(tmp_path)


def test_a_pickle_in_the_place_of_a_checkpoint_is_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    torch.save({"a": 1}, path)
    manifest = tmp_path / "checkpoints" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["checkpoints"][0] |= {"bytes": path.stat().st_size}
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match="checksum"):
        load_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the kernel refuses to write more to a file
    try:
        with pytest.raises(RunError, match="could not be written") as error:
            save(tmp_path, 2, size=10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step 2" in str(error.value)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before
    assert load_checkpoint(tmp_path).state["step"] == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_any_refusal_of_the_file_system_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save(tmp_path, 1)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(RunError, match="No space left on device"):
        save(tmp_path, 2)
    assert load_checkpoint(tmp_path).state["step"] == 1


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(2, 3)


def store(run: Path, whole: nn.Module, **extra: torch.Tensor) -> None:
    tensors = {f"objective.0.{name}": value for name, value in whole.state_dict().items()} | extra
    save_checkpoint(run, 5, tensors, {"progress": {"stage": 0, "step": 5}})


def test_weights_of_a_whole_and_of_a_part(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Whole()
    store(tmp_path, nn.ModuleDict({"model": whole}))
    again = Whole()
    assert load_weights(tmp_path, again) == 5
    assert torch.equal(again.second.weight, whole.second.weight)
    unlike = nn.Sequential(nn.Linear(2, 3), nn.PReLU(3))
    store(tmp_path, nn.ModuleDict({"model": whole, "head": unlike}))
    head = nn.Sequential(nn.Linear(2, 3), nn.PReLU(3))
    load_weights(tmp_path, head)
    assert torch.equal(head[0].weight, unlike[0].weight)


@pytest.mark.parametrize("module", [nn.ModuleDict({"third": nn.Linear(2, 3)}), nn.Linear(2, 4)], ids=str)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, module: nn.Module) -> None:
    store(tmp_path, Whole())
    with pytest.raises(InputError, match="does not fit"):
        load_weights(tmp_path, module)


def test_a_part_that_could_be_several_is_refused(tmp_path: Path) -> None:
    store(tmp_path, Whole())
    with pytest.raises(InputError, match="2 parts"):
        load_weights(tmp_path, nn.Linear(2, 3))


def test_averaged_weights_come_before_raw_ones_and_best_ones_before_both(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, found = Whole(), Whole()
    averaged = {f"ema.{name}": value + 1 for name, value in whole.state_dict().items()}
    store(tmp_path / "averaged", whole, **averaged)
    load_weights(tmp_path / "averaged", found)
    assert torch.equal(found.first.weight, whole.first.weight + 1)
    best = {f"best.{name}": value + 2 for name, value in whole.state_dict().items()}
    store(tmp_path / "best", whole, **averaged, **best)
    load_weights(tmp_path / "best", found)
    assert torch.equal(found.first.weight, whole.first.weight + 2)


def test_averaged_weights_of_a_shared_prior_reach_the_whole_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Whole()
    tensors = {f"objective.0.model.{name}": value for name, value in whole.state_dict().items()}
    tensors |= {f"objective.1.{name}": value for name, value in whole.second.state_dict().items()}
    tensors["ema.weight"] = whole.second.weight + 1
    save_checkpoint(tmp_path, 5, tensors, {"progress": {"stage": 1, "step": 5}})
    found = Whole()
    load_weights(tmp_path, found)
    assert torch.equal(found.second.weight, whole.second.weight + 1)
    assert torch.equal(found.second.bias, whole.second.bias)
    assert torch.equal(found.first.weight, whole.first.weight)


def test_weights_of_a_prior_bring_its_whitening(tmp_path: Path) -> None:
    torch.manual_seed(0)
    prior = FlowPrior(2, transforms=2, hidden_features=(4,))
    prior.initialize(torch.randn(50, 2) * 3 + 1)
    store(tmp_path, nn.ModuleDict({"prior": prior}))
    again = FlowPrior(2, transforms=2, hidden_features=(4,))
    load_weights(tmp_path, again)
    z = torch.randn(5, 2)
    assert torch.equal(again.log_prob(z), prior.log_prob(z))
