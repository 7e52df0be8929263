"""Figures by their records: what they need, how they are listed, and those of a user."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from flowprior import registry
from flowprior.data.attributes import Attributes
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.figures import FigureRun, NotApplicable, describe_figures, draw
from flowprior.figures.gathering import added_attributes
from flowprior.figures.runs import NEEDS, check_needs
from flowprior.models import Autoencoder, GaussianPosterior
from flowprior.networks import MLP
from flowprior.priors import FlowPrior, ImplicitPrior, MixturePrior, StandardNormal


class OfPictures(Autoencoder):
    context_shape = (1, 8, 8)


def run(folder, prior=None, data="moons", kind=Autoencoder, posterior=None):
    source = Source(data, limit=20)
    prior, features = prior or StandardNormal(2), source.image_shape[0]
    model = kind(MLP(features, 2, hidden=()), MLP(2, features, hidden=()), prior, posterior=posterior)
    return FigureRun(model.eval(), source, folder, "tiny")


def array(folder):
    path = folder / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
    return run(folder, data=str(path))


def conditional(folder):
    return run(folder, FlowPrior(2, context_features=2))


CASES = {  # runs that have what is needed, and runs that lack it
    "images": (lambda folder: run(folder, data="digits"), run),
    "images or 2-D data": (run, array),
    "2-D latents": (run, lambda folder: run(folder, StandardNormal(3))),
    "density": (run, lambda folder: run(folder, ImplicitPrior(2, hidden_features=(4,)))),
    "invertible prior": (run, lambda folder: run(folder, MixturePrior(2, components=2))),
    "normal base": (run, lambda folder: run(folder, FlowPrior(2, base="mixture"))),
    "posterior density": (lambda folder: run(folder, posterior=GaussianPosterior()), run),
    "unconditional": (run, conditional),
    "conditional": (conditional, run),
    "pictures as conditions": (lambda folder: run(folder, kind=OfPictures), conditional),
    "labels": (run, array),
    "attributes": (run, array),
}


@pytest.mark.parametrize("need", NEEDS)
def test_a_need_is_met_or_said_in_one_sentence(need, tmp_path):
    has, lacks = CASES[need]
    check_needs([need], has(tmp_path))
    with pytest.raises(NotApplicable, match=r"^[^{}]+\.$"):
        check_needs([need], lacks(tmp_path))


def test_what_only_the_figure_can_know_is_said_too(tmp_path):
    moons = run(tmp_path)
    splits = (moons.source.train(), moons.source.test())
    all_have = tuple(Attributes(("ink",), torch.ones(len(x), 1, dtype=torch.bool)) for x in splits)
    moons.__dict__["attributes"] = all_have
    with pytest.raises(NotApplicable, match="attributes that some examples of 'moons' lack"):
        list(added_attributes(moons, 2))
    (tmp_path / "metrics.csv").write_text("step,name,value\n0,epoch,1\n0,lr/model,0.1\n")
    with pytest.raises(InputError, match="'curves' cannot be drawn: nothing but epochs"):
        draw(moons, ["curves"])


def test_a_figure_of_a_user_is_drawn_by_its_name(tmp_path):
    tiny = run(tmp_path)
    with registry.restored():

        @registry.figure("mine", needs=("2-D latents",))
        def mine(run):
            """A pale square."""
            return Image.new("RGB", (len(run.source.test()), 7), "#9db4d0")

        @registry.figure("axes", needs=("images",))
        def axes(run):
            from matplotlib.figure import Figure

            return Figure()

        @registry.figure("odd", needs=("luck",))
        def odd(run):
            """Needs what nothing has."""

        assert draw(tiny, ["mine"]) == [tmp_path / "figures" / "mine.png"]
        with Image.open(tmp_path / "figures" / "mine.png") as picture:
            assert picture.size == (len(tiny.source.test()), 7)
        assert "| mine | run | 2-D latents | A pale square. |" in describe_figures()
        with pytest.raises(InputError, match="'axes' cannot be drawn: 'moons' holds vectors"):
            draw(tiny, ["axes"])
        with pytest.raises(InputError, match="Unknown need of a figure 'luck'"):
            draw(tiny, ["odd"])
        assert draw(run(tmp_path, data="digits"), ["axes"])[0].stat().st_size > 0
    with pytest.raises(InputError, match="Unknown figure 'mine'"):
        draw(tiny, ["mine"])


def test_every_figure_is_listed_with_what_it_needs_and_shows():
    lines = describe_figures().splitlines()
    assert len(lines) == 2 + len(registry.FIGURES)
    for (of, name), record in registry.FIGURES.items():
        assert record.summary.endswith("."), name
        (line,) = [line for line in lines if line.startswith(f"| {name} | {of} |")]
        assert line.endswith(f"| {record.summary} |")
        assert all(need in NEEDS for need in record.needs)


def test_figures_of_flowprior_first_imported_inside_are_not_forgotten():
    script = """
from flowprior import registry
with registry.restored():
    registry.figure("mine")(lambda run: None)
    import flowprior.figures
assert ("run", "latent") in registry.FIGURES
assert ("run", "mine") not in registry.FIGURES
"""
    subprocess.run([sys.executable, "-c", script], check=True)
