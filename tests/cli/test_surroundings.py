"""A command among closed streams, poor terminals, and users without a home: the work is not lost."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowprior.metrics.cache import cache_folder
from flowprior.terminal import prepare_streams

NAMELESS = """
import pwd, runpy
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown  # what a container's user meets
runpy.run_module("flowprior", run_name="__main__")
"""


def test_a_container_without_home_locale_or_stderr(tmp_path: Path, options, tiny) -> None:
    """All at once, since each start costs seconds."""
    folder = os.fsencode(tmp_path) + b"/run-\xff\xe9"
    words = [sys.executable, "-c", NAMELESS, "train", "glf/digits", "--quiet", "--steps", "2", "--out"]
    command = [*map(os.fsencode, [*words]), folder, *map(os.fsencode, options(tiny))]
    kept = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ
    }
    poor = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command,
        env=kept | poor,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.close(2),
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert b"stopped at --steps" in done.stdout
    report = json.loads((Path(os.fsdecode(folder)) / "report.json").read_bytes())
    assert report["metrics"].keys() == {"reconstruction", "nll"}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_lacks_is_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)
    prepare_streams()
    print("one → two \udcff", flush=True)
    sys.stderr.write("→")
    assert stream.buffer.getvalue().decode(encoding) == "one \\u2192 two \\udcff\n"
    sys.stderr.close()


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FLOWPRIOR_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder().name == f"flowprior-{os.getuid()}"
