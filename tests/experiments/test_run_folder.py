"""What a training leaves behind, and what the verbs make of it."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image


def test_run_folder_and_report(trained):
    names = {path.name for path in trained.iterdir()}
    assert {
        "config.gin",
        "metrics.csv",
        "checkpoints",
        "samples.png",
        "reconstructions.png",
        "figures",
    } <= names
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"step", "name", "value"}
    assert {"train/reconstruction", "train/nll"} <= {row["name"] for row in rows}
    grids = [path.name for path in (trained / "figures").iterdir()]
    assert "curves.png" in grids
    assert any(name.startswith("samples-step-") for name in grids)
    report = json.loads((trained / "report.json").read_text())
    assert report["finished"] is True
    assert report["metrics"].keys() == {"reconstruction", "nll"}
    assert 0 < report["metrics"]["reconstruction"] < 1
    assert report["seconds_per_epoch"].keys() == {"autoencoder", "prior"}
    assert report["wall_time_seconds"] > 0
    assert report["settings"]["FlowPrior.transforms"] == 2
    assert report["settings"]["FEATURES"] == 2
    assert report["versions"]["torch"] == torch.__version__
    assert report["machine"]["cpu"]
    assert report["machine"]["threads"] == 1
    assert report["data"]["train"] == 60


def test_reported_metrics_are_those_of_the_restored_model(trained, flowprior, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = json.loads((run / "report.json").read_text())
    result = flowprior("eval", run, "--metrics", "reconstruction, nll")
    assert result.exit_code == 0, result.stderr
    after = json.loads((run / "report.json").read_text())
    assert after["metrics"] == pytest.approx(before["metrics"], rel=1e-5)
    assert {name: after[name] for name in ("settings", "versions", "name")} == {
        name: before[name] for name in ("settings", "versions", "name")
    }


def test_eval_offers_distances_of_samples_and_of_reconstructions(trained, flowprior, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    names = "fd_classifier,fd_classifier_reconstruction,prd_classifier"
    result = flowprior("eval", run, "--metrics", names, "--samples", 100)
    assert result.exit_code == 0, result.stderr
    report = json.loads((run / "report.json").read_text())
    wanted = {"fd_classifier", "fd_classifier_reconstruction", "prd_classifier_f8", "prd_classifier_f1_8"}
    assert wanted | {"reconstruction", "nll"} == report["metrics"].keys()
    assert report["metric_facts"]["fd_classifier"]["samples"] == 100
    assert report["metric_facts"]["fd_classifier"]["real"] == 60
    assert "test_accuracy" in report["metric_facts"]["fd_classifier"]["facts"]
    assert all(name in result.stdout for name in wanted)


def test_sample_writes_grids_and_arrays_and_repeats_itself(trained, flowprior, tmp_path):
    for ending in (".png", ".npy", ".npz", ".pt"):
        result = flowprior("sample", trained, "-n", 5, "--out", tmp_path / f"x{ending}", "--seed", 3)
        assert result.exit_code == 0, result.stderr
    images = np.load(tmp_path / "x.npy")
    assert images.shape == (5, 1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1
    with np.load(tmp_path / "x.npz") as archive:
        assert np.array_equal(archive["x"], images)
    assert np.array_equal(torch.load(tmp_path / "x.pt", weights_only=True).numpy(), images)
    flowprior("sample", trained, "-n", 5, "--out", tmp_path / "y.npy", "--seed", 4)
    assert not np.array_equal(np.load(tmp_path / "y.npy"), images)
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.size[0] > 100


def test_plot_draws_all_that_applies(trained, flowprior, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    base = json.loads((run / "report.json").read_text())["settings"]["FlowPrior.base"]
    for old in run.rglob("*.png"):
        old.unlink()
    result = flowprior("plot", run)
    assert result.exit_code == 0, result.stderr
    drawn = {path.stem for path in run.rglob("*.png")}
    always = {"curves", "samples", "reconstructions", "neighbors", "latent", "prd"}
    always |= {"paths", "plane", "attributes", "components"}  # "change" needs VGG's weights
    assert drawn == always | ({"interpolation"} if base == "normal" else set())
    assert len(result.stdout.splitlines()) == len(drawn)


MOONS = """
experiment.source = @Source()
Source.name = 'moons'
Source.limit = 100
experiment.model = @autoencoder
autoencoder.features = 2
autoencoder.encoder = @encoder/MLP
encoder/MLP.in_features = 2
autoencoder.decoder = @decoder/MLP
decoder/MLP.out_features = 2
autoencoder.prior = @FlowPrior
autoencoder.likelihood = @GaussianLikelihood()
GaussianLikelihood.activation = 'identity'
experiment.stages = [@joint_stage]
joint_stage.epochs = 1
"""


def test_a_config_of_ones_own_on_vectors(flowprior, tmp_path):
    (tmp_path / "moons.gin").write_text(MOONS)
    run = tmp_path / "run"
    result = flowprior("train", tmp_path / "moons.gin", "--out", run, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert json.loads((run / "report.json").read_text())["name"] == "moons"
    assert not (run / "samples.png").exists()
    result = flowprior("plot", run)
    assert [path.stem for path in sorted(run.rglob("*.png"))] == ["curves", "latent"]
    assert flowprior("sample", run, "-n", 7, "--out", tmp_path / "x.npy").exit_code == 0
    assert np.load(tmp_path / "x.npy").shape == (7, 2)
    for arguments in (("sample", run, "--out", "x.png"), ("eval", run, "--metrics", "fd_classifier")):
        result = flowprior(*arguments)
        assert result.exit_code == 2
        assert "vectors" in result.stderr
    result = flowprior("plot", run, "samples")
    assert "holds vectors, not images" in result.stderr


def test_interpolation_needs_a_normal_base_and_says_so(flowprior, tiny, options, tmp_path):
    for base, status in (("mixture", 2), ("normal", 0)):
        run = tmp_path / base
        flowprior(
            "train", "glf/digits", "--out", run, "--quiet", "--steps", 1,
            *options([*tiny, "Source.limit = 70", f"FlowPrior.base = {base!r}"]),
        )  # fmt: skip
        result = flowprior("plot", run, "interpolation")
        assert result.exit_code == status, result.stderr
        if status:
            assert "N(0, I)" in result.stderr
            assert len(result.stderr.strip().splitlines()) == 1
    result = flowprior("plot", tmp_path / "normal", "latent")
    assert result.exit_code == 2
    assert "2-dimensional" in result.stderr


def test_a_run_is_never_written_over(trained, flowprior, tiny, options):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    result = flowprior("train", "glf/digits", "--out", trained, *options(tiny))
    assert result.exit_code == 2
    assert "--resume" in result.stderr
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_resume_under_another_config_is_refused(trained, flowprior, tiny, options):
    result = flowprior("train", "glf/digits", "--out", trained, "--resume", *options(tiny))
    assert result.exit_code == 2
    assert "differs" in result.stderr


def test_interrupted_and_resumed_run_ends_as_an_uninterrupted_one(trained, flowprior, tmp_path):
    run = tmp_path / "run"
    config = trained / "config.gin"
    assert flowprior("train", config, "--out", run, "--quiet", "--steps", 8).exit_code == 0
    assert json.loads((run / "report.json").read_text())["finished"] is False
    result = flowprior("train", config, "--out", run, "--resume", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert (run / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()
    ours, theirs = (json.loads((path / "report.json").read_text()) for path in (run, trained))
    assert ours["finished"] is True
    assert ours["metrics"] == theirs["metrics"]


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(trained, flowprior, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained / "config.gin", run)
    result = flowprior("train", run / "config.gin", "--resume", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert (run / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(trained, flowprior, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    newest, *older = sorted((run / "checkpoints").glob("step-*"), reverse=True)
    payload = bytearray(newest.read_bytes())
    payload[-1] ^= 1
    newest.write_bytes(payload)
    assert flowprior("sample", run, "-n", 2, "--out", tmp_path / "x.npy").exit_code == 0
    for path in older:
        path.unlink()
    result = flowprior("sample", run, "-n", 2, "--out", tmp_path / "x.npy")
    assert result.exit_code == 2
    assert newest.name in result.stderr
    assert "checksum" in result.stderr


def test_a_run_samples_without_its_data(flowprior, data_root, tiny, options, tmp_path):
    np.savez(
        tmp_path / "mine.npz",
        train_images=np.random.default_rng(0).integers(0, 255, (8, 28, 28), dtype=np.uint8),
    )
    run = tmp_path / "run"
    bindings = [*tiny, f"Source.name = {str(tmp_path / 'mine.npz')!r}", "WIDTH = 0.02", "FEATURES = 3"]
    result = flowprior("train", "glf/mnist", "--out", run, "--steps", 1, "--quiet", *options(bindings))
    assert result.exit_code == 0, result.stderr
    (tmp_path / "mine.npz").unlink()
    assert flowprior("sample", run, "-n", 2, "--out", tmp_path / "x.npy").exit_code == 0
    result = flowprior("eval", run, "--metrics", "nll")
    assert result.exit_code == 2
    assert "mine.npz" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("eval", "{run}", "--metrics", "fdi"), ("'fdi'", "did you mean `fid`")),
        (("eval", "{run}", "--metrics", ","), ("No metric",)),
        (("eval", "{run}", "--metrics", "fid"), ("FLOWPRIOR_WEIGHTS",)),
        (("eval", "{run}", "--metrics", "nll", "--samples", "1"), ("--samples",)),
        (("plot", "{run}", "curve"), ("did you mean `curves`",)),
        (("sample", "{run}", "--out", "x.jpg"), (".png", ".npy")),
        (("sample", "{run}", "--out", "x.npy", "--context", "c.npy"), ("c.npy",)),
        (("sample", "{run}", "--out", "x.npy", "--device", "cuda:77"), ("cuda:77",)),
    ],
)
def test_bad_requests_of_a_run_get_one_sentence(arguments, words, trained, flowprior):
    result = flowprior(*(word.format(run=trained) for word in arguments))
    assert result.exit_code == 2, result.stdout
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr


def test_context_for_an_unconditional_run_is_refused(trained, flowprior, tmp_path):
    np.save(tmp_path / "c.npy", np.eye(10, dtype=np.float32))
    result = flowprior("sample", trained, "--out", tmp_path / "x.npy", "--context", tmp_path / "c.npy")
    assert result.exit_code == 2
    assert "unconditional" in result.stderr


def test_a_conditional_prior_reads_labels_and_samples_from_a_context_file(flowprior, tiny, options, tmp_path):
    run = tmp_path / "run"
    bindings = [*tiny, "FlowPrior.context_features = 10", "Source.limit = 40"]
    result = flowprior("train", "glf/digits", "--out", run, "--steps", 2, "--quiet", *options(bindings))
    assert result.exit_code == 0, result.stderr
    np.save(tmp_path / "c.npy", np.eye(10, dtype=np.float32))
    context = ("--context", tmp_path / "c.npy")
    result = flowprior("sample", run, "-n", 3, "--out", tmp_path / "x.npy", *context)
    assert result.exit_code == 0, result.stderr
    assert np.load(tmp_path / "x.npy").shape == (3, 10, 1, 8, 8)
    assert flowprior("sample", run, "-n", 3, "--out", tmp_path / "x.png", *context).exit_code == 0
    result = flowprior("sample", run, "-n", 3, "--out", tmp_path / "x.npy")
    assert result.exit_code == 2
    assert "is conditional: give its conditions by --context" in result.stderr


@pytest.mark.parametrize(
    ("binding", "sentence"),
    [
        ("FlowPrior.context_features = 7", "labels go up to 9"),
        ("SmallEncoder.channels = 3", "this network reads (N, 3, 8, 8)"),
        ("SmallDecoder.channels = 3", "build the decoder for the size and channels of the data"),
    ],
)
def test_a_model_that_does_not_fit_the_data_leaves_no_folder(
    binding, sentence, flowprior, tiny, options, tmp_path
):
    result = flowprior("train", "glf/digits", "--out", tmp_path / "run", *options([*tiny[1:], binding]))
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_stopped_at_its_steps_goes_on_as_it_says(flowprior, tiny, options, tmp_path):
    folder = tmp_path / "run"
    result = flowprior("train", "glf/digits", "--out", folder, "--steps", 1, "--quiet", *options(tiny))
    assert "--resume with more --steps continues it" in result.stdout
    result = flowprior("train", folder / "config.gin", "--resume", "--steps", 1000, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert "finished: " in result.stdout


def test_a_run_of_a_version_with_fewer_settings_can_be_resumed(tmp_path, flowprior, tiny, options):
    """A setting that came later has its default in both: the configs do not differ."""
    bindings = options([*tiny, "Source.limit = 70"])
    run = tmp_path / "run"
    assert flowprior("train", "glf/digits", "--out", run, "--quiet", "--steps", 1, *bindings).exit_code == 0
    config = run / "config.gin"
    lines = config.read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("FlowPrior.backend")]
    assert len(older) < len(lines)
    config.write_text("".join(older))
    result = flowprior("train", "glf/digits", "--out", run, "--quiet", "--resume", "--steps", 2, *bindings)
    assert result.exit_code == 0, result.stderr
    result = flowprior(
        "train", "glf/digits", "--out", run, "--resume", *bindings, *options(["FlowPrior.backend = 'pyro'"])
    )
    assert result.exit_code == 2
    assert "differs" in result.stderr
