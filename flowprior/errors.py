"""The exceptions: one for bad input, one for a run that cannot go on."""


class InputError(ValueError):
    """Bad input, said in one sentence; the command line prints it and ends with status 2."""


class RunError(RuntimeError):
    """A run that cannot go on, said in one sentence, with status 1; the last good checkpoint stays."""


def clip(text: str, width: int = 300) -> str:
    """`text` on one line of at most `width` characters.

    >>> clip("one\\n  two three", 11)
    'one two ...'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 4].rstrip()} ..."


def shown(value: object, width: int = 120) -> str:
    """A value as a sentence shows it: on one line, not too long, and an object by its class.

    >>> shown([1, "a"]), shown("x" * 200, 12), shown(object())
    ("[1, 'a']", "'xxxxxxx ...", 'an object')
    """
    try:
        text = repr(value)
    except ValueError:  # an int of more than 4300 digits
        text = "a number of thousands of digits"
    if "\n" in text or (text.startswith("<") and text.endswith(">")):
        name = type(value).__name__
        return f"a{'n' * (name[0] in 'AEIOUaeiou')} {name}"
    return clip(text, width)


def reason(error: BaseException) -> str:
    """What an error of another library says, on one line and not too long."""
    return clip(str(error)).rstrip(".") or type(error).__name__
