"""What a run says: metrics.csv, TensorBoard, and a progress bar."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowprior.errors import RunError

HEADER = b"step,name,value\n"


class MetricsLog:
    """`RUN/metrics.csv`, a line a value (step, name, value), and `RUN/tensorboard` with the same.

    Nothing in the CSV depends on the clock, so that a resumed run writes the same bytes as an uninterrupted
    one.

    Args:
        run: the run folder, or None to write nothing.
        keep: bytes of an earlier metrics.csv to keep: what was written later is cut off.
        step: the step at which the log goes on.
        tensorboard: whether to write for TensorBoard as well.
    """

    def __init__(self, run: Path | None, keep: int = 0, step: int = 0, tensorboard: bool = True) -> None:
        self._file: Any = None
        self._board: Any = None
        if run is None:
            return
        try:
            run.mkdir(parents=True, exist_ok=True)
            path = run / "metrics.csv"
            self._file = path.open("r+b" if keep and path.exists() else "w+b")
            self._file.truncate(min(keep, path.stat().st_size))
            self._file.seek(0, 2)
            if not self._file.tell():
                self._file.write(HEADER)
                self._file.flush()
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)
        except OSError as error:
            raise RunError(
                f"The logs in {run} cannot be written ({error.strerror}): choose another folder."
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line a value.

        Raises:
            RunError: if the file system refuses.
        """
        if self._file is None:
            return
        try:
            lines = "".join(f"{step},{name},{value!r}\n" for name, value in values.items())
            self._file.write(lines.encode())
            self._file.flush()
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise RunError(
                f"{self._file.name} could not be written ({error.strerror}): make room and go on with "
                "resume; the last good checkpoint is untouched."
            ) from error

    def position(self) -> int:
        """Bytes written so far: what a checkpoint notes, and `keep` of a resumed run."""
        return 0 if self._file is None else int(self._file.tell())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def progress_bar(description: str, total: int, initial: int, shown: bool) -> Any:
    """A tqdm bar with the time left; where stderr is no terminal, a line every ten seconds."""
    from tqdm import tqdm

    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        disable=not shown,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
    )
