"""The figures of z against z0 of a run."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from flowprior.data.attributes import Attributes
from flowprior.figures import change, gathering, paths

FIGURES = ("paths", "plane", "attributes", "components")


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_they_are_drawn_by_name_and_by_seed(run, flowprior):
    result = flowprior("plot", run, *FIGURES)
    assert result.exit_code == 0, result.stderr
    first = {name: np.asarray(Image.open(run / "figures" / f"{name}.png")) for name in FIGURES}
    assert flowprior("plot", run, *FIGURES).exit_code == 0
    assert all(
        np.array_equal(np.asarray(Image.open(run / "figures" / f"{n}.png")), first[n]) for n in FIGURES
    )
    assert flowprior("plot", run, "paths", "--seed", 1).exit_code == 0
    assert not np.array_equal(np.asarray(Image.open(run / "figures" / "paths.png")), first["paths"])
    rows, columns = paths.PAIRS * 2, gathering.STEPS + 2  # 56 pixels a tile
    assert first["paths"].shape[0] > rows * 56
    assert first["paths"].shape[1] > columns * 56


def test_the_rate_of_change_needs_vgg_and_says_so(run, flowprior, monkeypatch):
    result = flowprior("plot", run, "change")
    assert result.exit_code == 2
    assert "vgg19_normalised_relu3_1.pth" in result.stderr

    def pixels(device, weights):
        return lambda a, b: (a - b).square().flatten(1).sum(1), {}

    monkeypatch.setattr(change, "vgg_distance", pixels)
    result = flowprior("plot", run, "change")
    assert result.exit_code == 0, result.stderr
    assert (run / "figures" / "change.png").is_file()


def test_figures_that_do_not_apply_are_refused_in_one_sentence(flowprior, tiny, options, tmp_path):
    conditional = [*tiny, "FlowPrior.context_features = 10", "joint_stage.epochs = 1"]
    mixture = [*tiny, "autoencoder.prior = @MixturePrior", "joint_stage.epochs = 1"]
    for name, bindings, said in (
        ("c", conditional, "unconditional"),
        ("m", mixture, "needs a prior with a z0"),
    ):
        run = tmp_path / name
        result = flowprior("train", "glf/digits", "--out", run, "--quiet", *options(bindings))
        assert result.exit_code == 0, result.stderr
        result = flowprior("plot", run, "paths")
        assert result.exit_code == 2
        assert said in result.stderr
    assert flowprior("plot", tmp_path / "m", "components").exit_code == 0  # z is enough


def test_chosen_attributes_are_the_named_ones_or_some_classes():
    values = torch.zeros(3, 10, dtype=torch.bool)
    classes = Attributes(tuple("0123456789"), values)
    assert gathering.chosen(classes) == [0, 2, 5, 7]
    faces = Attributes(("Bald", "Male", "Eyeglasses"), values[:, :3])
    assert gathering.chosen(faces) == [2, 1]
