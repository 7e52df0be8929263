"""Tasks in this process or in several, which end with the one that started them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar

from flowprior.errors import RunError
from flowprior.terminal import ended_by_signals

Task = TypeVar("Task")
Result = TypeVar("Result")
GRACE = 5.0  # seconds that a worker has for a last checkpoint

_alone = threading.Event()  # in a worker: the process that started it has ended


def run_all(
    function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Generator[tuple[Task, Callable[[], Result]], None, None]:
    """Each task with a function that gives its result, or raises, as they end; close it to end them all.

    Workers hold one end of a pipe whose other end is here alone. However this process ends, killed or not,
    the kernel closes that; then a training takes its last step and writes a checkpoint, and after `GRACE`
    seconds the workers are gone.
    """
    if jobs == 1:
        for task in tasks:
            yield task, partial(function, task)
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    reader, writer = context.Pipe(duplex=False)
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_follow, initargs=(reader,)) as pool:
        try:
            futures = {pool.submit(_work, function, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future.result
        except BaseException:
            writer.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    writer.close()
    reader.close()


def _follow(reader: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once and without a traceback; the runs can be resumed
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _watch(reader: Connection) -> None:
    with suppress(EOFError, OSError):
        reader.recv()
    _alone.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def _work(function: Callable[[Task], Result], task: Task) -> Result:
    try:
        with ended_by_signals():
            return function(task)
    except SystemExit as ended:
        if _alone.is_set():
            os._exit(128 + signal.SIGTERM)
        raise RunError(f"ended by a signal (status {ended.code}): call the study again.") from None
