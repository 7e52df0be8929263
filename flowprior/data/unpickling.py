"""Pickles of published sets, read without running what they name."""

import io
import pickle
from typing import Any


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain containers, strings, numbers, and NumPy's arrays and scalars; all else is refused."""

    ALLOWED = frozenset({
        ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
    })  # fmt: skip

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_plain(raw: bytes) -> Any:
    """What a pickle of plain values holds, one of Python 2 with its strings in Latin-1 too.

    A damaged one raises any exception, one that names anything but plain values an UnpicklingError.
    """
    return _PlainUnpickler(io.BytesIO(raw), encoding="latin1").load()
