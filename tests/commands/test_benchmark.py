"""`flowprior benchmark`: what is counted, what is written, what is refused; never how fast it is."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from flowprior import FlowPrior
from flowprior.cli import main
from flowprior.commands.flow_costs import Setting, Size, contestants, rounds, saved_bytes
from flowprior.plots.costs import Scaling, cost_maps, leaves_linear, scaling_panels


def test_the_arithmetic_is_that_of_the_layers_of_the_flow() -> None:
    for size in (Size(20, 8, 64, 100), Size(5, 3, 7, 2)):
        flow = FlowPrior(size.features, transforms=size.depth, hidden_features=(size.width, size.width))
        weights = [layer.weight for layer in flow.modules() if isinstance(layer, nn.Linear)]
        assert sorted(size.layers()) == sorted((w.shape[1], w.shape[0]) for w in weights)
        assert (
            size.flop("sample") == size.flop("log_prob") == 2 * size.batch * sum(w.numel() for w in weights)
        )
        assert size.flop("step") == 3 * size.flop("log_prob")


def test_saved_bytes_are_those_of_the_activations() -> None:
    """Of x -> relu(x W') V' with a mean: x, the hidden layer and nothing of W and V."""
    network = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    x = torch.randn(3, 4)
    found = saved_bytes(lambda: network(x).sum(), network.parameters())
    assert found == 4 * (3 * 4 + 3 * 8)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_contestants_do_their_work_in_the_precision_asked_for(precision: str) -> None:
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with Setting("cpu", precision).entered():
        found = contestants(Size(3, 2, 4, 5), Setting("cpu", precision), ["nflows", "pyro"], ["none"], [])
        assert [each.name for each in found] == [
            "flowprior",
            "flowprior pyro",
            "flowprior folded",
            "reference",
            "products",
        ]
        assert set(found[2].calls) == {"log_prob", "sample"}
        for each in (*found[:2], found[3]):
            assert each.flow is not None
            parameters = [value.detach().clone() for value in each.flow.parameters()]
            assert {value.dtype for value in parameters} == {getattr(torch, precision)}
            assert each.parameters == sum(value.numel() for value in parameters)
            for operation in ("log_prob", "sample"):
                each.calls[operation]()
            assert all(torch.equal(*both) for both in zip(parameters, each.flow.parameters(), strict=True))
            each.calls["step"]()
            changed = [
                not torch.equal(*both) for both in zip(parameters, each.flow.parameters(), strict=True)
            ]
            assert all(changed)
    assert before == (torch.get_default_dtype(), torch.get_float32_matmul_precision())


def test_rounds_take_turns() -> None:
    """Nobody is called twice in a row within a round, and who begins changes."""
    called: list[str] = []

    def call(name: str) -> Callable[[], None]:
        def sleepy() -> None:
            called.append(name)
            time.sleep(0.005)  # longer than a look at the clock: one call a turn

        return sleepy

    times = rounds({name: call(name) for name in "abc"}, "cpu", 0.0, 3)
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(called[-9:]) == "abcbcacab"


def test_the_command_writes_a_table_a_csv_and_figures(tmp_path: Path) -> None:
    words = (
        "benchmark --depth 1,2 --width 4,8 --features 3 --batch 5 --peers nflows --device cpu --seconds 0.001"
    )
    done = CliRunner().invoke(main, [*words.split(), "--threads", "1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    table = json.loads((tmp_path / "benchmark.json").read_text())
    assert table["command"].startswith("flowprior benchmark --depth 1,2 --width 4,8 --features 3 --batch 5")
    assert table["machine"]["threads"] == 1
    assert str(tmp_path) not in json.dumps(table)
    rows = table["rows"]
    assert len(rows) == 4 * (3 * 4 + 2)  # sizes; operations of four contestants, two of what is folded
    for row in rows:
        assert row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["examples_per_s"] == pytest.approx(5e3 / row["ms"])
        assert row["rate_share"] == pytest.approx(row["flop_per_s"] / table["product_rate"]["float32"])
        assert (row["memory"] is None) == (row["operation"] != "step" or row["contestant"] == "products")
    with (tmp_path / "benchmark.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["ms"]) for row in read] == [row["ms"] for row in rows]
    assert {path.name for path in tmp_path.glob("*.png")} == {"depth_width.png", "scaling.png"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--peers zukoo", "'zukoo'"),
        ("--precision float16", "'float16'"),
        ("--precision tf32 --device cpu", "needs a GPU"),
        ("--compile fast", "'reduce-overhead'"),
        ("--backend jax", "'pyro'"),
        ("--depth 0", "at least 1"),
        ("--features 1", "at least 2"),
        ("--batch a", "'a'"),
        ("--seconds -1", "--seconds"),
        ("--device abacus", "abacus"),
    ],
)
def test_bad_input_gets_one_sentence_before_anything_is_measured(
    words: str, said: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(main, ["benchmark", *words.split(), "--out", str(tmp_path / "new")])
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_where_a_cost_leaves_its_line() -> None:
    work = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}
    assert leaves_linear([1, 2, 4, 8], [1.0, 2.0, 4.0, 8.0], work) == 1
    assert leaves_linear([1, 2, 4, 8], [5.0, 5.0, 6.0, 8.0], work) is None
    assert leaves_linear([1, 2, 4, 8], [1.0, 5.0, 4.9, 8.0], work) == 4
    assert leaves_linear([1], [1.0], work) is None


def test_figures_show_what_they_are_given() -> None:
    figure = cost_maps({"step": {(1, 4): 2.0, (2, 4): 3.0, (1, 8): 40.0}})
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["2", "3", "40"]
    panel = Scaling(
        "step", "depth", {"own": ([1, 2], [1.0, 2.0]), "other": ([1, 2], [3.0, 3.0])}, {1: 1, 2: 2}
    )
    axes = scaling_panels([[panel]]).axes[0]
    own, other, line, mark = axes.get_lines()
    assert list(own.get_ydata()) == [1.0, 2.0] == list(line.get_ydata())
    assert list(other.get_ydata()) == [3.0, 3.0]
    assert mark.get_xdata()[0] == 1
    with pytest.raises(ValueError, match="maps"):
        cost_maps({})
    with pytest.raises(ValueError, match="rows"):
        scaling_panels([])
