"""What the test of workers starts: two workers that wait, and say who they are; not a test itself."""

import os
import sys
import time
from pathlib import Path

from flowprior.experiments.workers import run_all
from flowprior.terminal import ended_by_signals


def wait(folder: str) -> None:
    """Leave the process id, and wait for the end."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(120)


if __name__ == "__main__":
    with ended_by_signals():
        for _, ended in run_all(wait, [sys.argv[1]] * 2, jobs=2):
            ended()
