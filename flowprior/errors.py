"""The exceptions: one for bad input, one for a run that cannot go on."""

from textwrap import shorten


class InputError(ValueError):
    """Bad input, said in one sentence: the value got, what was expected, and the fix.

    It is a `ValueError`, so library users catch what they expect; the command line prints the sentence
    and ends with status 2.
    """


class RunError(RuntimeError):
    """A run that cannot go on, said in one sentence: a loss that is not finite, a full disk.

    The last good checkpoint stays. The command line prints the sentence and ends with status 1.
    """


def reason(error: BaseException) -> str:
    """What an error of another library says, on one line and not too long."""
    return shorten(str(error), 300, placeholder=" ...").rstrip(".") or type(error).__name__
