"""The benchmark scripts: every one starts; the contest's ratios and verdicts; what the figures show."""

import json
import sys
from pathlib import Path

import pytest

from flowprior.evaluation.costs import Size

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_starts_and_says_how_it_is_called(name: str, script, monkeypatch, capsys) -> None:
    module = script(name)
    if not hasattr(module, "main"):  # shared by the others
        return
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert f"python benchmarks/{name}.py" in capsys.readouterr().out


def test_a_contest_compares_with_the_products_and_the_machine(script, capsys) -> None:
    rows, facts = script("contest").contest(
        [Size(3, 2, 4, 5)], compiles=("none",), peers=("nflows",), seconds=0.001, least=3
    )
    assert [row["contestant"] for row in rows] == 3 * ["flowprior", "nflows", "products"]
    for row in rows:
        assert row["rate_share"] == pytest.approx(row["flop_per_s"] / facts["product_rate"]["float32"])
    assert all(row["to_first"] > 0 for row in rows)
    for first, bare in zip(rows[::3], rows[2::3], strict=True):
        assert first["to_products"] == pytest.approx(1 / bare["to_first"])
        assert first["to_products_low"] <= first["to_products"] <= first["to_products_high"]
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + 3
    assert "nflows / flowprior" in table[0]
    assert len({line.count("|") for line in table}) == 1


def test_a_peer_may_lack_an_operation(script, monkeypatch) -> None:
    """As an engine for inference does, which cannot train."""
    contest, peers = script("contest"), script("peers")

    def engine(size: Size, device: str):
        full = peers.products(size, device)
        return full._replace(name="engine", calls={"log_prob": full.calls["log_prob"]})

    monkeypatch.setitem(peers.PEERS, "engine", engine)
    monkeypatch.setattr(contest.metadata, "version", lambda package: "1.0")
    rows, facts = contest.contest([Size(3, 2, 4, 5)], peers=("engine",), seconds=0.001, least=3)
    assert [row["operation"] for row in rows if row["contestant"] == "engine"] == ["log_prob"]
    assert facts["peers"] == {"engine": "1.0"}


def test_verdicts_compare_with_the_targets(script) -> None:
    flow = script("flow")
    size = next(iter(flow.TARGETS))
    ahead, compiled = (flow.TARGETS[size][mode][0] for mode in ("flowprior", "flowprior compiled"))
    common = {**size._asdict(), "operation": "log_prob"}
    rows = [
        {**common, "contestant": "flowprior", "to_first": 1.0},
        {**common, "contestant": "flowprior default", "to_first": 1.01 * ahead / compiled},
        {**common, "contestant": "nflows", "to_first": ahead},
        {**common, "contestant": "zuko", "to_first": 0.9},
        {**common, "contestant": "JAX", "to_first": 0.4},
        {**common, "contestant": "products", "to_first": 0.2},
    ]
    assert [(each["ratio"], each["met"]) for each in flow.verdicts(rows)] == [
        ("nflows / flowprior", True),
        ("nflows / flowprior compiled", False),
        ("zuko / flowprior", False),
    ]


def test_a_sweep_writes_its_table_and_both_figures(script, tmp_path, monkeypatch) -> None:
    words = "--features 3 --depth 1,2 --width 4,8 --batch 5 --peers nflows --seconds 0.001 --out"
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words.split(), str(tmp_path / "table.json")])
    sweep = script("sweep")
    monkeypatch.setattr(sweep.torch, "set_num_threads", lambda count: None)
    sweep.main()
    table = json.loads((tmp_path / "table.json").read_text())
    assert len(table["rows"]) == 4 * 3 * 3  # sizes, operations, contestants
    assert str(tmp_path) not in table["command"]
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "flow_cpu_depth_width.png",
        "flow_cpu_scaling.png",
    }


def test_where_a_cost_leaves_its_line(script) -> None:
    leaves_linear = script("plots").leaves_linear
    work = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}
    assert leaves_linear([1, 2, 4, 8], [1.0, 2.0, 4.0, 8.0], work) == 1
    assert leaves_linear([1, 2, 4, 8], [5.0, 5.0, 6.0, 8.0], work) is None
    assert leaves_linear([1, 2, 4, 8], [1.0, 5.0, 4.9, 8.0], work) == 4
    assert leaves_linear([1], [1.0], work) is None


def test_figures_show_what_they_are_given(script) -> None:
    plots = script("plots")
    figure = plots.cost_maps({"step": {(1, 4): 2.0, (2, 4): 3.0, (1, 8): 40.0}})
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["2", "3", "40"]
    lines = {"own": ([1, 2], [1.0, 2.0]), "other": ([1, 2], [3.0, 3.0])}
    panel = plots.Scaling("step", "depth", lines, {1: 1, 2: 2})
    axes = plots.scaling_panels([[panel]]).axes[0]
    own, other, line, mark = axes.get_lines()
    assert list(own.get_ydata()) == [1.0, 2.0] == list(line.get_ydata())
    assert list(other.get_ydata()) == [3.0, 3.0]
    assert mark.get_xdata()[0] == 1
    with pytest.raises(ValueError, match="maps"):
        plots.cost_maps({})
    with pytest.raises(ValueError, match="rows"):
        plots.scaling_panels([])
