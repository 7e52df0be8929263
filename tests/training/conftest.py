"""Processes for the tests of killed and of distributed runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("worker.py")


class Server:
    """Runs in processes of their own, forked from one that has imported everything."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def start(self, folder: Path, resume: bool = False, **task: Any) -> int:
        """Begin a run; returns its process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"folder": str(folder), "resume": resume, **task}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """The exit status of the run that was started last."""
        return self._answer()

    def run(self, folder: Path, resume: bool = False, **task: Any) -> int:
        self.start(folder, resume, **task)
        return self.wait()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    with server.process as process:
        process.stdin.close()
