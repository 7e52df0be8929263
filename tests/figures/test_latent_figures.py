"""The figures of prior against aggregate posterior, of a run and of a study."""

import math

import pytest
import torch
from PIL import Image

from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation.measure import measure
from flowprior.figures import (
    FigureRun,
    NotApplicable,
    StudyRuns,
    check_figures,
    draw,
    draw_study,
    factors,
    leakage,
    pockets,
    traversal,
)
from flowprior.figures.drawing import figure_names
from flowprior.latent import least_supported
from flowprior.metrics import CURVE_SHARES, normal_thresholds
from flowprior.metrics import leakage as leakage_score
from flowprior.models import Autoencoder, GaussianLikelihood, GaussianPosterior
from flowprior.networks import MLP, SmallDecoder, SmallEncoder
from flowprior.priors import DecoupledPrior, FlowPrior, MixturePrior, StandardNormal

OF_PRIORS = ("pockets", "leakage", "traversal", "factors")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(pockets, "DRAWS", 300)
    monkeypatch.setattr(leakage, "DRAWS", 300)
    monkeypatch.setattr(traversal, "CANDIDATES", 20)
    monkeypatch.setattr("flowprior.figures.style._GRID", 20)


def vectors(prior, folder=None, posterior=None):
    torch.manual_seed(0)
    features = prior.event_shape.numel()
    posterior = GaussianPosterior() if posterior is None else posterior
    model = Autoencoder(
        MLP(2, posterior.out_features(prior.event_shape), hidden=(4,)),
        MLP(features, 2, hidden=(4,)),
        prior,
        posterior=posterior,
        likelihood=GaussianLikelihood(activation="identity"),
    )
    return FigureRun(model.eval(), Source("moons", limit=80), folder, "tiny")


def images(prior, folder=None):
    torch.manual_seed(0)
    features = prior.event_shape.numel()
    model = Autoencoder(
        SmallEncoder(1, 2 * features, width=0.25),
        SmallDecoder(features, 1, width=0.25),
        prior,
        posterior=GaussianPosterior(),
    )
    return FigureRun(model.eval(), Source("digits", limit=80), folder, "digits")


def decoupled(features=2):
    torch.manual_seed(1)
    prior = FlowPrior(features, recipe="masked", transforms=2, hidden_features=(4,))
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return DecoupledPrior(prior)


def names(folder):
    return {path.stem for path in folder.rglob("*.png")}


APPLIES = {
    "normal": (lambda folder: vectors(StandardNormal(2), folder), {"pockets", "leakage", "traversal"}),
    "decoupled": (lambda folder: vectors(decoupled(), folder), {"pockets", "leakage", "traversal"}),
    "3-D": (lambda folder: vectors(decoupled(3), folder), {"leakage", "traversal"}),
    "mixture": (lambda folder: vectors(MixturePrior(2, components=2), folder), {"leakage"}),
    "images": (lambda folder: images(decoupled(), folder), set(OF_PRIORS)),
    "6-D images": (lambda folder: images(decoupled(6), folder), {"leakage", "traversal", "factors"}),
}


@pytest.mark.parametrize("kind", APPLIES)
def test_a_run_is_drawn_as_far_as_a_figure_applies(kind, tmp_path):
    make, expected = APPLIES[kind]
    run = make(tmp_path)
    draw(run)
    assert names(tmp_path) & set(OF_PRIORS) == expected
    for name in set(OF_PRIORS) - expected:
        with pytest.raises(InputError, match=f"'{name}' cannot be drawn: [^.]+\\.$"):
            draw(run, [name])


def test_models_without_these_densities_are_not_drawn(tmp_path):
    from flowprior.models import DeterministicPosterior

    for run, words in (
        (vectors(StandardNormal(2), tmp_path, DeterministicPosterior()), "posterior with a density"),
        (vectors(FlowPrior(2, context_features=2), tmp_path), "unconditional"),
    ):
        for name in OF_PRIORS[:3]:
            with pytest.raises(InputError, match=f"'{name}' cannot be drawn.*{words}"):
                draw(run, [name])


def test_a_density_beyond_the_floats_is_a_reason_not_to_draw(tmp_path):
    class Overflow(StandardNormal):
        def _log_prob(self, z, context):
            return super()._log_prob(z, context) * math.inf

    with pytest.raises(InputError, match=r"'leakage' cannot be drawn: .* holds NaN or infinity"):
        draw(vectors(Overflow(2), tmp_path), ["leakage"])


@torch.no_grad()
def test_marks_are_the_least_supported():
    run = vectors(decoupled())
    prior, aggregate = run.model.prior, run.aggregate
    torch.manual_seed(3)
    low, _ = least_supported(prior.sample, aggregate.log_prob, pockets.MARKED, 300)
    high, _ = least_supported(aggregate.sample, prior.log_base, pockets.MARKED, 300)
    torch.manual_seed(3)
    found = pockets.pockets_of(run)
    torch.testing.assert_close(found.representation.low, low)
    torch.testing.assert_close(found.representation.high, high)
    torch.testing.assert_close(found.generation.high, prior.generation(high))
    torch.testing.assert_close(found.data.low, run.model.decode(low))
    z0 = found.generation.cloud
    torch.testing.assert_close(prior.representation(z0), found.representation.cloud, atol=1e-4, rtol=1e-4)
    assert pockets.pockets_of(vectors(StandardNormal(2))).generation is None


@torch.no_grad()
def test_the_straight_line_of_a_traversal_falls_deepest_of_all_candidates(monkeypatch):
    run = vectors(decoupled())
    test, aggregate = run.source.test(), run.aggregate
    drawn = []
    monkeypatch.setattr(traversal, "traversal_panels", drawn.extend)
    torch.manual_seed(5)
    traversal.traversal(run)
    torch.manual_seed(5)
    pairs = traversal.candidates(test)
    assert 10 < len(pairs) <= traversal.CANDIDATES
    assert (test.label[pairs[:, 0]] != test.label[pairs[:, 1]]).all()
    depths = []
    for start, end in run.model.codes(test.x)[pairs]:
        line = torch.stack([start + (end - start) * step / 32 for step in range(33)])
        support = aggregate.log_prob(line)
        depths.append(support.min() - torch.minimum(support[0], support[-1]))
    start, end = run.model.codes(test.x)[pairs[torch.stack(depths).argmin()]]
    straight, bent = drawn[0].ways
    for way in (straight, bent):
        torch.testing.assert_close(way.z[[0, -1]], torch.stack([start, end]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(way.log_density, aggregate.log_prob(way.z))
        torch.testing.assert_close(way.decoded, run.model.decode(way.z))
    torch.testing.assert_close(straight.z[64], (start + end) / 2)
    middle = run.model.prior.generation(bent.z)[64]
    ends = run.model.prior.generation(torch.stack([start, end]))
    torch.testing.assert_close(middle, ends.mean(0), atol=1e-4, rtol=1e-4)


def test_pairs_need_two_classes():
    data = Source("moons", limit=40).test()
    one = type(data)("one", data.x, torch.zeros(len(data), dtype=torch.int64))
    with pytest.raises(NotApplicable, match="two classes"):
        traversal.candidates(one)


@torch.no_grad()
def test_factors_move_the_most_informed_dimensions_from_the_reconstruction(monkeypatch):
    run = images(decoupled(6))
    model = run.model
    drawn = {}
    monkeypatch.setattr(
        factors, "draw_sheet", lambda blocks, **said: drawn.update(said, images=blocks[0].transpose(0, 1))
    )
    factors.factors(run)
    q = model.encode(run.source.train().x.float() / 255)
    ratio = q.mean.var(0, correction=0) / q.variance.mean(0)
    order = ratio.argsort(descending=True)[:5].tolist()
    said = [f"z[{row}], {0.5 * math.log1p(ratio[row]):.2f} nats" for row in order]
    assert drawn["sides"] == said
    assert drawn["images"].shape == (11, 5, 1, 8, 8)
    first = run.source.test().x[:1].float() / 255
    torch.testing.assert_close(drawn["images"][5], model.reconstruct(first).expand(5, -1, -1, -1))
    z = model.encode(first).mean.clone()
    spread = (q.mean.var(0, correction=0) + q.variance.mean(0)).sqrt()
    z[0, order[1]] += 5 * spread[order[1]]
    torch.testing.assert_close(drawn["images"][-1, 1], model.decode(z)[0], atol=1e-5, rtol=1e-4)


def test_the_curve_in_the_report_is_the_score_at_its_thresholds(monkeypatch):
    monkeypatch.setattr("flowprior.evaluation.overlap.DRAWS", 400)
    run = vectors(decoupled())
    model = run.model
    curve = measure(model, run.source, ["leakage"], seed=0).facts["leakage"]["curve"]
    assert (CURVE_SHARES[0], len(CURVE_SHARES)) == (0.5, 20)
    assert CURVE_SHARES[-1] == pytest.approx(1e-6)
    assert list(curve["thresholds"]) == list(normal_thresholds(2, CURVE_SHARES))
    torch.manual_seed(0)
    aggregate = run.aggregate
    z = aggregate.sample(400)
    log_p, base = model.prior.log_prob(z), model.prior.log_base(z)
    found = leakage_score(aggregate.log_prob(z), log_p, curve["thresholds"], base)
    assert curve["scores"] == pytest.approx(found.scores)
    assert curve["shares"] == found.shares


def curve(*scores):
    facts = {"thresholds": [-3.0, -5.0], "standard_errors": [0.1, 0.1], "shares": [0.2, 0.0]}
    curve = {"leakage": {"curve": facts | {"scores": scores}}}
    return {"metric_facts": curve, "metrics": {"fd_classifier": scores[0]}}


def study(make, sizes=(2,)):
    experiments = {}
    for size in sizes:
        for kind, factor in (("vae", "factor_vae"), ("dpvae", "factor_dpvae")):
            for row in (kind, factor):
                prior = StandardNormal(size) if "dp" not in row else decoupled(size)
                experiments[f"{size}d/{row}"] = make(prior)
    twins = tuple(
        (f"{size}d/{plain}", f"{size}d/{twin}")
        for size in sizes
        for plain, twin in (("vae", "dpvae"), ("factor_vae", "factor_dpvae"))
    )
    return StudyRuns(
        tuple(experiments),
        twins,
        experiments.__getitem__,
        lambda row: [curve(2, 0), curve(4, 0)],
        {"VAE": {"0": "vae", "1": "factor_vae"}},
    )


def test_a_study_of_images_has_every_figure(tmp_path):
    runs = study(images, (2, 3))
    apart = ("conditions", "training")  # of conditional models; of what was logged while training
    names = [name for name in figure_names("study") if name not in apart]
    written = draw_study(runs, names, tmp_path)
    assert written == [tmp_path / f"{name}.png" for name in names]
    for path in written:
        with Image.open(path) as picture:
            assert min(picture.size) > 100


def test_a_study_shows_each_pair_of_2d_twins_and_the_mean_over_seeds(monkeypatch):
    drawn = {}
    for module, name in ((pockets, "pocket_panels"), (leakage, "leakage_panels")):
        monkeypatch.setattr(module, name, lambda what, name=name, **_: drawn.update({name: what}))
    runs = study(vectors, (2, 3))
    with torch.no_grad():
        pockets.pockets_of_twins(runs)
    lines = [[name for name, _ in line] for line in drawn["pocket_panels"]]
    assert lines == [["2d/vae", "2d/dpvae"], ["2d/factor_vae", "2d/factor_dpvae"]]
    leakage.leakage_of_twins(runs)
    groups = drawn["leakage_panels"]
    assert list(groups) == ["2d", "3d"]
    described = [(line.label, line.decoupled) for line in groups["2d"]]
    assert described == [("vae", False), ("vae", True), ("factor_vae", False), ("factor_vae", True)]
    assert groups["3d"][0].scores == [3, 0]
    assert groups["3d"][0].band == pytest.approx([2**0.5, 0])


@torch.no_grad()
def test_both_twins_of_a_study_join_the_same_test_examples_across_pockets(monkeypatch):
    drawn = []
    monkeypatch.setattr(traversal, "traversal_panels", drawn.extend)
    runs = study(vectors)
    torch.manual_seed(2)
    traversal.traversal_of_twins(runs)
    assert [model.name for model in drawn] == ["2d/factor_vae", "2d/factor_dpvae"]
    assert [len(model.ways) for model in drawn] == [1, 2]
    twins = [runs.restore(model.name) for model in drawn]
    test = twins[0].source.test()
    torch.manual_seed(2)
    pairs = traversal.candidates(test)
    falls = torch.stack([traversal.crossing_depths(twin, pairs) for twin in twins])
    pair = pairs[falls.amax(0).argmin()]
    for twin, model in zip(twins, drawn, strict=True):
        torch.testing.assert_close(model.ways[0].z[[0, -1]], twin.model.codes(test.x[pair]))


def test_unknown_figures_of_a_study_are_refused_before_any_is_drawn(tmp_path):
    runs = study(vectors, (3,))
    for ask in (
        lambda asked: check_figures(asked, of="study"),
        lambda asked: draw_study(runs, asked, tmp_path),
    ):
        with pytest.raises(InputError, match="Unknown figure 'pocket': did you mean `pockets`"):
            ask(["leakage", "pocket"])
    assert names(tmp_path) == set()


def test_figures_that_no_row_suits_are_left_out_and_said(tmp_path, capsys):
    runs = study(vectors, (3,))
    written = draw_study(runs, ["pockets", "leakage"], tmp_path)
    assert written == [tmp_path / "leakage.png"]
    assert capsys.readouterr().out.startswith("'pockets' is not drawn: it needs a pair of twins")
    bare = StudyRuns(runs.rows, runs.twins, runs.restore, lambda row: [{"metrics": {}}])
    alone = StudyRuns(runs.rows, (), runs.restore, runs.reports)
    absent = {"no figure": runs, "no curve": bare, "no twins": alone}
    asked = {"no figure": ["traversal", "samples", "factors"], "no curve": ["leakage"]}
    for kind, some in absent.items():
        these = asked.get(kind, ["pockets", "leakage", "traversal", "factors"])
        assert draw_study(some, these, tmp_path) == []
        said = capsys.readouterr().out.splitlines()
        assert [line.split(" is not drawn: ")[0] for line in said] == [f"'{name}'" for name in these]
