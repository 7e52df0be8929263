"""The command line from outside: what is printed, what is refused, and with which exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowprior.cli import main


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("flowprior: ")
    assert all(word in lines[0] for word in words), lines[0]


def test_list_prints_each_shipped_experiment_on_one_line() -> None:
    result = call("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert {"glf/digits", "glf/fashion_mnist", "glf/mnist", "glf/cifar10", "glf/celeba"} <= set(names)
    assert all(len(line.split()) > 3 for line in lines)
    assert not any("_base" in name for name in names)


def test_list_and_help_import_neither_torch_nor_gin() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from flowprior.cli import main\n"
        "for words in (['list'], ['--help'], ['train', '--help']):\n"
        "    assert CliRunner().invoke(main, words).exit_code == 0\n"
        "print([name for name in ('torch', 'gin', 'matplotlib', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_fixed_options_are_there() -> None:
    for verb, options in {
        "list": "--metrics --figures --plugin",
        "train": "--size -b --plugin --out --resume --allow-changed --overwrite --steps --device --precision "
        "--gin_file --gin_bindings",
        "sample": "-n --out --plugin",
        "eval": "--metrics --plugin",
        "plot": "RUN --plugin",
        "fit": "--out --context --key --overwrite",
        "repair": "RUN",
        "compare": "STUDY --size --plugin --seeds --out --row --jobs -b --data-root --weights",
        "export": "--out --plugin",
        "benchmark": "--depth --width --features --batch --backend --precision --compile --threads --quick",
    }.items():
        text = call(verb, "--help").stdout
        assert all(option in text for option in options.split()), verb
    verbs = {"list", "train", "sample", "export", "eval", "plot", "fit", "fit-images", "compare", "benchmark"}
    verbs |= {"repair"}
    assert set(main.commands) == verbs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian", "glf/digits"], ["'trian'", "did you mean `train`"]),
        (["train"], ["CONFIG is missing"]),
        (["train", "glf/digit"], ["'glf/digit'", "`glf/digits`", "flowprior list"]),
        (["train", "digits"], ["`glf/digits`"]),
        (["train", "nowhere/at/all.gin"], ["does not exist"]),
        (["train", "glf/digits", "--size", "huge"], ["huge", "cpu", "paper"]),
        (["train", "glf/digits", "--steps", "0"], ["--steps"]),
        (["train", "glf/digits", "--step", "1"], ["--step", "--steps"]),
        (
            ["train", "glf/digits", "-b", "FlowPrior.transform = 4"],
            ["transform", "did you mean `transforms`"],
        ),
        (["train", "glf/digits", "-b", "FlowPrior.transforms = 'four'"], ["'four'", "int"]),
        (["train", "glf/digits", "-b", "FlowPrior.transforms = 0"], ["0"]),
        (["train", "glf/digits", "-b", "FlowPrior.recipe = 'gfl'"], ["'gfl'", "'glf'"]),
        (["train", "glf/digits", "-b", "Source.name = 'digitz'"], ["digitz", "digits"]),
        (["train", "glf/digits", "-b", "import os"], ["import os", "refused"]),
        (["train", "glf/digits", "-b", "joint_stage.epochs = -1"], ["-1"]),
        (["train", "glf/digits", "-b", "experiment.metrics = ('fdi',)"], ["fdi", "`fid`"]),
        (["train", "glf/digits", "--precision", "8-bit"], ["8-bit", "32-true"]),
        (["train", "glf/digits", "--device", "abacus"], ["abacus"]),
        (["train", "glf/digits", "--resume", "--overwrite"], ["exclude each other"]),
        (["train", "glf/mnist", "--data-root", "nowhere"], ["nowhere"]),
        (["sample", "nowhere", "--out", "x.png"], ["'nowhere'", "does not exist"]),
        (["sample", "nowhere"], ["--out"]),
        (["eval", ".", "--metrics", "nll"], ["config.gin"]),
        (["plot", "nowhere"], ["'nowhere'"]),
        (["fit", "nowhere.npy", "--out", "p"], ["nowhere.npy", "does not exist"]),
        (["fit", "nowhere.npy", "--out", "p", "--hidden", "a,b"], ["a,b", "128,128"]),
    ],
)
def test_bad_input_gets_one_sentence_and_status_2(arguments: list[str], words: list[str]) -> None:
    short = ["--steps", "1"] if arguments[0] == "train" and "--steps" not in arguments else []
    refused(call(*arguments, *short), *words)
    assert list(Path.cwd().iterdir()) == []  # nothing was begun


def test_a_real_process_ends_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "flowprior"
    done = subprocess.run(
        [script, "train", "glf/digist"], capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ)
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "`glf/digits`" in done.stderr


def test_an_unknown_experiment_is_one_sentence_with_or_without_a_near_name():
    for name, sentence in (
        ("zzzzqqq", "'zzzzqqq': `flowprior list`"),
        ("glf/digit", "did you mean `glf/digits`"),
    ):
        result = CliRunner().invoke(main, ["train", name])
        assert result.exit_code == 2
        assert sentence in result.stderr
