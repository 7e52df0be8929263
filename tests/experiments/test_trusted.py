"""What was edited, lost, interrupted or refused: said in one sentence, nothing lost, and a way on."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from flowprior.errors import InputError
from flowprior.experiments import run as module
from flowprior.experiments.comparison import Comparison
from flowprior.experiments.runs import read_report, update_report
from flowprior.experiments.study import Study
from flowprior.experiments.unchanged import check_report
from flowprior.training.checkpoint import load_checkpoint

LEFTOVER = f".report.json.{'0' * 16}.tmp"


@pytest.fixture
def copy(trained, tmp_path):
    """A run folder to be damaged."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def short(tiny, options):
    """Arguments of a training of two steps."""
    bindings = [*tiny, "joint_stage.epochs = 1", "prior_stage.epochs = 1", "experiment.metrics = ('nll',)"]
    return ("train", "glf/digits", "--quiet", *options(bindings))


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def said(result, *words, status=2):
    assert result.exit_code == status, result.output + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_checkpoint_and_report_know_the_config(trained):
    notes = load_checkpoint(trained).state["notes"]
    assert notes["config"] == (trained / "config.gin").read_text()
    assert json.loads((trained / "report.json").read_text())["config_sha256"] == notes["config_sha256"]
    assert read_report(trained) == check_report(trained)


def test_an_edited_config_is_not_believed(copy, flowprior, tmp_path):
    config = copy / "config.gin"
    edit(config, "FlowPrior.transforms = 2", "FlowPrior.transforms = 3")
    words = ("FlowPrior.transforms = 3", "there 2", "step-")
    said(flowprior("sample", copy, "--out", tmp_path / "x.npy"), *words, "flowprior repair")
    said(flowprior("eval", copy, "--metrics", "nll"), *words)
    said(flowprior("train", config, "--resume", "--quiet"), *words, "--allow-changed")
    with pytest.raises(InputError, match="another config"):
        check_report(copy)
    result = flowprior("repair", copy)
    assert result.exit_code == 0, result.stderr
    assert "config.gin is again that of step-" in result.stdout
    assert "FlowPrior.transforms = 3" in (copy / "config.damaged-1.gin").read_text()
    assert flowprior("sample", copy, "-n", 2, "--out", tmp_path / "x.npy").exit_code == 0


def test_a_change_that_is_meant_is_said_and_then_known(trained, flowprior, tmp_path):
    run, config = tmp_path / "run", trained / "config.gin"
    assert flowprior("train", config, "--out", run, "--quiet", "--steps", 4).exit_code == 0
    change = ("-b", "prior_stage.epochs = 1")
    resumed = ("train", config, "--out", run, "--resume", "--quiet", *change)
    said(flowprior(*resumed), "prior_stage.epochs = 1", "--allow-changed")
    result = flowprior(*resumed, "--allow-changed")
    assert result.exit_code == 0, result.stderr
    assert "changed: `prior_stage.epochs = 1`" in result.stdout
    assert flowprior("sample", run, "-n", 2, "--out", tmp_path / "x.npy").exit_code == 0
    assert "prior_stage.epochs = 1\n" in load_checkpoint(run).state["notes"]["config"]


def test_an_edited_report_is_not_believed(copy, flowprior):
    report = json.loads((copy / "report.json").read_text())
    nll = report["metrics"]["nll"]
    edit(copy / "report.json", repr(nll), "123.0")
    said(flowprior("eval", copy, "--metrics", "nll"), "report.json", "checksum does not match")
    study = Study(rows={"run": ()}, metrics=("nll",))
    (copy.parent / "study" / "run").mkdir(parents=True)
    shutil.copytree(copy, copy.parent / "study" / "run" / "seed0")
    with pytest.raises(InputError, match="checksum"):
        Comparison(study, "s", "", copy.parent / "study", 1).table()
    result = flowprior("repair", copy)
    assert result.exit_code == 0, result.stderr
    assert "report.damaged-1.json" in result.stdout
    result = flowprior("train", copy / "config.gin", "--resume", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert read_report(copy)["metrics"]["nll"] == nll
    update_report(copy, metrics={"other": 1.0})
    assert read_report(copy)["metrics"] == report["metrics"] | {"other": 1.0}


def test_a_lost_manifest_loses_nothing(copy, flowprior):
    before = {path: path.read_bytes() for path in (copy / "checkpoints").iterdir()}
    (copy / "checkpoints" / "manifest.json").unlink()
    said(flowprior("train", copy / "config.gin", "--resume", "--quiet"), "manifest.json", "flowprior repair")
    (copy / "config.gin").rename(copy.parent / "away.gin")
    said(flowprior("train", copy.parent / "away.gin", "--resume", "--out", copy), "no config.gin", "repair")
    result = flowprior("repair", copy)
    assert result.exit_code == 0, result.stderr
    assert {path: path.read_bytes() for path in (copy / "checkpoints").iterdir()} == before
    assert (copy / "config.gin").read_text() == (copy.parent / "away.gin").read_text()
    said(flowprior("repair", copy.parent), "no checkpoint")


def test_a_run_of_an_older_version_goes_on(copy, flowprior, tmp_path, monkeypatch):
    """Without hashes, notes, checksums of its own: as 0.1.0 wrote it."""
    from flowprior.training import checkpoint

    newest = load_checkpoint(copy)
    monkeypatch.setattr(checkpoint, "seal", lambda payload: payload.replace(b"sha256", b"sha000"))
    gone = ("notes", "log_sha256")
    state = {name: value for name, value in newest.state.items() if name not in gone}
    checkpoint.save_checkpoint(copy, state["progress"]["step"], newest.tensors, state)
    monkeypatch.undo()
    report = json.loads((copy / "report.json").read_text())
    (copy / "report.json").write_text(json.dumps({k: v for k, v in report.items() if "sha256" not in k}))
    for words in (
        ("sample", copy, "-n", 2, "--out", tmp_path / "x.npy"),
        ("eval", copy, "--metrics", "nll"),
        ("train", copy / "config.gin", "--resume", "--quiet"),
    ):
        result = flowprior(*words)
        assert result.exit_code == 0, result.stderr
    newest.path.with_name("manifest.json").unlink()
    result = flowprior("repair", copy)
    assert "carries no checksum of its own" in result.stdout + result.stderr


@pytest.mark.parametrize("what", ["SIGTERM", "config", "folder"])
def test_the_closing_report_heeds_signals_and_what_vanishes(what, short, flowprior, tmp_path, monkeypatch):
    run, real = tmp_path / "run", module.measure

    def measure(*arguments, **options):
        if what == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        elif what == "config":
            (run / "config.gin").unlink()
        else:
            run.rename(tmp_path / "elsewhere")
        return real(*arguments, **options)

    monkeypatch.setattr(module, "measure", measure)
    result = flowprior(*short, "--out", run)
    assert result.exit_code == (143 if what == "SIGTERM" else 1)
    assert "finished" not in result.stdout
    monkeypatch.undo()
    if what == "folder":
        assert "removed, moved" in result.stderr
        return
    assert not (run / ".lock").exists()
    if what == "config":
        assert "config.gin vanished" in result.stderr
        assert flowprior("repair", run).exit_code == 0
    result = flowprior("train", run / "config.gin", "--resume", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "finished: " in result.stdout


def test_what_a_killed_start_leaves_can_be_started_and_resumed(trained, short, flowprior, tmp_path):
    for option in ((), ("--resume",)):
        run = tmp_path / f"run{len(option)}"
        for folder in ("figures", "checkpoints", "tensorboard"):
            (run / folder).mkdir(parents=True)
        (run / ".lock").write_text('{"process": 1}')
        for name in (LEFTOVER, f"figures/{LEFTOVER}", f"checkpoints/{LEFTOVER}"):
            (run / name).touch()
        result = flowprior(*short, "--out", run, *option)
        assert result.exit_code == 0, result.stderr
        assert not list(run.rglob(".*"))
    run = tmp_path / "ours"
    run.mkdir()
    shutil.copy(trained / "config.gin", run)  # of another run, killed before its first checkpoint
    assert flowprior(*short, "--out", run).exit_code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.gin").write_text("# mine\ninclude 'glf/digits.gin'\n")
    said(flowprior(*short, "--out", tmp_path / "mine"), "not empty")


def test_overwrite_replaces_a_run_once_the_new_one_is_possible(copy, short, flowprior):
    (copy / "mine.txt").touch()
    before = (copy / "report.json").read_bytes()
    said(flowprior(*short, "--out", copy, "--overwrite", "-b", "SmallEncoder.channels = 3"), "N, 3, 8, 8")
    assert (copy / "report.json").read_bytes() == before
    said(flowprior(*short, "--out", copy, "--overwrite", "--resume"), "exclude each other")
    result = flowprior(*short, "--out", copy, "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert read_report(copy)["metrics"].keys() == {"nll"}
    assert (copy / "mine.txt").exists()
    for path in [*copy.rglob("*")]:
        path.unlink() if path.is_file() and path.name != "mine.txt" else None
    said(flowprior(*short, "--out", copy, "--overwrite"), "other files")


def test_refused_input_leaves_no_folder_behind(short, flowprior, tmp_path):
    wrong = ("-b", "joint_stage.frozen = ('autoencoder', 'prior')")
    said(flowprior(*short, "--out", tmp_path / "run", *wrong), "nothing to train")
    assert not (tmp_path / "run").exists()


def test_a_fit_killed_while_writing_can_be_fitted_again(flowprior, tmp_path):
    np.save(tmp_path / "z.npy", np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32))
    out = tmp_path / "p"
    fit = (
        "fit",
        tmp_path / "z.npy",
        "--out",
        out,
        "--epochs",
        1,
        "--transforms",
        2,
        "--hidden",
        "4",
        "--quiet",
    )
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"of another program")
    said(flowprior(*fit), "exists already")
    (out / ".lock").write_text('{"process": 1}')
    (out / f".config.json.{'0' * 16}.tmp").touch()
    assert flowprior(*fit).exit_code == 0
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "report.json"}
    said(flowprior(*fit), "--overwrite")
    assert flowprior(*fit, "--overwrite").exit_code == 0


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_folder_in_use_is_refused_before_anything_is_written(command, copy, short, flowprior):
    import threading

    from flowprior.locks import locked

    entered, leave = threading.Event(), threading.Event()

    def hold():
        with locked(copy):
            entered.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait()
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    try:
        words = short if command == "train" else ("compare", "dpvae/moons", "--quiet")
        for option in ((), ("--overwrite",)) if command == "train" else ((),):
            said(flowprior(*words, "--out", copy, *option), f"in use by process {os.getpid()}")
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    finally:
        leave.set()
        holder.join()
