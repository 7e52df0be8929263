"""A conditional prior that sees its context through a network of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowprior.errors import InputError
from flowprior.priors.invertible import InvertiblePrior
from flowprior.tensors import flat_rows, numel, without_autocast

ROWS = 512  # contexts at a time where no gradient is wanted


class EmbeddedPrior(InvertiblePrior):
    """p(z | c) = prior(z | embedding(c)): the embedding net is part of the prior and learns with it.

    For contexts that a flow cannot read as they are, such as images: a network makes of each the vector or
    the maps that `prior` is conditioned on, once a batch, for all its couplings.

    Args:
        prior: conditional and invertible, such as a `FlowPrior` with `context_features`.
        embedding: (N, *context_features) -> (N, C) or (N, K, H, W), the context of `prior`.
        context_features: of the contexts c: their width, or the shape (K, H, W) of maps or images.

    Raises:
        InputError: if `prior` is not invertible or not conditional, or `embedding` not a module; on use, if
            what it returns does not fit.

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
            raise InputError(
                f"`prior` (a {type(prior).__name__}) must be invertible and conditional: for instance a "
                "FlowPrior with `context_features`."
            )
        if not isinstance(embedding, nn.Module):
            raise InputError(
                f"`embedding` (a {type(embedding).__name__}) must be a torch module from contexts to what "
                "`prior` sees of them, such as nn.Linear."
            )
        super().__init__(prior.event_shape, context_features)
        self.prior, self.embedding = prior, embedding
        self.has_density, self.has_rsample = prior.has_density, prior.has_rsample
        self.to(prior.device, prior.dtype)

    @property
    def has_normal_base(self) -> bool:
        """Whether the z0 of `prior` is N(0, I)."""
        return self.prior.has_normal_base

    def arguments(self) -> dict[str, Any]:
        # The embedding is code, of which only the name is stored.
        return {
            "prior": self.prior,
            "embedding": type(self.embedding).__name__,
            "context_features": self.context_features,
        }

    def _draw(self, shape: torch.Size, context: Tensor | None) -> Tensor:
        return self.prior._draw(shape, self._seen(context))

    def _log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        return self.prior._log_prob(z, self._seen(context))

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.prior._to_base(z, self._seen(context))

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.prior._from_base(z0, self._seen(context))

    def _conditional_kl(self, q: Distribution, z: Tensor, context: Tensor | None) -> Tensor | None:
        return self.prior._conditional_kl(q, z, self._seen(context))

    def _initialize(self, latents: Tensor, context: Tensor | None, seed: int) -> None:
        seen = torch.cat([self._seen(rows) for rows in self._given(context).split(ROWS)])
        self.prior.initialize(latents, self.prior._as_given(seen), seed=seed)

    def _sample(self, n: int | Sequence[int], context: Tensor | None) -> Tensor:
        with without_autocast(self.device.type):  # once a context, not once a draw
            seen = self._seen(self._check_context(context))
        return self.prior._sample(n, self.prior._as_given(seen))

    def _seen(self, context: Tensor | None) -> Tensor:
        """What `prior` sees of contexts (*batch, C), flat: (*batch, C')."""
        rows, batch_shape = flat_rows(self._given(context), 1)
        seen = self.embedding(self._as_given(rows))
        wanted = self.prior.context_shape or torch.Size()
        if not isinstance(seen, Tensor) or seen.shape[1:] != wanted:
            found = tuple(seen.shape) if isinstance(seen, Tensor) else f"a {type(seen).__name__}"
            raise InputError(
                f"`embedding` returned {found} for {len(rows)} contexts but must return (N, "
                f"{', '.join(map(str, wanted))}), the `context_features` that `prior` was built with."
            )
        return seen.reshape(*batch_shape, numel(wanted))

    def _given(self, context: Tensor | None) -> Tensor:
        if context is None:  # to a hook: the public methods say so before
            raise InputError(
                "`context` is missing: an EmbeddedPrior is conditional, and so must be what holds it."
            )
        return context
