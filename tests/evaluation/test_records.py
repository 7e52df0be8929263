"""A metric is one record: what is checked, prepared, reported and listed follows from it, a user's too."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from flowprior import registry
from flowprior.data.images import Source
from flowprior.errors import InputError
from flowprior.evaluation import (
    BACKBONES,
    Evaluation,
    applicable,
    check_metrics,
    describe_metrics,
    higher_is_better,
    measure,
    prepare,
)
from flowprior.models import Autoencoder, GaussianPosterior
from flowprior.networks import MLP
from flowprior.priors import FlowPrior, ImplicitPrior, StandardNormal


@pytest.fixture(autouse=True)
def restored():
    with registry.restored():
        yield


@pytest.fixture
def moons():
    return Source("moons", limit=60)


def model(prior=None, posterior=True) -> Autoencoder:
    torch.manual_seed(0)
    posterior = GaussianPosterior() if posterior else None
    encoder = MLP(2, 4 if posterior else 2, hidden=())
    prior = StandardNormal(2) if prior is None else prior
    return Autoencoder(encoder, MLP(2, 2, hidden=()), prior, posterior=posterior).eval()


def radius(evaluation):
    """Mean norm of the samples.

    More of it.
    """
    x = torch.cat(list(evaluation.samples()))
    return {"radius": x.norm(dim=1).mean().item()}, {"samples": len(x)}


def test_a_new_metric_is_one_function_and_its_record(moons):
    registry.metric("radius", better="higher", unit="units of x")(radius)
    trained = model()
    measured = measure(trained, moons, ["radius", "nll", "radius"], count=70, seed=3)
    torch.manual_seed(3)
    expected = trained.decode(trained.prior.sample(70)).norm(dim=1).mean().item()
    assert measured.values["radius"] == pytest.approx(expected)
    assert measured.facts["radius"] == {"unit": "units of x", "samples": 70}
    assert higher_is_better("radius")
    line = next(line for line in describe_metrics().splitlines() if line.startswith("radius "))
    assert line.split() == ["radius", "higher", "units", "of", "x", "Mean", "norm", "of", "the", "samples."]


def test_the_command_line_measures_a_users_metric_and_refuses_one_that_does_not_suit(
    flowprior, tiny, options, tmp_path
):
    run = tmp_path / "run"
    trained = flowprior("train", "dpvae/moons", "--quiet", "--out", run, *options(tiny))
    assert trained.exit_code == 0, trained.stderr
    registry.metric("radius", better="higher", unit="units of x")(radius)
    registry.metric("sharpness", better="higher", unit="", needs=("images",))(radius)
    result = flowprior("eval", run, "--metrics", "radius")
    assert result.exit_code == 0, result.stderr
    report = json.loads((run / "report.json").read_text())
    assert report["metrics"]["radius"] > 0
    assert report["metric_facts"]["radius"]["unit"] == "units of x"
    refused = flowprior("eval", run, "--metrics", "radius,sharpness")
    assert refused.exit_code == 2
    assert "'sharpness' needs images, but 'moons' holds vectors: leave it out." in refused.stderr


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (("images",), "'mine' needs images, but 'moons' holds vectors: leave it out."),
        (("classifier",), "'mine' needs images, but"),  # since the classifier does
        (("prior density",), "'mine' needs a density of the prior, but ImplicitPrior has only samples"),
        (("posterior density",), "needs a posterior with a density, such as GaussianPosterior"),
        (("conditional model",), "'mine' needs a conditional model, but this one has no context"),
        (("imags",), "Unknown need of the metric 'mine', 'imags': did you mean `images`"),
    ],
)
def test_what_is_needed_and_missing_is_said_before_any_work(needs, said, moons):
    worked = []
    registry.metric("mine", better="lower", unit="", needs=needs)(worked.append)
    implicit = model(ImplicitPrior(2, hidden_features=(4,)), posterior=False)
    for refuse in (measure, prepare, lambda model, source, names: check_metrics(names, source, model)):
        with pytest.raises(InputError, match=said):
            refuse(implicit, moons, ["reconstruction", "mine"])
    assert not worked


def test_a_conditional_model_data_and_names_are_refused(moons):
    registry.metric("one", better="lower", unit="", needs=("unconditional model",))(radius)
    registry.metric("there", better="lower", unit="", data=("digits", "mnist"))(radius)
    with pytest.raises(InputError, match="'one' needs one prior for all examples, but this model is cond"):
        measure(model(FlowPrior(2, context_features=2)), moons, ["one"])
    with pytest.raises(InputError, match="'there' is for digits or mnist, and not for 'moons': leave it out"):
        check_metrics(["there"], moons)
    with pytest.raises(InputError, match="Unknown metric 'ther': did you mean `there`"):
        check_metrics(["ther"], moons)
    with pytest.raises(InputError, match="No metric is named"):
        check_metrics([], moons)


def test_labels_and_weights_are_missed_before_any_metric_is_measured(tmp_path, monkeypatch):
    monkeypatch.delenv("FLOWPRIOR_WEIGHTS", raising=False)
    monkeypatch.setenv("FLOWPRIOR_CACHE", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "plain.npy", images)
    plain = Source("plain.npy", tmp_path)
    pictures = Autoencoder(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
        nn.Sequential(nn.Linear(2, 64), nn.Unflatten(1, (1, 8, 8))),
        StandardNormal(2),
    ).eval()
    worked = []
    registry.metric("mine", better="lower", unit="")(worked.append)
    for name, said in (
        ("fd_classifier", "'fd_classifier' needs labels, but 'plain' has none: leave it out."),
        ("is_classifier", "'is_classifier' needs labels"),
        ("separability", "no labels to take attributes from"),
        ("fid", "pt_inception"),
        ("fd_squeezenet_reconstruction", "FLOWPRIOR_WEIGHTS"),
    ):
        for do in (measure, prepare):
            with pytest.raises(InputError, match=said):
                do(pictures, plain, ["mine", name])
    assert not worked


def test_what_a_metric_cannot_measure_is_raised_or_has_its_worst_value(moons):
    def broken(evaluation):
        warnings.warn("before", stacklevel=1)
        raise InputError("A density is not finite.")

    values = {"low": "lower", "high": "higher"}
    registry.metric("raised", better="lower", unit="")(broken)
    registry.metric("kept", better="lower", unit="nats", values=values, undefined="worst")(broken)
    with pytest.raises(InputError, match="A density is not finite"):
        measure(model(), moons, ["raised"])
    measured = measure(model(), moons, ["kept"])
    assert measured.values == {"low": math.inf, "high": -math.inf}
    assert measured.facts == {"kept": {"unit": "nats", "notes": ["before", "A density is not finite."]}}


def test_a_value_that_no_record_declares_is_refused(moons):
    registry.metric("mine", better="lower", unit="")(radius)
    with pytest.raises(InputError, match="'mine' returned 'radius': name it in `values`"):
        measure(model(), moons, ["mine"])


def test_each_metric_has_its_own_random_state_and_leaves_the_callers_alone(moons):
    registry.metric("drawn", better="lower", unit="")(lambda _: ({"drawn": torch.rand(()).item()}, {}))
    trained, before = model(), torch.get_rng_state()
    alone = measure(trained, moons, ["drawn"], seed=5).values["drawn"]
    after = measure(trained, moons, ["nll", "drawn"], seed=5).values["drawn"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert alone == after == torch.rand(()).item()
    assert measure(trained, moons, ["drawn"], seed=6).values["drawn"] != alone


def test_directions_of_values_and_of_metrics():
    higher = {"prd", "prd_f8", "prd_squeezenet_f1_8", "is", "lpips", "factors_spread", "context_gain"}
    lower = {"fid", "lp_fd_classifier", "skl_density", "leakage_0.01", "factors", "factors_energy", "loss"}
    assert all(map(higher_is_better, higher))
    assert not any(map(higher_is_better, lower))


def test_metrics_without_the_density_that_the_prior_lacks():
    names = ("reconstruction", "nll", "off_manifold", "context_gain", "no_such_metric")
    assert applicable(names, model()) == names
    implicit = model(ImplicitPrior(2, hidden_features=(4,)))
    assert applicable(names, implicit) == ("reconstruction", "off_manifold", "no_such_metric")


def test_every_metric_is_listed_with_a_unit_a_summary_and_known_needs(moons):
    lines = describe_metrics().splitlines()
    assert [line.split()[0] for line in lines] == ["metric", *registry.METRICS]
    for record in registry.METRICS.values():
        assert record.unit
        assert record.summary.endswith((".", ")"))
    evaluation = Evaluation(model(), moons)
    with pytest.raises(InputError, match="Unknown backbone 'inceptoin': did you mean `inception`"):
        evaluation.backbone("inceptoin")
    assert "inception" in BACKBONES
