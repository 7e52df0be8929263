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

from flowprior.cli import main
from flowprior.errors import RunError
from flowprior.evaluation.costs import Size, flowpriors, in_precision, rounds, saved_bytes
from flowprior.figures.costs import cost_panels


def test_saved_bytes_are_those_of_the_activations() -> None:
    """For x -> relu(x W') V' with a mean: x, the hidden layer and nothing of W and V."""
    network = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    x = torch.randn(3, 4)
    saved = saved_bytes(lambda: network(x).sum(), network.parameters())
    assert saved == 4 * (3 * 4 + 3 * 8)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_contestants_do_their_work_in_the_precision_asked_for(precision: str) -> None:
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    with in_precision(precision):
        entered = list(flowpriors(Size(3, 2, 4, 5), "cpu", ["nflows", "pyro"]))
        assert [each.name for each in entered] == ["flowprior", "flowprior pyro"]
        for each in entered:
            parameters = [value.detach().clone() for value in each.parameters]
            assert {value.dtype for value in parameters} == {getattr(torch, precision)}
            for operation in ("log_prob", "sample"):
                each.calls[operation]()
            assert all(torch.equal(*both) for both in zip(parameters, each.parameters, strict=True))
            each.calls["step"]()
            changed = [not torch.equal(*both) for both in zip(parameters, each.parameters, strict=True)]
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


def test_a_compiler_that_fails_is_one_sentence() -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def call() -> None:
        raise BackendCompilerFailed(lambda: None, RuntimeError("no g++"), None)

    with pytest.raises(RunError, match=r"torch\.compile failed on flowprior default .*C\+\+ compiler"):
        rounds({"flowprior default": call}, "cpu", 0.0, 1)


def test_the_command_writes_a_table_a_csv_and_a_figure(tmp_path: Path) -> None:
    words = "benchmark --depth 1,2 --width 4,8 --features 3 --batch 5 --backend nflows,pyro --device cpu"
    words += " --seconds 0.001 --threads 1"
    done = CliRunner().invoke(main, [*words.split(), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    table = json.loads((tmp_path / "benchmark.json").read_text())
    assert table["command"].startswith("flowprior benchmark --features 3 --depth 1,2 --width 4,8 --batch 5")
    assert table["machine"]["threads"] == 1
    assert str(tmp_path) not in json.dumps(table)
    rows = table["rows"]
    assert len(rows) == 4 * 3 * 2  # sizes, operations, contestants
    assert {row["contestant"] for row in rows} == {"flowprior", "flowprior pyro"}
    for row in rows:
        assert row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert row["examples_per_s"] == pytest.approx(5e3 / row["ms"])
        assert (row["memory"] is None) == (row["operation"] != "step")
        if row["contestant"] == "flowprior":
            assert row["to_first"] == 1
    with (tmp_path / "benchmark.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["ms"]) for row in read] == [row["ms"] for row in rows]
    assert [path.name for path in tmp_path.glob("*.png")] == ["costs.png"]
    assert sum(line.startswith("| 3 | ") for line in done.output.splitlines()) == len(rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--precision float16", "'float16'"),
        ("--precision tf32 --device cpu", "needs a GPU"),
        ("--compile fast", "'reduce-overhead'"),
        ("--backend jax", "'pyro'"),
        ("--depth 0", "at least 1"),
        ("--features 1", "at least 2"),
        ("--batch a", "'a'"),
        ("--seconds -1", "--seconds"),
        ("--device abacus", "abacus"),
        ("--peers zuko", "--peers"),
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


def test_the_figure_shows_what_it_is_given() -> None:
    rows = [
        {"features": 3, "batch": 5, "width": width, "depth": depth, "precision": "float32"}
        | {"contestant": "flowprior", "operation": operation, "ms": width * depth, "memory": 1e6 * depth}
        for width in (4, 8)
        for depth in (1, 2)
        for operation in ("log_prob", "step")
    ]
    density, step, memory = cost_panels(rows).axes
    assert [list(line.get_ydata()) for line in density.get_lines()] == [[4, 8], [8, 16]]
    assert [list(line.get_xdata()) for line in step.get_lines()] == [[1, 2], [1, 2]]
    assert [list(line.get_ydata()) for line in memory.get_lines()] == [[1, 2], [1, 2]]
