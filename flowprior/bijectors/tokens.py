"""How an event is read as a sequence of tokens."""

import math
from collections.abc import Sequence

from einops import rearrange
from torch import Tensor

from flowprior.checks import check_count
from flowprior.errors import InputError

_PATTERNS = {
    1: ("n (t p) -> n t p", ("p",)),
    2: ("n (t p) c -> n t (p c)", ("p",)),
    3: ("n c (h p) (w q) -> n (h w) (p q c)", ("p", "q")),
}


class Tokens:
    """The order in which a flow over tokens reads rows z (N, *event): `split` to (N, T, C), `join` back.

    A sequence (T, C) is read as it is, maps (C, h, w) position by position, row after row, and a vector (D,)
    number by number; `patch` neighbors, of maps patch x patch cells, are one token.

    Raises:
        InputError: if the event is none of these, the patch does not divide it, or there is only one token.

    >>> import torch
    >>> tokens = Tokens((3, 4, 6), patch=2)
    >>> tokens.split(torch.zeros(5, 3, 4, 6)).shape
    torch.Size([5, 6, 12])
    """

    def __init__(self, event_shape: Sequence[int], patch: int = 1) -> None:
        check_count("patch", patch)
        shape = tuple(event_shape)
        if len(shape) not in _PATTERNS:
            raise InputError(
                f"`features` (={shape}) must be a vector (D,), a sequence (T, C) or maps (C, h, w)."
            )
        self.pattern, names = _PATTERNS[len(shape)]
        sides = shape[1:] if len(shape) == 3 else shape[:1]
        if any(side % patch for side in sides):
            raise InputError(f"`patch` (={patch}) must divide the sides {sides} of `features` (={shape}).")
        self.count = math.prod(sides) // patch ** len(sides)
        self.width = math.prod(shape) // self.count
        if self.count < 2:
            raise InputError(
                f"`features` (={shape}) is a single token with `patch` (={patch}), and a flow over tokens "
                "needs two or more: take a smaller patch, or the recipe 'glf'."
            )
        self.sizes = dict.fromkeys(names, patch)
        if len(shape) == 3:
            self.sizes["w"] = sides[1] // patch

    def split(self, z: Tensor) -> Tensor:
        """(N, *event) -> (N, T, C)."""
        return rearrange(z, self.pattern, **self.sizes)

    def join(self, tokens: Tensor) -> Tensor:
        """(N, T, C) -> (N, *event)."""
        events, rows = self.pattern.split(" -> ")
        return rearrange(tokens, f"{rows} -> {events}", **self.sizes)
