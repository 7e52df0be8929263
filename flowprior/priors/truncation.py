"""Draws among the most probable, by rejection below a quantile of log p."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flowprior.errors import InputError

PILOT = 1024  # draws that the quantile of log p is estimated from
_TRIES = 10  # times the expected number of draws, after which the search is given up
_CHUNK = 2**22  # elements of the candidates that are held at a time


def truncated(
    prior: Any,
    count: int,
    rows: Tensor | None,
    share: float,
    temperature: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Draws (count, B, *event) among the `share` most probable, for context rows (B, ...); B = 1 without.

    The threshold of a row is the order statistic of log p that leaves `share` of `PILOT` draws above it.
    Given it, those draws are independent and follow p above it, as later ones do: none is wasted.

    Raises:
        InputError: if draws above the threshold are not found.
    """
    width = 1 if rows is None else len(rows)
    z = torch.empty(count, width, *prior.event_shape, device=prior.device, dtype=prior.dtype)
    together = max(1, _CHUNK // (PILOT * prior.event_shape.numel()))  # rows of the context at a time
    for start in range(0, width if count else 0, together):
        part = None if rows is None else rows[start : start + together]
        _fill(prior, z[:, start : start + together], part, share, temperature, generator)
    return z


def _fill(
    prior: Any,
    z: Tensor,
    rows: Tensor | None,
    share: float,
    temperature: float,
    generator: torch.Generator | None,
) -> None:
    """Fill z (count, B, *event), in place, with draws above the threshold of each of the B context rows."""
    count, width = z.shape[:2]
    most = max(1, _CHUNK // z[0].numel())
    limit = _TRIES * math.ceil(PILOT + count / share)
    filled = torch.zeros(width, dtype=torch.long, device=z.device)
    threshold, tried, tries = None, 0, PILOT
    while True:
        seen = None if rows is None else rows.repeat(tries, *(1 for _ in rows.shape[1:]))
        drawn = prior._drawn(tries * width, seen, temperature, generator)
        log_prob = prior._log_prob(drawn, seen).unflatten(0, (tries, width))
        if threshold is None:
            below = PILOT - math.ceil(share * PILOT)
            threshold = log_prob.kthvalue(below, 0).values if below else log_prob.new_tensor(-math.inf)
        above = log_prob > threshold
        place = filled + above.cumsum(0) - 1  # (tries, B): which of the count draws it becomes
        draw, row = (above & (place < count)).nonzero(as_tuple=True)
        z[place[draw, row], row] = drawn.unflatten(0, (tries, width))[draw, row]
        filled = (filled + above.sum(0)).clamp(max=count)
        tried, found = tried + tries, int(filled.min())
        if found == count:
            return
        if tried >= limit:
            raise InputError(
                f"`truncate` (={share:g}): of {tried} draws only {found} of the {count} wanted have log p "
                "above its quantile: it is constant or not finite, so leave `truncate` out or mend the prior."
            )
        tries = min(most, math.ceil((count - found) / share) + 16)
