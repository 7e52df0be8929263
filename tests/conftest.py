import importlib.util
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from flowprior.cli import main

TINY = (  # a second or two for any shipped experiment
    "Source.limit = 8",
    "FlowPrior.transforms = 2",
    "FlowPrior.hidden_features = (4,)",
    "FlowPrior.base = 'normal'",
    "MixturePrior.components = 2",
    "joint_stage.batch_size = 4",
    "prior_stage.batch_size = 4",
    "joint_stage.epochs = 2",
    "experiment.metrics = ('reconstruction', 'nll')",
)


@pytest.fixture(autouse=True)
def away_from_home(monkeypatch, tmp_path_factory):
    """No data, weights or cache of this machine, and a working folder of its own."""
    monkeypatch.delenv("FLOWPRIOR_DATA", raising=False)
    monkeypatch.delenv("FLOWPRIOR_WEIGHTS", raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FLOWPRIOR_CACHE", str(home / "cache"))
    (home / "here").mkdir()
    monkeypatch.chdir(home / "here")


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Stand-ins for the published sets, in their own formats."""
    path = Path(__file__).with_name("data") / "standins.py"
    spec = importlib.util.spec_from_file_location("standins", path)
    standins = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standins)
    root = tmp_path_factory.mktemp("data")
    standins.write_mnist(root, n=20)
    standins.write_mnist(root, "FashionMNIST", n=20)
    standins.write_cifar10(root)
    standins.write_svhn(root / "svhn")
    standins.write_celeba(root, n=16)
    standins.write_pairs(root / "pairs")
    standins.write_poses(root / "deepfashion")
    return root


@pytest.fixture(scope="session")
def flowprior():
    """The command line, called in this process: (arguments) -> click's result."""

    def call(*arguments):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return CliRunner().invoke(main, [str(argument) for argument in arguments])
        finally:
            torch.set_num_threads(threads)

    return call


@pytest.fixture(scope="session")
def trained(flowprior, tiny, tmp_path_factory):
    """The run folder of a tiny digits experiment with a 2-dimensional latent."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    bindings = [*tiny, "Source.limit = 60", "FEATURES = 2", "joint_stage.batch_size = 20"]
    result = flowprior("train", "glf/digits", "--out", folder, "--quiet", *_options(bindings))
    assert result.exit_code == 0, result.stderr
    return folder


def _options(bindings):
    return [word for binding in bindings for word in ("-b", binding)]


@pytest.fixture(scope="session")
def options():
    return _options
