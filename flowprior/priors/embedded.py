"""A conditional prior that sees its context through a network of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowprior.errors import InputError
from flowprior.priors.invertible import HeldPrior, InvertiblePrior

ROWS = 512  # contexts at a time where no gradient is wanted


class EmbeddedPrior(HeldPrior):
    """p(z | c) = prior(z | embedding(c)): the embedding net is part of the prior and learns with it.

    For contexts such as images: a network makes of each what `prior` is conditioned on, once a batch.

    Args:
        prior: conditional and invertible, such as a `FlowPrior` with `context_features`.
        embedding: (N, *context_features) -> (N, C) or (N, K, H, W), the context of `prior`.
        context_features: of the contexts c: their width, or the shape (K, H, W) of maps or images.

    Raises:
        InputError: if an argument is none of these; on use, if what `embedding` returns does not fit.

    Source: Morrow & Chiu, section 7, for images of poses; nflows and sbi call it `embedding_net`.

    >>> from flowprior import FlowPrior
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16))
    >>> prior = EmbeddedPrior(FlowPrior(4, transforms=2, context_features=16), net, (3, 8, 8))
    >>> prior(torch.rand(5, 3, 8, 8)).sample((2,)).shape
    torch.Size([2, 5, 4])
    """

    def __init__(
        self, prior: InvertiblePrior, embedding: nn.Module, context_features: int | Sequence[int]
    ) -> None:
        if not isinstance(prior, InvertiblePrior) or prior.context_features is None:
            name = type(prior).__name__
            raise InputError(
                f"`prior` (a {name}) must be invertible and conditional: a FlowPrior with `context_features`."
            )
        if not isinstance(embedding, nn.Module):
            name = type(embedding).__name__
            raise InputError(f"`embedding` (a {name}) must be a torch module on contexts, such as nn.Linear.")
        super().__init__(prior.event_shape, context_features)
        self.embedding = embedding
        self.hold(prior)
        self.context_dropout = 0.0  # a row of NaN would spoil the gradient of the network

    def arguments(self) -> dict[str, Any]:
        name = type(self.embedding).__name__  # it is code, of which only the name is stored
        return {"prior": self.prior, "embedding": name, "context_features": self.context_features}

    def _seen(self, context: Tensor) -> Tensor:
        # once a context, whatever the number of draws or terms that see it
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return self.prior._seen(self._embedded(context))
        return self.prior._seen(torch.cat([self._embedded(rows) for rows in context.split(ROWS)]))

    def _embedded(self, context: Tensor) -> Tensor:
        """The context of `prior` for contexts (N, *context_shape)."""
        seen = self.embedding(context)
        wanted = self.prior.context_shape or torch.Size()
        if not isinstance(seen, Tensor) or seen.shape[1:] != wanted:
            got = tuple(seen.shape) if isinstance(seen, Tensor) else f"a {type(seen).__name__}"
            raise InputError(
                f"`embedding` returned {got} for {len(context)} contexts but must return (N, "
                f"{', '.join(map(str, wanted))}), the `context_features` that `prior` was built with."
            )
        return seen
