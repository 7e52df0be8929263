"""How a command meets its surroundings: streams that take any text, signals that end it in order."""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGHUP)  # what asks a process to end; Ctrl-C has ways of its own


def prepare_streams() -> None:
    """Make standard streams that are closed lead nowhere, and those that are open take every character.

    A closed stream's number would go to the next file that is opened, and whatever is written to the stream
    would end up in that file. What the terminal's encoding lacks is written as an escape such as \\u2192.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process)
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def asks_to_end() -> list[signal.Signals]:
    """Those of `ENDING` that this process heeds; what its parent has it ignore (nohup) stays ignored."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `SystemExit` (143, 129), so that locks and temporary files go.

    In other threads than the main one, signals are left alone.
    """
    received: list[int] = []

    def end(number: int, frame: Any) -> None:
        received.append(number)
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, end) for number in (asks_to_end() if main else ())}
    try:
        yield
        if received:  # the exception was lost, as it is within a destructor
            raise SystemExit(128 + received[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
