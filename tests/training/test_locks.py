"""One writer a folder: others are refused by name, and what a killed one left is taken over."""

import fcntl
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flowprior.errors import InputError, RunError
from flowprior.files import remove_leftovers, write_atomically
from flowprior.locks import LOCK, REPORT_LOCK, locked


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_cannot_train_in_one_folder(server: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    child = server.start(run, options={"max_steps": 4, "slow": True})
    deadline = time.monotonic() + 60
    while not (run / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(InputError, match=rf"in use by process {child} on .+ since 20"), locked(run):
        pass
    assert server.wait() == 0
    assert not (run / LOCK).exists()
    with locked(run) as lock:
        assert not lock.taken_over


def test_a_killed_holder_is_followed(server: Any, tmp_path: Path) -> None:
    assert server.run(tmp_path, plan={"step": 5}) == -9
    assert json.loads((tmp_path / LOCK).read_text())["process"] > 0
    with locked(tmp_path) as lock:
        assert lock.taken_over
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_may_be_entered_again_but_not_by_another_thread(tmp_path: Path) -> None:
    seen: list[str] = []

    def other() -> None:
        try:
            with locked(tmp_path):
                seen.append("entered")
        except InputError as error:
            seen.append(str(error))

    with locked(tmp_path), locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with locked(tmp_path, REPORT_LOCK):  # another lock
            pass
    assert len(seen) == 1
    assert f"in use by process {os.getpid()}" in seen[0]
    assert not list(tmp_path.iterdir())


def test_who_waits_comes_next(tmp_path: Path) -> None:
    order: list[str] = []

    def other() -> None:
        with locked(tmp_path, wait=True):
            order.append("second")

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").touch()
    assert contents(tmp_path) == {"a/kept": b""}


@pytest.mark.parametrize("what", ["moved", "unlocked"])
def test_a_folder_that_vanishes_is_noticed(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    with locked(folder) as lock:
        lock.check()
        if what == "moved":
            folder.rename(tmp_path / "elsewhere")
        else:
            (folder / LOCK).unlink()
        with pytest.raises(RunError, match="removed, moved or unlocked"):
            lock.check()


def test_only_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    left, held = tmp_path / f".x.json.{'0' * 16}.tmp", tmp_path / f".y.json.{'1' * 16}.tmp"
    for path in (left, held, tmp_path / ".mine.tmp", tmp_path / "x.json"):
        path.touch()
    with held.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_leftovers(tmp_path)
        assert contents(tmp_path).keys() == {held.name, ".mine.tmp", "x.json"}
    write_atomically(tmp_path / "x.json", b"{}")
    assert contents(tmp_path)["x.json"] == b"{}"
