"""What a run says: metrics.csv, TensorBoard, and a progress bar."""

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

from flowprior.errors import InputError, RunError


class MetricsLog(ExitStack):
    """`RUN/metrics.csv`, a line a value (step, name, value), and `RUN/tensorboard` with the same.

    Nothing in the CSV depends on the clock, so a resumed run writes the bytes of an uninterrupted one: it
    cuts off what was written after the `mark` that its checkpoint has, and continues at `step`. Without a
    `run` nothing is written.

    Args:
        mark: what `mark` gave when the checkpoint was written; empty at the start of a run.
        edited: continue although the file is no longer what it was at that mark.

    Raises:
        InputError: if it is not, and `edited` does not allow that.
        RunError: if the file system refuses; so does `write`.
    """

    def __init__(
        self, run: Path | None, mark: Mapping[str, Any], step: int, tensorboard: bool, edited: bool = False
    ) -> None:
        super().__init__()
        self._file: Any = None
        self._board: Any = None
        self._digest = sha256()
        if run is None:
            return
        path, keep = run / "metrics.csv", int(mark.get("log_bytes", 0))
        try:
            run.mkdir(parents=True, exist_ok=True)
            kept = path.read_bytes()[:keep] if keep and path.exists() else b""
            digest = sha256(kept).hexdigest()
            if not edited and digest != mark.get("log_sha256", digest):  # older checkpoints have none
                what = "changed" if path.exists() else "vanished"
                changed = f"{path} has {what} since the checkpoint was written"
                raise InputError(f"{changed}: put it back, or continue as it is with --allow-changed.")
            self._file = self.enter_context(path.open("r+b" if kept else "w+b"))
            self._file.truncate(len(kept))
            self._file.seek(0, 2)
            self._digest.update(kept)
            if not kept:
                self._put(b"step,name,value\n")
            if tensorboard:
                self._open_board(run, step)
        except OSError as error:
            refused = f"The logs in {run} cannot be written ({error.strerror})"
            raise RunError(f"{refused}: choose another folder.") from error

    def _open_board(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        try:
            board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)
            self._board = self.enter_context(board)
        except UnicodeEncodeError:
            log = logging.getLogger(__name__)
            log.warning("No TensorBoard logs in %s: the path is no UTF-8. metrics.csv has all.", run)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line a value."""
        if self._file is None:
            return
        try:
            self._put("".join(f"{step},{name},{value!r}\n" for name, value in values.items()).encode())
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise RunError(
                f"{self._file.name} could not be written ({error.strerror}): make room and continue with "
                "--resume; the last good checkpoint is untouched."
            ) from error

    def mark(self) -> dict[str, Any]:
        """How far it is written, on the disk by now, and the checksum of that: what a checkpoint notes."""
        os.fsync(self._file.fileno())
        return {"log_bytes": int(self._file.tell()), "log_sha256": self._digest.hexdigest()}

    def _put(self, text: bytes) -> None:
        self._file.write(text)
        self._file.flush()
        self._digest.update(text)


def progress_bar(description: str, total: int, initial: int, shown: bool) -> Any:
    """A tqdm bar with the time left; where stderr is no terminal, a line every ten seconds."""
    from tqdm import tqdm

    options = {"unit": "step", "dynamic_ncols": True, "mininterval": 0.2 if sys.stderr.isatty() else 10.0}
    return tqdm(desc=description, total=total, initial=initial, disable=not shown, **options)
