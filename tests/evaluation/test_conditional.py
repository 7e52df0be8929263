"""What is measured and drawn of conditional models, on models whose truth is known."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from flowprior.data.conditions import read_conditions
from flowprior.data.images import Source
from flowprior.data.stick_figures import FACTORS, render, true_factors
from flowprior.errors import InputError
from flowprior.evaluation import BACKBONES, Backbone, higher_is_better, measure
from flowprior.figures import FigureRun, StudyRuns, draw, draw_study
from flowprior.figures.conditions import LINES
from flowprior.models import Autoencoder, UnitGaussianPosterior
from flowprior.priors import GaussianPrior, StandardNormal

FIGURES = "stick_figures"


class Told(Autoencoder):
    """Sees the context; the decoder draws `draw(z, context)` as it is."""

    def __init__(self, prior, draw, shape=(3, 64, 64)):
        features = prior.event_shape.numel()
        encoder = nn.Sequential(nn.Flatten(), nn.LazyLinear(features))
        super().__init__(encoder, nn.Identity(), prior, posterior=UnitGaussianPosterior())
        self.draw, self.shape = draw, shape
        self.likelihood.mean = lambda output: output
        encoder(torch.zeros(1, *shape))

    @property
    def context_shape(self):
        return self.shape

    def prior_context(self, condition):
        return None if self.prior.context_features is None else condition.flatten(-3)

    def conditioned_output(self, z, condition):
        batch = torch.broadcast_shapes(z.shape[:-1], condition.shape[:-3])
        flat_z = z.expand(*batch, -1).flatten(0, -2)
        flat = condition.expand(*batch, *condition.shape[-3:]).flatten(0, -4)
        return self.draw(flat_z, flat).unflatten(0, batch)


def poses(source):
    """A decoder's oracle: the joints of a test example by its stick man, and figures of uniform factors."""
    test = source.test()
    keys = {context.numpy().tobytes(): row for row, context in enumerate(test.context)}

    def joints(context):
        rows = [keys[(255 * one).round().to(torch.uint8).numpy().tobytes()] for one in context]
        return test.known["joints"][rows]

    def draw(z, context, spread=1.0):
        low, high = torch.tensor(list(FACTORS.values())).T
        share = 0.5 + spread * (torch.distributions.Normal(0, 1).cdf(z) - 0.5)
        return render(joints(context), low + (high - low) * share, 64).float() / 255

    return draw


@pytest.fixture(scope="module")
def figures():
    return Source(FIGURES, limit=40)


def test_full_and_no_diversity_of_factors(figures):
    draw = poses(figures)
    full = measure(Told(StandardNormal(10), draw), figures, ["factors"], count=300)
    assert full.values["factors_spread"] == pytest.approx(1.0, abs=0.05)
    floor = full.facts["factors"]["two_true_draws"]
    assert full.values["factors"] < 2 * floor["value"]
    assert full.values["factors_energy"] < 2 * floor["energy"] + 0.05
    half = measure(Told(StandardNormal(10), lambda z, y: draw(z, y, 0.5)), figures, ["factors"], count=300)
    assert half.values["factors_spread"] == pytest.approx(0.5, abs=0.05)
    # a uniform law of half the width: W1 = ∫|F - G| = 1/8 of the range, the deviation is 1/√12 of it
    assert half.values["factors"] == pytest.approx(12**0.5 / 8, abs=0.05)
    assert higher_is_better("factors_spread")
    assert not higher_is_better("factors")
    assert not higher_is_better("factors_energy")


def test_the_factors_of_test_images_are_true_ones(figures):
    assert true_factors(7).shape == (7, len(FACTORS))
    assert figures.test().known["factors"].shape == (40, len(FACTORS))


def test_diversity_is_the_mean_distance_of_two_samples_at_one_condition(figures, monkeypatch):
    def distance(evaluation):
        return (lambda a, b: (a - b).abs().mean((1, 2, 3)).double()), {"features": "pixels"}

    monkeypatch.setitem(BACKBONES, "vgg distance", Backbone(distance, ()))

    def flat(z, context):
        return (z[:, :, None, None] > 0).float().expand(-1, 3, 64, 64)

    found = measure(Told(StandardNormal(1), flat), figures, ["diversity_vgg"], count=2000)
    assert found.values["diversity_vgg"] == pytest.approx(0.5, abs=0.04)  # as two fair coins do
    assert found.facts["diversity_vgg"]["pairs"] == 2000
    same = measure(Told(StandardNormal(1), lambda z, y: y), figures, ["diversity_vgg"], count=50)
    assert same.values["diversity_vgg"] == 0
    assert higher_is_better("diversity_vgg")


@pytest.mark.parametrize("name", ["fashion_silhouettes", "fashion_edges"])
def test_the_condition_is_read_back(name, data_root):
    source = Source(name, data_root)
    test = source.test()
    pictures = {y.numpy().tobytes(): x for y, x in zip(test.context, test.x, strict=True)}

    def real(z, context):
        found = [pictures[(255 * one).round().to(torch.uint8).numpy().tobytes()] for one in context]
        return torch.stack(found).float() / 255

    shape = (1, 32, 32)
    told = Told(StandardNormal(1), real, shape)
    found = measure(told, source, ["condition_error"], count=25)
    assert found.facts["condition_error"]["real"] == 0
    metrics = ["condition_error", "condition_error_reconstruction"]
    assert set(measure(told, source, metrics, count=25).values.values()) == {0}
    empty = Told(StandardNormal(1), lambda z, y: torch.zeros_like(y), shape)
    found = measure(empty, source, metrics, count=25)
    assert all(found.values[metric] > 0.9 for metric in metrics)


def test_samples_that_are_not_finite_are_said_and_left_out(figures, monkeypatch):
    def distance(evaluation):
        return (lambda a, b: (a - b).abs().mean((1, 2, 3)).double()), {"features": "pixels"}

    def one_lost(z, context):  # the first of each chunk
        return torch.where(torch.arange(len(z))[:, None, None, None] == 0, torch.nan, context)

    monkeypatch.setitem(BACKBONES, "vgg distance", Backbone(distance, ()))
    few = measure(Told(StandardNormal(1), one_lost), figures, ["diversity_vgg"], count=200)
    assert few.values["diversity_vgg"] == 0
    assert few.facts["diversity_vgg"]["pairs"] == 199
    assert few.facts["diversity_vgg"]["notes"] == ["1 of 200 samples, not finite, were left out."]
    lost = measure(
        Told(StandardNormal(1), lambda z, y: y / 0), figures, ["factors", "diversity_vgg"], count=40
    )
    assert lost.values == {"factors": float("inf"), "diversity_vgg": -float("inf")}  # the worst of each
    assert "samples are not finite" in lost.facts["factors"]["notes"][0]


def test_the_pose_error_is_that_of_the_joints_found(figures, monkeypatch):
    test = figures.test()
    shift = torch.tensor([3.0, 4.0])

    class Regressor(nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 15, 2) + shift

    network = Regressor()
    monkeypatch.setitem(BACKBONES, "pose", Backbone(lambda evaluation: network, ()))
    found = measure(Told(StandardNormal(1), lambda z, y: y), figures, ["condition_error"], count=40)
    truth = (test.known["joints"] - shift).norm(dim=2).mean().item()
    assert found.values["condition_error"] == pytest.approx(truth, rel=1e-5)
    assert found.facts["condition_error"]["real"] == pytest.approx(truth, rel=1e-5)


class Linear(GaussianPrior):
    """N(W c, I)."""

    def __init__(self, weight):
        super().__init__(*weight.shape, hidden_features=(2,))
        self.register_buffer("known", weight)

    def _to_base(self, z, context):
        return z - context @ self.known.T, z.new_zeros(z.shape[:-1])


class FromContext(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.known = nn.Parameter(weight)

    def forward(self, x, context):
        return context.flatten(1) @ self.known.T


def test_the_gain_of_the_true_context_and_none_for_a_prior_that_ignores_it(figures):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3 * 64 * 64, generator=generator) / 8
    model = Told(Linear(weight), lambda z, y: y)
    model.encoder, model.encoder_inputs = FromContext(weight), lambda x, context: (x, context)
    found = measure(model, figures, ["context_gain"])
    means = figures.test().context.float().flatten(1) / 255 @ weight.T
    truth = 0.5 * (means - means.roll(1, 0)).square().sum(1).mean().item()
    noise = (means - means.roll(1, 0)).square().sum(1).mean().sqrt().item() / len(means) ** 0.5
    assert found.values["context_gain"] == pytest.approx(truth, abs=4 * noise)
    assert truth > 8 * noise
    model.prior = Linear(torch.zeros_like(weight))
    assert measure(model, figures, ["context_gain"]).values["context_gain"] == 0
    model.prior = StandardNormal(4)
    found = measure(model, figures, ["context_gain"])
    assert (found.values["context_gain"], found.facts["context_gain"]["notes"]) == (
        0,
        ["the prior has no context"],
    )


def test_metrics_of_conditions_say_what_they_need(figures):
    plain = Autoencoder(nn.Flatten(), nn.Identity(), StandardNormal(3 * 64 * 64))
    with pytest.raises(InputError, match="'diversity_vgg' needs a conditional model"):
        measure(plain, figures, ["diversity_vgg"])
    with pytest.raises(InputError, match="'factors' is for stick_figures, and not for 'digits'"):
        measure(plain, Source("digits"), ["factors"])
    told = Told(StandardNormal(1), lambda z, y: y)
    for metric in ("skl", "ppl"):
        with pytest.raises(InputError, match="this model is conditional"):
            measure(told, figures, [metric])


def test_figures_of_conditional_models(figures, tmp_path):
    names = ["conditions", "transfer", "appearance"]
    prior = StandardNormal(10)
    sheets = draw(FigureRun(Told(prior, poses(figures)), figures, tmp_path, "t"), names)
    assert [path.stem for path in sheets] == names
    for path in sheets:
        with Image.open(path) as sheet:
            assert sheet.width > 64 * 8
    few = Source(FIGURES, limit=5)
    assert len(draw(FigureRun(Told(prior, poses(few)), few, tmp_path, "t"), names)) == 3
    plain = Autoencoder(nn.Flatten(), nn.Identity(), StandardNormal(64))
    with pytest.raises(InputError, match="whose conditions are pictures"):
        draw(FigureRun(plain, Source("digits"), tmp_path, "t"), ["conditions"])


def test_twins_are_drawn_at_the_same_conditions(figures, tmp_path):
    told = Told(StandardNormal(10), poses(figures))
    runs = StudyRuns(
        ("a", "b"),
        (("a", "b"),),
        lambda row: FigureRun(told, figures, tmp_path, row),
        lambda row: [],
    )
    (path,) = draw_study(runs, ["conditions"], tmp_path)
    with Image.open(path) as sheet:
        assert sheet.height > 2 * LINES * 64


def test_conditions_from_pictures_sheets_folders_and_arrays(tmp_path):
    generator = np.random.default_rng(0)
    tiles = generator.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    expected = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    sheet = tiles.reshape(2, 3, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, 24, 3)
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    (tmp_path / "folder").mkdir()
    for i, tile in enumerate(tiles):
        Image.fromarray(tile).save(tmp_path / "folder" / f"{i}.png")
    np.save(tmp_path / "rows.npy", expected.numpy())
    for name in ("sheet.png", "folder", "rows.npy"):
        assert torch.equal(read_conditions(tmp_path / name, (3, 8, 8)), expected), name
    assert read_conditions(tmp_path / "folder" / "0.png", (1, 8, 8)).shape == (1, 1, 8, 8)
    Image.fromarray(sheet[:13]).save(tmp_path / "wide.png")
    assert read_conditions(tmp_path / "wide.png", (3, 8, 8)).shape == (1, 3, 8, 8)  # resized, the center
    np.save(tmp_path / "bytes.npy", tiles.transpose(0, 3, 1, 2).astype(np.float32))
    (tmp_path / "no.png").write_bytes(b"no")
    for name, shape, said in (
        ("bytes.npy", (3, 8, 8), "divide bytes by 255"),
        ("rows.npy", (1, 8, 8), r"must be rows of \(1, 8, 8\)"),
        ("none.png", (3, 8, 8), "does not exist"),
        ("a.txt", (3, 8, 8), "another ending"),
        ("sheet.png", (5,), "another ending"),
        ("no.png", (3, 8, 8), "cannot be read"),
        ("rows.npy", None, "unconditional model"),
    ):
        with pytest.raises(InputError, match=said):
            read_conditions(tmp_path / name, shape)
