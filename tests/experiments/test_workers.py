"""Workers end with the process that started them, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowprior.experiments.workers import run_all


def until(holds, seconds=60.0):
    """Wait until something holds, at most so long."""
    deadline = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def alive(process):
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_workers_end_with_the_process_that_started_them(name, tmp_path):
    script = Path(__file__).with_name("followers.py")
    number = getattr(signal, name)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE) as parent:
        workers = until(
            lambda: len(list(tmp_path.iterdir())) == 2 and [int(p.name) for p in tmp_path.iterdir()]
        )
        assert workers, "both work"
        assert all(map(alive, workers))
        os.kill(parent.pid, number)
        assert parent.wait(30) == (-9 if name == "SIGKILL" else 128 + number)
        assert until(lambda: not any(map(alive, workers)), seconds=20)


def test_one_job_runs_here_and_in_order():
    ended = [(task, result()) for task, result in run_all(lambda n: (n, os.getpid()), [1, 2], jobs=1)]
    assert ended == [(n, (n, os.getpid())) for n in (1, 2)]
