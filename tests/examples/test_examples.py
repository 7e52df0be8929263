"""The examples run as the README says, and what they claim of the prior holds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "examples"


def run(name: str, *options: str) -> str:
    command = [sys.executable, "-W", "error", str(FOLDER / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def test_a_plain_vae_becomes_one_with_a_flow_prior(tmp_path: Path) -> None:
    picture = tmp_path / "samples.png"
    said = run("drop_in_vae.py", "--epochs", "3", "--out", str(picture))
    before, after, gain = (float(value) for value in re.findall(r"(-?\d+\.\d\d) nats", said.replace("+", "")))
    assert gain == pytest.approx(after - before, abs=0.011)
    assert size_of(picture) == (608, 292)


def test_two_lines_of_the_vae_are_changed() -> None:
    """The import, and the prior: the README's claim."""
    text = (FOLDER / "drop_in_vae.py").read_text()
    marked = [line for line in text.splitlines() if "# changed line" in line]
    assert len(marked) == 2
    assert "import FlowPrior" in marked[0]
    assert "FlowPrior(LATENTS)" in marked[1]
    rest = "".join(line for line in text.splitlines(keepends=True) if "# changed line" not in line)
    code = rest.split('"""', 2)[2]  # less the docstring
    assert "flowprior" not in code
    assert "FlowPrior(" not in code


def test_a_prior_fitted_to_embeddings_beats_a_gaussian(tmp_path: Path) -> None:
    picture = tmp_path / "samples.png"
    said = run("fit_embeddings.py", "--epochs", "15", "--out", str(picture))
    gaussian, fitted = (float(value) for value in re.findall(r"(?:Gaussian|prior) (-?\d+\.\d\d)", said))
    assert fitted < gaussian - 2
    assert size_of(picture) == (924, 292)


def test_parts_of_ones_own_from_the_command_line_and_from_python(tmp_path: Path) -> None:
    folder = FOLDER / "my_objective"
    assert sum(len((folder / name).read_text().splitlines()) for name in ("my_parts.py", "digits.gin")) <= 60
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}

    def call(*words: str) -> str:
        command = [sys.executable, "-W", "error", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = str(tmp_path / "run")
    call(
        *("-m", "flowprior", "train", "digits.gin", "--plugin", "my_parts", "--out", out, "--quiet"),
        *("-b", "joint_stage.epochs = 3"),
    )
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["plugins"] == ["my_parts"]
    assert 0 < report["metrics"]["radius"] < 10
    said = call("train.py")
    assert 0 < float(re.findall(r"'radius': ([\d.]+)", said)[0]) < 10
