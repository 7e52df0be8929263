"""What a run says: metrics.csv, TensorBoard, and a progress bar."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flowprior.errors import RunError


class MetricsLog(ExitStack):
    """`RUN/metrics.csv`, a line a value (step, name, value), and `RUN/tensorboard` with the same.

    Nothing in the CSV depends on the clock, so a resumed run writes the bytes of an uninterrupted one: it
    cuts off all but the first `keep` bytes, and continues at `step`. Without a `run` nothing is written.

    Raises:
        RunError: if the file system refuses; so does `write`.
    """

    def __init__(self, run: Path | None, keep: int, step: int, tensorboard: bool) -> None:
        super().__init__()
        self._file: Any = None
        self._board: Any = None
        if run is None:
            return
        try:
            run.mkdir(parents=True, exist_ok=True)
            path = run / "metrics.csv"
            self._file = self.enter_context(path.open("r+b" if keep and path.exists() else "w+b"))
            self._file.truncate(min(keep, path.stat().st_size))
            if not self._file.seek(0, 2):
                self._file.write(b"step,name,value\n")
                self._file.flush()
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)
                self._board = self.enter_context(board)
        except OSError as error:
            refused = f"The logs in {run} cannot be written ({error.strerror})"
            raise RunError(f"{refused}: choose another folder.") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line a value."""
        if self._file is None:
            return
        try:
            self._file.write("".join(f"{step},{name},{value!r}\n" for name, value in values.items()).encode())
            self._file.flush()
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise RunError(
                f"{self._file.name} could not be written ({error.strerror}): make room and continue with "
                "--resume; the last good checkpoint is untouched."
            ) from error

    def position(self) -> int:
        """Bytes written so far: what a checkpoint notes, and `keep` of a resumed run."""
        return 0 if self._file is None else int(self._file.tell())


def progress_bar(description: str, total: int, initial: int, shown: bool) -> Any:
    """A tqdm bar with the time left; where stderr is no terminal, a line every ten seconds."""
    from tqdm import tqdm

    options = {"unit": "step", "dynamic_ncols": True, "mininterval": 0.2 if sys.stderr.isatty() else 10.0}
    return tqdm(desc=description, total=total, initial=initial, disable=not shown, **options)
