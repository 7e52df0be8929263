"""CONTRIBUTING.md says how many files a new part touches; its examples are run as they stand."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from flowprior import registry

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
TRAIN = ("train", "glf/digits", "--quiet", "--device", "cpu")


def blocks(kind):
    """The code blocks of the page that are tagged as `kind`."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def plugin(tmp_path):
    """A module with all parts of the page, and the config that names the recipe and the objective."""
    path = tmp_path / "my_parts.py"
    path.write_text("\n\n".join(blocks("python plugin")), encoding="utf-8")
    with registry.restored():
        yield path
    sys.modules.pop("my_parts", None)


def test_each_part_is_one_file_and_no_other(flowprior, options, tiny, plugin, tmp_path):
    recipe, objective, source = blocks("gin")
    own = [*recipe.splitlines(), *objective.splitlines()]
    run = tmp_path / "run"
    trained = flowprior(*TRAIN, *options([*tiny, *own]), "--plugin", plugin, "--out", run)
    assert trained.exit_code == 0, trained.output
    assert "norm" in (run / "metrics.csv").read_text(encoding="utf-8")
    assert "@gentle()" in (run / "config.gin").read_text(encoding="utf-8")
    measured = flowprior("eval", run, "--metrics", "brightness", "--samples", 20, "--plugin", plugin)
    assert measured.exit_code == 0
    assert "brightness" in measured.output
    assert flowprior("plot", run, "spread", "--plugin", plugin).exit_code == 0
    assert (run / "figures" / "spread.png").is_file()
    del sys.modules["my_parts"]  # as in a process of its own
    without = flowprior("eval", run, "--metrics", "reconstruction")
    assert without.exit_code == 2
    assert "--plugin" in without.output
    points = flowprior(
        "train", "dpvae/moons", "--quiet", *options([*tiny, *source.splitlines()]), "--plugin", plugin
    )
    assert points.exit_code == 0, points.output


def test_a_command_is_two_files(flowprior):
    from flowprior import cli

    (work,), (words,) = blocks("python command"), blocks("python cli")
    spec = importlib.util.spec_from_loader("flowprior.commands.find", None)
    module = importlib.util.module_from_spec(spec)
    exec(work, module.__dict__)
    sys.modules["flowprior.commands.find"] = module
    try:
        exec(words, vars(cli).copy())
        found = flowprior("find", "skl")
        assert found.exit_code == 0
        assert "skl" in found.output
        assert flowprior("find", "no such metric").output.strip() == ""
    finally:
        del cli.main.commands["find"], sys.modules["flowprior.commands.find"]
