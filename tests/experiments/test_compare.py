"""`flowprior compare`: runs are kept, resumed and measured once; the table is what the reports say."""

import json
import statistics

import pytest

from flowprior.evaluation import likelihood, overlap
from flowprior.experiments.comparison import Comparison
from flowprior.experiments.runs import update_report
from flowprior.experiments.study import Study

STUDY = """
include 'glf/digits.gin'
study.rows = {
    'one': (),
    'two': ('autoencoder.features = 3',),
}
study.orders = (('one', 'two'),)
study.metrics = ('reconstruction', 'nll')
study.paper = {'one': {'nll': 5.0}, 'two': {'nll': 4.0}}
"""
QUICK = ("Source.limit = 8", "FlowPrior.transforms = 2", "FlowPrior.hidden_features = (4,)")
QUICK += ("FlowPrior.base = 'normal'", "joint_stage.epochs = 1", "joint_stage.batch_size = 4")
QUICK += ("prior_stage.epochs = 1", "prior_stage.batch_size = 4")


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text(STUDY)
    return path


@pytest.fixture
def compare(flowprior, options, study, tmp_path):
    def call(*arguments, bindings=(), jobs=1, study=study):
        out = ("--out", tmp_path / "out", "--jobs", jobs, "--quiet", "--device", "cpu")
        return flowprior("compare", study, *out, *arguments, *options([*QUICK, *bindings]))

    return call


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("seed*/checkpoints/*.safetensors")}


def test_rows_are_trained_tabulated_and_kept(compare, tmp_path):
    out = tmp_path / "out"
    result = compare("--seeds", 2)
    assert result.exit_code == 0, result.stderr
    table = json.loads((out / "table.json").read_text())
    assert (table["study"], table["size"], [row["name"] for row in table["rows"]]) == (
        "mine",
        "cpu",
        ["one", "two"],
    )
    assert table["command"].startswith(
        "flowprior compare mine.gin --seeds 2 --size cpu -b 'Source.limit = 8' -b"
    )
    for row in table["rows"]:
        reports = [json.loads((out / row["name"] / f"seed{seed}/report.json").read_text()) for seed in (0, 1)]
        assert [report["running"]["seed"] for report in reports] == row["seeds"] == [0, 1]
        for metric in ("reconstruction", "nll"):
            values = [report["metrics"][metric] for report in reports]
            assert values[0] != values[1]
            found = row["metrics"][metric]
            assert found["values"] == values
            assert found["mean"] == pytest.approx(sum(values) / 2)
            assert found["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert table["rows"][0]["settings"] == {}
    assert table["rows"][1]["settings"] == {"autoencoder.features": "3"}
    assert table["rows"][1]["paper"] == {"nll": 4.0}
    text = (out / "table.md").read_text()
    assert text in result.stdout
    assert "paper: nll" in text
    assert "one → two" in text
    assert "5 → 4" in text

    before = stamps(out)
    again = compare("--seeds", 2)
    assert again.exit_code == 0, again.stderr
    assert stamps(out) == before
    assert "[1/" not in again.stdout


def test_only_the_missing_metric_is_measured(compare, tmp_path):
    assert compare("--row", "two").exit_code == 0
    assert " --row two -b " in json.loads((tmp_path / "out/table.json").read_text())["command"]
    path = tmp_path / "out/two/seed0/report.json"
    written = path.read_text()
    edited = json.loads(written)
    edited["metrics"]["nll"] = 123.0
    path.write_text(json.dumps(edited))
    refused = compare("--row", "two")
    assert refused.exit_code == 2
    assert "checksum does not match" in refused.stderr
    path.write_text(written)
    update_report(path.parent, metrics={"nll": 123.0})  # would be put right if it were measured again
    before = stamps(tmp_path / "out")
    more = ["study.metrics = ('reconstruction', 'nll', 'fd_classifier')"]
    result = compare("--row", "two", bindings=more)
    assert result.exit_code == 0, result.stderr
    assert stamps(tmp_path / "out") == before
    found = json.loads(path.read_text())["metrics"]
    assert found["nll"] == 123.0
    assert found["fd_classifier"] > 0
    result = compare("--row", "two", bindings=[*more, "study.samples = 50"])
    assert json.loads(path.read_text())["metrics"]["nll"] != 123.0


def test_an_interrupted_run_goes_on_to_the_same_numbers(compare, flowprior, options, tmp_path, study):
    assert compare("--row", "one").exit_code == 0
    whole = json.loads((tmp_path / "out/one/seed0/report.json").read_text())["metrics"]
    there = tmp_path / "elsewhere"
    bindings = [*QUICK, "experiment.metrics = ('reconstruction',)", "experiment.seed = 0"]
    run = there / "one/seed0"
    stopped = flowprior("train", study, "--steps", 1, "--out", run, "--quiet", *options(bindings))
    assert stopped.exit_code == 0, stopped.stderr
    assert not json.loads((run / "report.json").read_text())["finished"]
    result = compare("--row", "one", "--out", there)
    assert result.exit_code == 0, result.stderr
    report = json.loads((run / "report.json").read_text())
    assert report["finished"]
    assert report["metrics"] == whole


def test_two_processes_find_what_one_finds(compare, tmp_path):
    assert compare("--seeds", 1).exit_code == 0
    alone = json.loads((tmp_path / "out/table.json").read_text())["rows"]
    result = compare("--out", tmp_path / "both", jobs=2)
    assert result.exit_code == 0, result.stderr
    both = json.loads((tmp_path / "both/table.json").read_text())["rows"]
    for a, b in zip(alone, both, strict=True):
        assert a["metrics"] == b["metrics"]


def test_another_config_in_the_folder_is_refused_and_nothing_is_lost(compare, tmp_path):
    assert compare().exit_code == 0
    before = stamps(tmp_path / "out")
    result = compare(bindings=["FlowPrior.hidden_features = (5,)"])
    assert result.exit_code == 2
    assert "config differs" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert stamps(tmp_path / "out") == before


def test_a_run_that_fails_does_not_stop_the_others(compare, study, tmp_path):
    study.write_text(STUDY.replace("'one': ()", "'one': ('joint/OptimizerSettings.lr = 1e30',)"))
    result = compare()
    assert result.exit_code == 1
    assert "1 of 2 runs failed (one, seed 0)" in result.stderr
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["two"]
    assert table["directions"] == []


@pytest.mark.parametrize(
    ("arguments", "bindings", "sentence"),
    [
        (["--row", "three"], [], "no row 'three'"),
        ([], ["study.metrics = ('fidd',)"], "Unknown metric 'fidd': did you mean `fid`"),
        ([], ["study.figures = ('pocket',)"], "did you mean `pockets`"),
        ([], ["study.metrics = ()"], "needs rows and metrics"),
        ([], ["study.metrics = {'a': ('nll',)}"], "are of a, but the variants are none"),
        ([], ["study.orders = (('one', 'three'),)"], "speaks of a row 'three': there are one, two"),
        ([], ["study.rows = {'a b': ()}"], "cannot be a folder"),
        ([], ["study.row = {}"], "no parameter `row`: did you mean `rows`"),
        ([], ["study.metrics = ('lp_fd_classifier',)"], "needs a posterior with a density"),
        ([], ["study.metrics = ('fid',)"], "FLOWPRIOR_WEIGHTS"),
        ([], ["study.metrics = ('ppl',)"], "FLOWPRIOR_WEIGHTS"),
    ],
)
def test_bad_input_gets_one_sentence_before_any_run(compare, arguments, bindings, sentence, tmp_path):
    result = compare(*arguments, bindings=bindings)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not stamps(tmp_path / "out")


def test_a_config_without_rows_is_no_study(flowprior):
    result = flowprior("compare", "glf/digits")
    assert result.exit_code == 2
    assert "'glf/digits' is one experiment and no study: there are cqfg/conditional" in result.stderr


def test_every_row_of_moons_is_compared(flowprior, options, tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "DRAWS", 100)
    monkeypatch.setattr(likelihood, "EXAMPLES", 5)
    bindings = ["Source.limit = 40", "joint_stage.batch_size = 20", "FlowPrior.transforms = 2"]
    bindings += ["joint_stage.epochs = 1", "study.samples = 20", "study.importance_samples = 5"]
    out = tmp_path / "out"
    result = flowprior("compare", "dpvae/moons", "--out", out, "--jobs", 1, "--quiet", *options(bindings))
    assert result.exit_code == 0, result.stderr
    table = json.loads((out / "table.json").read_text())
    assert len(table["rows"]) == 12
    for row in table["rows"]:
        config = (out / row["name"] / "seed0/config.gin").read_text()
        assert ("FlowPrior.transforms" in config) == ("dp" in row["name"])
        objective = row["settings"].get("joint_stage.objective", "@ELBO")
        assert f"joint_stage.objective = {objective}\n" in config
        assert {"skl", "skl_density", "iw_nll", "leakage_0.1", "leakage_0.01"} <= row["metrics"].keys()
        assert 0 <= row["metrics"]["off_manifold"]["mean"] <= 1
    assert len({json.dumps(row["settings"]) for row in table["rows"]}) == 12
    assert {one["metric"] for one in table["directions"]} >= {"skl", "off_manifold", "leakage_0.01"}


def made_up(folder, name, seed, **metrics):
    path = folder / name / f"seed{seed}"
    path.mkdir(parents=True)
    facts = {"nll": {}, "prd": {}, "fd_classifier": {}}
    content = {"finished": True, "metrics": metrics, "metric_facts": facts}
    (path / "report.json").write_text(json.dumps(content | {"wall_time_seconds": 1.0, "parameters": 3}))


def test_directions_count_seeds_and_know_what_is_better(tmp_path):
    paper = {"2d/a": {"fid": 9.0}, "2d/b": {"fid": 10.0}}
    study = Study(
        rows={"a": (), "b": ("x = 1",)},
        variants={"2d": (), "9d": ()},
        orders=(("a", "b"),),
        metrics={"2d": ("nll", "prd", "fd_classifier"), "9d": ("kid",)},
        paper=paper,
    )
    made_up(tmp_path, "2d/a", 0, nll=1.0, prd_f8=0.5, fd_classifier=3.0)
    made_up(tmp_path, "2d/a", 1, nll=5.0, prd_f8=0.5, fd_classifier=3.0)
    made_up(tmp_path, "2d/b", 0, nll=2.0, prd_f8=0.9, fd_classifier=None)
    made_up(tmp_path, "2d/b", 1, nll=2.0, prd_f8=0.4, fd_classifier=1.0)
    made_up(tmp_path, "9d/a", 0, nll=2.0)  # not yet measured by the metric of its variant
    table = Comparison(study, "s", "cpu", tmp_path, seeds=3).table()
    assert [row["name"] for row in table["rows"]] == ["2d/a", "2d/b"]
    found = {one["metric"]: one for one in table["directions"]}
    assert found["nll"]["holds"] is None  # one seed each way
    assert found["nll"]["standard_error"] == pytest.approx(2.0)  # of -1 and 3
    assert (found["nll"]["better_seeds"], found["nll"]["seeds"]) == (1, 2)
    assert found["nll"]["means"] == [3.0, 2.0]
    assert found["prd_f8"]["holds"] is None
    assert found["prd_f8"]["better_seeds"] == 1
    assert found["fd_classifier"]["holds"] is None  # one of its values could not be had
    assert found["fd_classifier"]["better_seeds"] == 1
    assert found["fd_classifier"]["paper"] == [9.0, 10.0]
    assert found["fd_classifier"]["paper_holds"] is False
    row = table["rows"][0]["metrics"]["nll"]
    assert row["std"] == pytest.approx(statistics.stdev([1.0, 5.0]))


def test_the_table_says_where_the_critic_sees_less_than_half(tmp_path):
    study = Study(
        rows={"blind": (), "seeing": (), "plain": ()}, metrics=("nll",), orders=(("blind", "seeing"),)
    )
    for name, seen in (("blind", 0.1), ("seeing", 0.4), ("plain", None)):
        made_up(tmp_path, name, 0, nll=1.0, total_correlation_z=0.5)
        path = tmp_path / name / "seed0" / "report.json"
        content = json.loads(path.read_text())
        last = {"train/loss": 1.0} if seen is None else {"train/model/total_correlation": seen}
        path.write_text(json.dumps(content | {"last_epoch": last}))
    comparison = Comparison(study, "s", "", tmp_path, seeds=1)
    table = comparison.table()
    critics = [row["metrics"].get("total_correlation_critic", {}).get("mean") for row in table["rows"]]
    assert critics == [0.1, 0.4, None]
    assert not any(one["metric"].endswith("critic") for one in table["directions"])
    notes = [line for line in comparison.markdown(table).splitlines() if "less than half" in line]
    assert notes == ["blind: the critic sees 0.1 nats of a total correlation of 0.5, less than half."]


def test_a_sweep_is_drawn_from_the_means_of_the_reports(monkeypatch):
    from flowprior.figures import StudyRuns, sweep

    values = {"a/flow_0": [1.0, 3.0], "a/flow_1": [5.0], "b/flow_1": [7.0]}
    runs = StudyRuns(
        tuple(values),
        (),
        pytest.fail,
        lambda row: [{"metrics": {"nll": 0.0, "fid_reconstruction": 0.1, "fid": fid}} for fid in values[row]],
        {"flow": {"1": "flow_1", "0": "flow_0"}, "aae": {"0": "aae_0"}},
    )
    seen = {}
    monkeypatch.setattr(sweep, "sweep_panels", lambda groups, metric: seen.update(groups, metric=metric))
    sweep.sweep(runs)
    assert seen == {
        "a": [sweep.SweepLine("flow", ["1", "0"], [5.0, 2.0], [None, 2.0**0.5])],
        "b": [sweep.SweepLine("flow", ["1"], [7.0], [None])],
        "metric": "fid",
    }
