"""The exceptions: one for bad input, one for a run that cannot go on."""


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
    """What an error of another library says, its first line."""
    return next(iter(str(error).strip().splitlines()), "").rstrip(".") or type(error).__name__
