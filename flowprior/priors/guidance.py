"""Sampling controls of conditional priors: what dropped contexts are for, and a step of denoising."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowprior.checks import check_number
from flowprior.errors import InputError
from flowprior.tensors import numel

NO_LABEL = -1  # of a prior with `classes`: no context
CANDIDATES = 64  # draws of p(z | c) for each that is kept
ROWS = 64  # draws to keep at a time


def drop_context(context: Tensor, share: float) -> Tensor:
    """Context rows (N, ...), each replaced with probability `share` by no context: NaN, or `NO_LABEL`."""
    none = torch.nan if context.is_floating_point() else NO_LABEL
    dropped = torch.rand(len(context), device=context.device) < share
    return context.masked_fill(dropped.reshape(-1, *(1 for _ in context.shape[1:])), none)


def with_presence(context: Tensor) -> Tensor:
    """Context rows with one more feature (of maps, a channel; in a sequence, of every element): 1.

    It is 0, as all of the row, where the row is NaN and so no context.

    >>> with_presence(torch.tensor([[3.0, 0.0], [torch.nan, torch.nan]])).tolist()
    [[3.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    axis = 2 if context.dim() == 3 else 1
    absent = context.isnan().flatten(1).all(1).reshape(-1, *(1 for _ in context.shape[1:]))
    flag = torch.ones_like(context.narrow(axis, 0, 1))
    return torch.cat((context, flag), axis).masked_fill(absent, 0.0)


def without_presence(context: Tensor) -> Tensor:
    """What `with_presence` has added to."""
    axis = 2 if context.dim() == 3 else 1
    return context.narrow(axis, 0, context.shape[axis] - 1)


def shape_with_presence(shape: torch.Size) -> torch.Size:
    """The shape of one context as `with_presence` gives it."""
    return torch.Size((shape[0], shape[1] + 1)) if len(shape) == 2 else torch.Size((shape[0] + 1, *shape[1:]))


def draw_guided(
    prior: Any,
    count: int,
    context: Tensor,
    temperature: float,
    weight: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws (count, *event) of about p(z | c) (p(z | c) / p(z))^w, for rows c as the hooks see them.

    By sampling and resampling: of `CANDIDATES` draws from p(z | c) one is kept, with probability in
    proportion to (p(z | c) / p(z))^w. More candidates come closer. For classes the ratio is at most
    1 / p(c), so that a handful suffices; it gets poor where contexts are continuous and w is large.

    Sources: Ho & Salimans, Classifier-Free Diffusion Guidance (2022), for the density; Rubin (1988) for the
    resampling.
    """
    drawn = []
    for rows in context.split(ROWS):
        many = rows.repeat_interleave(CANDIDATES, 0)
        z = prior._drawn(len(many), many, temperature, generator)
        ratio = prior._log_prob(z, many) - prior._log_prob(z, torch.zeros_like(many))
        share = (weight * ratio.reshape(len(rows), CANDIDATES)).softmax(1)
        home = share.device if generator is None else generator.device
        kept = torch.multinomial(share.to(home), 1, generator=generator).flatten().to(share.device)
        drawn.append(z.reshape(len(rows), CANDIDATES, *z.shape[1:])[torch.arange(len(rows)), kept])
    return torch.cat(drawn) if drawn else prior._drawn(count, context, temperature, generator)


def denoise(prior: Any, z: Tensor, std: float, context: Tensor | None = None) -> Tensor:
    """z + σ² ∇ log p(z | c): the mean of a code behind its noisy copy, for a prior of the noisy ones.

    A prior that was trained on codes with noise N(0, σ²) added draws codes with that noise; this takes away
    what can be known of it (Tweedie's formula: exact where p is the density of the noisy codes).

    Args:
        prior: with a density.
        z: (*batch, *event).
        std: σ, of the noise that the prior was trained with.
        context: (*batch, *context_shape) if the prior is conditional.

    Raises:
        InputError: if `std` is negative, or as `Prior.log_prob`.

    Sources: Efron, Tweedie's Formula and Selection Bias (2011), Eq. 1.4; TarFlow, section 2.5.

    >>> from flowprior import StandardNormal
    >>> denoise(StandardNormal(2), torch.ones(1, 2), 0.5)
    tensor([[0.7500, 0.7500]])
    """
    check_number("std", std, least=0)
    with torch.enable_grad():
        noisy = z.detach().requires_grad_()
        (score,) = torch.autograd.grad(prior.log_prob(noisy, context).sum(), noisy)
    return z + std**2 * score


def check_guidance(prior: Any, guidance: float, context: Tensor | None) -> float:
    """`guidance`, a number of at least 0; InputError if the prior cannot follow one above it."""
    guidance = check_number("guidance", guidance, least=0)
    if guidance and not prior.context_dropout:
        raise InputError(
            f"`guidance` (={guidance:g}) needs a prior that knows z without its context: build it with "
            "FlowPrior(..., context_features=..., context_dropout=0.1) and train it."
        )
    if guidance and context is not None and numel(context.shape):
        absent = context.isnan() if context.is_floating_point() else context < 0
        if bool(absent.any()):
            raise InputError("`context` holds NaN or -1, which is no context: there is nothing to guide to.")
    return guidance
