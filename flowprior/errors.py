"""The exceptions: one for bad input, one for a run that cannot go on."""

from textwrap import shorten


class InputError(ValueError):
    """Bad input, said in one sentence; the command line prints it and ends with status 2."""


class RunError(RuntimeError):
    """A run that cannot go on, said in one sentence, with status 1; the last good checkpoint stays."""


def reason(error: BaseException) -> str:
    """What an error of another library says, on one line and not too long."""
    return shorten(str(error), 300, placeholder=" ...").rstrip(".") or type(error).__name__
