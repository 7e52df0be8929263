"""A run whose prior has samples only: what is measured and drawn by default, and what is refused."""

import json

import pytest


@pytest.fixture(scope="module")
def sampler_run(flowprior, tiny, options, data_root, tmp_path_factory):
    """A tiny Prior-AAE with a 2-dimensional latent, configured to measure an nll as well."""
    folder = tmp_path_factory.mktemp("aae") / "run"
    bindings = [*tiny, "WIDTH = 0.02", "FEATURES = 2", "autoencoder.posterior = @GaussianPosterior()"]
    arguments = ("--out", folder, "--quiet", "--data-root", data_root)
    result = flowprior("train", "learned_prior/aae", *arguments, *options(bindings))
    assert result.exit_code == 0, result.stderr
    return folder, result.stdout


def test_training_leaves_out_what_needs_a_density_and_says_so(sampler_run):
    folder, printed = sampler_run
    metrics = json.loads((folder / "report.json").read_text())["metrics"]
    assert "reconstruction" in metrics
    assert "nll" not in metrics
    assert "left out: nll, since ImplicitPrior has no density" in printed


def test_samples_of_the_run_are_drawn(sampler_run, flowprior, tmp_path):
    folder, _ = sampler_run
    result = flowprior("sample", folder, "-n", 9, "--out", tmp_path / "grid.png")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "grid.png").stat().st_size > 0


@pytest.mark.parametrize("name", ["nll", "skl", "leakage", "iw_nll", "context_gain"])
def test_metrics_that_need_a_density_are_refused_in_one_sentence(name, sampler_run, flowprior):
    folder, _ = sampler_run
    result = flowprior("eval", folder, "--metrics", name)
    assert result.exit_code == 2
    assert f"'{name}' needs a density of the prior, but ImplicitPrior has only samples" in result.stderr
    assert "Traceback" not in result.stderr


def test_metrics_of_samples_are_measured(sampler_run, flowprior):
    folder, _ = sampler_run
    result = flowprior("eval", folder, "--metrics", "reconstruction")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("figure", ["latent", "interpolation"])
def test_figures_that_need_a_density_or_a_base_are_refused(figure, sampler_run, flowprior):
    folder, _ = sampler_run
    result = flowprior("plot", folder, figure)
    assert result.exit_code == 2
    assert "ImplicitPrior" in result.stderr


def test_all_other_figures_are_drawn(sampler_run, flowprior):
    folder, _ = sampler_run
    result = flowprior("plot", folder)
    assert result.exit_code == 0, result.stderr
    assert not (folder / "figures" / "latent.png").exists()
    assert (folder / "figures" / "neighbors.png").exists()
