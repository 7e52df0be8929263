import math

import numpy as np
import pytest
import torch

from flowprior.errors import InputError
from flowprior.figures.curves import read_metrics, training_curves
from flowprior.figures.latent import latent_panels


def write(path, text):
    path.write_text("step,name,value\n" + text)
    return path


def test_metrics_are_read_by_name(tmp_path):
    path = write(
        tmp_path / "metrics.csv", "0,train/nll,5.5\n0,train/loss,7\n10,train/nll,nan\n10,train/loss,6\n"
    )
    metrics = read_metrics(path)
    assert list(metrics) == ["train/nll", "train/loss"]
    assert metrics["train/loss"][0].tolist() == [0, 10]
    assert metrics["train/loss"][1].tolist() == [7, 6]
    assert math.isnan(metrics["train/nll"][1][1])


def test_a_line_cut_short_at_the_end_is_left_out(tmp_path):
    assert read_metrics(write(tmp_path / "a.csv", "0,loss,7\n1,lo"))["loss"][1].tolist() == [7]
    assert list(read_metrics(write(tmp_path / "b.csv", "0,loss,7\n1,nll,"))) == ["loss"]
    with pytest.raises(InputError, match="line 3"):
        read_metrics(write(tmp_path / "c.csv", "0,loss,7\n1,lo\n2,loss,6\n"))


def test_unusable_metrics(tmp_path):
    with pytest.raises(InputError, match=r"no metrics at .* train first"):
        read_metrics(tmp_path / "none.csv")
    for text in ("", "step,name,value\n", "a,b\n1,2\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InputError, match="columns step,name,value"):
            read_metrics(tmp_path / "bad.csv")


def curve(*values):
    return np.arange(len(values), dtype=float), np.array(values, dtype=float)


def test_one_panel_per_term_one_line_per_split():
    run = {
        "train/nll": curve(3, 2, 1),
        "validation/nll": curve(4, 3, 2),
        "train/learning_rate": curve(1, 1, 1),
        "entropy": curve(1, 2),
    }
    figure = training_curves(run, "glf/digits")
    assert [ax.get_title() for ax in figure.axes] == ["NLL", "learning rate", "entropy"]
    nll = figure.axes[0]
    assert [line.get_label() for line in nll.lines] == ["train", "validation"]
    assert nll.lines[1].get_ydata().tolist() == [4, 3, 2]
    assert [ax.get_ylabel() for ax in figure.axes] == ["nats per example", "", "nats per example"]
    assert figure.axes[2].get_legend() is None  # one unnamed line needs no label
    assert figure.get_suptitle() == "glf/digits"


def test_long_curves_get_an_unbiased_running_mean():
    steps = np.arange(1000.0)
    figure = training_curves({"loss": (steps, 2 * steps + 5)}, "")
    smooth = figure.axes[0].lines[1].get_ydata()
    assert np.abs(smooth[20:-20] - (2 * steps + 5)[20:-20]).max() <= 1  # half a step: the window is even
    constant = training_curves({"loss": (steps, np.full(1000, 3.0))}, "").axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(constant, 3.0)


def test_the_first_steps_do_not_squash_the_rest():
    values = np.concatenate([[1e6], np.linspace(20, 10, 150)])
    low, high = training_curves({"loss": (np.arange(151.0), values)}, "").axes[0].get_ylim()
    assert low < 10
    assert 19 < high < 30


def test_latent_panels_show_the_density_on_the_range_of_the_codes():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(500, 2, generator=generator) + torch.tensor([5.0, 0.0])
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.tensor([5.0, 0.0]), 1.0), 1)
    label = torch.arange(500) % 3
    figure = latent_panels(normal.log_prob, codes, codes[:50], label=label, classes=("a", "b", "c"))
    image = figure.axes[1].images[0]
    density, (x0, x1, y0, y1) = image.get_array(), image.get_extent()
    assert x0 < 3 < 7 < x1
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim() == figure.axes[2].get_xlim()
    mass = density.mean() * (x1 - x0) * (y1 - y0)
    assert 0.95 < mass < 1.02
    row, column = np.unravel_index(density.argmax(), density.shape)  # row is the second coordinate
    assert abs(x0 + (column + 0.5) / density.shape[1] * (x1 - x0) - 5) < 0.1
    assert abs(y0 + (row + 0.5) / density.shape[0] * (y1 - y0)) < 0.1
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b", "c"]
    shown = sum(len(dots.get_offsets()) for dots in figure.axes[0].collections)
    assert shown == 500


def test_figures_are_written_without_pyplot(tmp_path):
    import sys

    before = "matplotlib.pyplot" in sys.modules
    training_curves({"loss": curve(3, 2, 1)}, "loss").savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_the_curves_of_a_studys_rows_lie_over_one_another(tmp_path):
    from types import SimpleNamespace

    from flowprior.figures import StudyRuns
    from flowprior.figures.training import training

    texts = {
        "2d/vae": "0,train/nll,5\n10,train/nll,4\n10,train/entropy,1\n",
        "2d/glf": "0,train/nll,3\n10,train/nll,2\n10,valid/nll,2.5\n",
        "9d/vae": "0,train/nll,9\n",
    }
    for row, text in texts.items():
        (tmp_path / row).mkdir(parents=True)
        write(tmp_path / row / "metrics.csv", text)
    runs = StudyRuns(tuple(texts), (), lambda row: SimpleNamespace(folder=tmp_path / row), lambda row: [])
    axes = training(runs).axes
    assert [ax.get_title() for ax in axes] == ["2d: NLL", "2d: entropy", "9d: NLL"]
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes[0].lines}
    assert lines == {"vae": [5, 4], "glf": [2.5]}  # held-out where there is such a curve


def test_the_precision_recall_curve_is_drawn_for_samples_and_reconstructions(tmp_path, monkeypatch):
    from flowprior.data.images import Source
    from flowprior.figures import FigureRun
    from flowprior.figures.precision_recall import precision_recall
    from flowprior.models import Autoencoder
    from flowprior.networks import SmallDecoder, SmallEncoder
    from flowprior.priors import StandardNormal

    monkeypatch.setenv("FLOWPRIOR_CACHE", str(tmp_path))
    model = Autoencoder(SmallEncoder(1, 2), SmallDecoder(2, 1), StandardNormal(2)).eval()
    figure = precision_recall(FigureRun(model, Source("digits", limit=200), tmp_path, "glf/digits"))
    (ax,) = figure.axes
    samples, copies = ax.lines
    assert samples.get_label().startswith("samples: F8 0.")
    assert copies.get_label().startswith("reconstructions: F8 0.")
    assert samples.get_xdata().shape == (1001,)
