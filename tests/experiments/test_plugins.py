"""A user's own parts, named in a config by way of --plugin, and what is said where they are missing."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import flowprior as package
from flowprior import registry
from flowprior.errors import InputError
from flowprior.experiments.config import load
from flowprior.experiments.plugins import import_plugins

PLUGIN = """
import torch
from torch import nn

import flowprior
from flowprior.bijectors import Bijector, Recipe
from flowprior.data import Dataset
from flowprior.models import GaussianLikelihood
from flowprior.objectives import LatentFlow
from flowprior.priors import StandardNormal


@flowprior.register
class Line(nn.Linear):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)


@flowprior.register
class Shift(Bijector):
    def __init__(self, features: int) -> None:
        super().__init__((features,))
        self.by = nn.Parameter(torch.ones(features))

    def _to_base(self, z, context):
        return z - self.by, z.new_zeros(z.shape[0])

    def _from_base(self, z0, context):
        return z0 + self.by, z0.new_zeros(z0.shape[0])


@flowprior.register(name="short_recipe")
def make_recipe(transforms: int = 2) -> Recipe:
    return Recipe(transforms=transforms, hidden_features=(4,))


@flowprior.register
class MyNormal(StandardNormal):
    pass


@flowprior.register
class MyFlow(LatentFlow):
    pass


@flowprior.register
class MyLikelihood(GaussianLikelihood):
    def __init__(self) -> None:
        super().__init__(activation="identity")


@flowprior.register
class Ring:
    name = "ring"
    image_shape = (2,)
    context_shape = None

    def __init__(self, count: int = 40) -> None:
        angle = torch.linspace(0, 6.28, count)
        self.data = Dataset("ring", torch.stack([angle.cos(), angle.sin()], 1))

    def train(self):
        return self.data

    def test(self):
        return self.data
"""
CONFIG = """
experiment.source = @Ring()
experiment.model = @autoencoder
autoencoder.features = 2
autoencoder.encoder = @Line
autoencoder.decoder = @Line
autoencoder.prior = @FlowPrior
autoencoder.likelihood = @MyLikelihood()
FlowPrior.recipe = @short_recipe()
short_recipe.transforms = 3
experiment.stages = [@joint_stage]
joint_stage.objective = @MyFlow
joint_stage.epochs = 1
joint_stage.batch_size = 20
experiment.metrics = ('reconstruction',)
"""


@pytest.fixture
def plugin(request, tmp_path):
    """A module of a name of its own in the current folder, with a config beside it; forgotten afterwards."""
    before = list(sys.path)
    name = f"plugin_{abs(hash(request.node.nodeid))}"
    Path(f"{name}.py").write_text(PLUGIN)
    Path("my.gin").write_text(CONFIG)
    with registry.restored():
        yield name
    sys.path[:] = before
    sys.modules.pop(name, None)


def refused(result, *words):
    assert result.exit_code == 2, result.stdout + result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize("suffix", ["", ".py"])
def test_parts_of_every_kind_are_trained_and_a_run_remembers_their_module(
    suffix, plugin, flowprior, tmp_path
):
    name = plugin + suffix
    refused(flowprior("train", "my.gin", "--out", "run"), "`Ring` is unknown")
    result = flowprior("train", "my.gin", "--out", "run", "--plugin", name, "--quiet")
    assert result.exit_code == 0, result.stderr
    config = Path("run/config.gin").read_text()
    assert f"\n# plugins: {name}\n" in config
    assert "short_recipe.transforms = 3" in config
    assert "Line.in_features = 2" in config
    assert json.loads(Path("run/report.json").read_text())["plugins"] == [name]
    sys.modules.pop(plugin)
    with registry.restored():
        registry.PARTS.clear()
        for words in (
            ("train", "run/config.gin", "--out", "again"),
            ("train", "run/config.gin", "--resume"),
            ("sample", "run", "--out", "x.npy"),
            ("eval", "run", "--metrics", "reconstruction"),
            ("plot", "run"),
        ):
            refused(flowprior(*words), f"needs the plugin '{name}': add `--plugin {name}`")
    for words in (
        ("train", "run/config.gin", "--out", "again", "--quiet"),
        ("train", "run/config.gin", "--resume", "--quiet"),
        ("sample", "run", "--out", "x.npy"),
        ("eval", "run", "--metrics", "reconstruction"),
        ("plot", "run"),
    ):
        result = flowprior(*words, "--plugin", name)
        assert result.exit_code == 0, result.stderr
    assert Path("again/metrics.csv").read_bytes() == Path("run/metrics.csv").read_bytes()


def test_a_prior_and_a_bijector_of_ones_own(plugin):
    prior = load(["my.gin"], ["autoencoder.prior = @MyNormal"], [plugin]).experiment.model.prior
    assert type(prior).__name__ == "MyNormal"
    bijector = ["FlowPrior.recipe = 'glf'", "FlowPrior.bijector = @Shift()", "Shift.features = 2"]
    model = load(["my.gin"], bijector, [plugin]).experiment.model
    z0, _ = model.prior.to_base(torch.ones(3, 2))
    assert z0.abs().max() == 0
    with open(f"{plugin}.py", "a") as file:
        file.write("\n\n@flowprior.register\nclass Unfinished(Bijector):\n    pass\n")
    sys.modules.pop(plugin)
    with pytest.raises(InputError, match=r"`Unfinished` must implement _from_base, _to_base\."):
        load(["my.gin"], ["FlowPrior.bijector = @Unfinished()"], [plugin])


def test_a_study_is_compared_in_two_processes_with_its_plugin(plugin, flowprior):
    rows = (
        "study.rows = {'a': (), 'b': ('short_recipe.transforms = 2',)}\nstudy.metrics = ('reconstruction',)\n"
    )
    Path("my.gin").write_text(CONFIG + rows)
    words = (
        "compare",
        "my.gin",
        "--plugin",
        plugin,
        "--jobs",
        2,
        "--quiet",
        "--device",
        "cpu",
        "--out",
        "out",
    )
    result = flowprior(*words)
    assert result.exit_code == 0, result.stdout + result.stderr
    table = json.loads(Path("out/table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["a", "b"]
    assert f"--plugin {plugin}" in table["command"]


def test_parts_are_listed(plugin, flowprior):
    assert "short_recipe" not in flowprior("list").stdout
    assert "short_recipe" in flowprior("list", "--plugin", plugin).stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nowhere_at_all", ["ModuleNotFoundError", "line 1", "nowhere_at_all"]),
        ("x = (", ["SyntaxError"]),
        ("\nraise RuntimeError('broken\\nin two')", ["RuntimeError", ".py, line 2: broken in two"]),
        ("import flowprior\n@flowprior.register\ndef MLP(): ...", ["`MLP`", "flowprior's own", "name="]),
        ("import flowprior\n@flowprior.register\nclass experiment: ...", ["`experiment`", "own parts"]),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_sentence(text, words, plugin, flowprior):
    Path(f"{plugin}.py").write_text(text)
    refused(flowprior("train", "my.gin", "--plugin", plugin), *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "name", ["no_such_module", "no.such.module", "", ".relative", "none.py", "package.inside"]
)
def test_a_plugin_that_is_not_there_is_one_sentence(name, flowprior):
    refused(flowprior("train", "glf/digits", "--plugin", name), f"The plugin '{name}'")


def test_two_plugins_with_one_name_are_refused(plugin, flowprior):
    other = f"{plugin}_b"
    Path(f"{other}.py").write_text("import flowprior\n@flowprior.register\ndef Ring(): ...")
    refused(
        flowprior("train", "my.gin", "--plugin", plugin, "--plugin", other), "'Ring'", "registered already"
    )


def test_a_config_cannot_import_by_its_comment(plugin):
    Path("my.gin").write_text(f"# plugins: {plugin}\n{CONFIG}")
    with pytest.raises(InputError, match=f"needs the plugin '{plugin}'"):
        load(["my.gin"])
    assert plugin not in sys.modules


def test_a_part_registered_in_python_needs_no_plugin(plugin):
    import_plugins([plugin])

    @package.register
    def half(value: float = 0.5) -> float:
        return value

    loaded = load(["my.gin"], ["joint_stage.ema = @half()"])
    assert loaded.experiment.stages[0].ema == 0.5
    assert loaded.plugins == ()


OF_RUN = """
import flowprior
from matplotlib.figure import Figure


@flowprior.metric("half", better="higher", unit="halves")
def half(evaluation):
    "A half."
    return {"half": 0.5}, {}


@flowprior.figure("empty")
def empty(run):
    "Nothing."
    return Figure()
"""


def test_a_metric_and_a_figure_of_ones_own(plugin, trained, flowprior, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    Path(f"{plugin}.py").write_text(OF_RUN)
    for words, text in (
        (("list", "--metrics"), "half"),
        (("list", "--figures"), "empty"),
        (("eval", run, "--metrics", "half"), "half    0.5"),
        (("plot", run, "empty"), "empty.png"),
    ):
        result = flowprior(*words, "--plugin", plugin)
        assert result.exit_code == 0, result.stderr
        assert text in result.stdout
