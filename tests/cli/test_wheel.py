"""An installed wheel carries the shipped configs and finds them from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"
CALL = "from flowprior.cli import main; main()"


def setuptools_is_old() -> bool:
    try:
        return int(metadata.version("setuptools").split(".")[0]) < 77  # what pyproject.toml asks for
    except metadata.PackageNotFoundError:
        return True


@pytest.mark.skipif(setuptools_is_old(), reason="setuptools 77 or newer builds the wheel")
def test_wheel_lists_and_trains_its_configs_from_any_folder(tmp_path: Path) -> None:
    source, target, elsewhere = (tmp_path / name for name in ("source", "target", "elsewhere"))
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("flowprior", "gin"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-W", "ignore", "-c", BUILD], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        archive.extractall(target)
    configs = {path.relative_to(ROOT / "gin").as_posix() for path in (ROOT / "gin").rglob("*.gin")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flowprior").rglob("*.py")}
    assert packed >= {f"flowprior/configs/{name}" for name in configs} | modules
    assert not any(name.startswith("gin/") for name in packed)  # that name belongs to gin-config

    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    environment["FLOWPRIOR_CACHE"] = str(tmp_path / "cache")

    def flowprior(*words: str) -> str:
        command = [sys.executable, "-c", CALL, *words]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [sys.executable, "-c", "import flowprior; print(flowprior.__file__)"]
    found = subprocess.run(where, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(target)
    assert "glf/digits" in flowprior("list")
    metrics = "experiment.metrics = ('reconstruction',)"
    flowprior("train", "glf/digits", "--steps", "1", "--out", "run", "--quiet", "-b", metrics)
    assert (elsewhere / "run" / "samples.png").is_file()


def test_the_folder_of_configs_is_no_package() -> None:
    assert not list((ROOT / "gin").rglob("*.py"))
