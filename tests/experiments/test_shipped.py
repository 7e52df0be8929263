"""Every shipped experiment trains, with tiny overrides, on stand-ins in the true file formats."""

import json

import pytest

from flowprior.errors import InputError
from flowprior.experiments.config import load
from flowprior.experiments.shipped import shipped, summary

WIDTH = ("WIDTH = 0.02", "FEATURES = 3")
UNET = ("filters = 2", "max_filters = 2", "latent_channels = 2", "blocks = 1")
NARROW = {
    "glf/digits": (),
    "dpvae/moons": (),
    "cqfg": ("WIDTH = 0.03", "ladder.features = 3", "ladder.latent_channels = 2"),
    "vunet": ("PIXELS = 32", *(f"variational_unet.{line}" for line in UNET)),
}


@pytest.mark.parametrize("name", shipped())
def test_shipped_experiment_trains_and_its_config_repeats_it(
    name, flowprior, data_root, tiny, options, tmp_path
):
    bindings = [*tiny, *NARROW.get(name if name in NARROW else name.split("/")[0], WIDTH)]
    run = tmp_path / "run"
    arguments = ("--steps", 5, "--quiet", "--seed", 5)
    result = flowprior("train", name, "--out", run, *arguments, "--data-root", data_root, *options(bindings))
    assert result.exit_code == 0, result.stderr
    assert "reconstruction" in result.stdout
    assert str(run) in result.stdout
    report = json.loads((run / "report.json").read_text())
    assert report["name"] == name
    stages = load([name]).experiment.stages
    assert report["steps"] == (5 if len(stages) > 1 and stages[1].epochs else 4)  # the first stage takes 4
    again = tmp_path / "again"
    result = flowprior("train", run / "config.gin", "--out", again, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert (again / "config.gin").read_text() == (run / "config.gin").read_text()
    assert (again / "metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()
    assert json.loads((again / "report.json").read_text())["metrics"] == report["metrics"]


@pytest.mark.parametrize("name", shipped())
def test_both_sizes_build_and_the_header_says_what_is_owed(name):
    sizes = [load([name], [f"SIZE = {size!r}"]) for size in ("cpu", "paper")]
    cpu, paper = ([(stage.name, stage.epochs) for stage in each.experiment.stages] for each in sizes)
    assert cpu != paper
    text = shipped()[name].read_text()
    header = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"flowprior train {name}" in header
    assert "Paper" in header or "paper" in header
    assert summary(shipped()[name])


def test_a_size_for_a_config_of_one_size_is_refused(tmp_path):
    (tmp_path / "one.gin").write_text("experiment.source = @Source()\nSource.name = 'digits'\n")
    with pytest.raises(InputError, match="one size only: leave `--size` out"):
        load([str(tmp_path / "one.gin")], ["SIZE = 'paper'"])


def test_a_row_of_the_comparison_moves_to_another_data_set_by_one_binding(data_root):
    loaded = load(["glf/vae_flow"], ["DATA = 'cifar10'", f"Source.root = {str(data_root)!r}", "WIDTH = 0.02"])
    experiment = loaded.experiment
    assert experiment.model.prior.event_shape == (64,)
    assert experiment.source.train().x.shape[1:] == (3, 32, 32)
    assert experiment.model.sample(2).shape == (2, 3, 32, 32)


def test_the_papers_size_is_the_papers():
    model = load(["glf/fashion_mnist"], ["SIZE = 'paper'"]).experiment.model
    assert model.prior.event_shape == (20,)
    settings = load(["glf/fashion_mnist"], ["SIZE = 'paper'"]).settings
    assert settings["FlowPrior.transforms"] == 8
    (stage,) = load(["glf/fashion_mnist"], ["SIZE = 'paper'"]).experiment.stages
    assert (stage.epochs, stage.batch_size) == (101, 256)
    rates = [stage.settings("autoencoder").rate(step, 1010, 10) for step in (0, 499, 500, 1000)]
    assert rates == [1e-3, 1e-3, 5e-4, 2.5e-4]
