"""The one exception that bad input raises."""


class InputError(ValueError):
    """Bad input, said in one sentence: the value got, what was expected, and the fix.

    It is a `ValueError`, so library users catch what they expect; the command line prints the sentence
    and ends with status 2.
    """
