"""How a training ends when it is told to: after the step that it is in, with a checkpoint."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from flowprior.terminal import asks_to_end


@contextmanager
def told_to_stop(run: Path | None) -> Iterator[list[int]]:
    """Inside, the first SIGTERM, SIGHUP or Ctrl-C only enters the yielded list; a second Ctrl-C ends it.

    Without a run folder, and in other threads than the main one, signals are left alone.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    listen = run is not None and threading.current_thread() is threading.main_thread()
    numbers = (*asks_to_end(), signal.SIGINT) if listen else ()
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(received: Sequence[int]) -> NoReturn:
    """End as the first signal asks: KeyboardInterrupt for Ctrl-C, else the exit status of that signal.

    Another process of the run may have received it: then the list is empty, and it counts as SIGTERM.
    """
    first = received[0] if received else signal.SIGTERM
    if first == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + first)
