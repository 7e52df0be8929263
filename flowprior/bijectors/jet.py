"""Couplings over tokens with transformers for networks: they sample in one pass."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from flowprior.bijectors.attention import TokenFlow, TokenTransformer
from flowprior.bijectors.permutation import Permutation
from flowprior.bijectors.recipes import Recipe
from flowprior.bijectors.tokens import Tokens

SPATIAL_EVERY = 5  # four splits of the channels, then one of the tokens
_LOG_2 = math.log(2.0)


class JetCoupling(nn.Module):
    """z_b -> 2 sigmoid(s) (z_b + t), with s and t from z_a and the context by a transformer without mask.

    A split of channels: halves of the channels in the order of a fixed permutation, at every token. A split
    of tokens: every second one. `flipped` swaps the two parts.
    """

    def __init__(
        self,
        tokens: Tokens,
        context_shape: torch.Size | None,
        recipe: Recipe,
        *,
        seed: int,
        by_token: bool,
        flipped: bool,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.axis = 1 if by_token else 2
        size = tokens.count if by_token else tokens.width
        if by_token:
            order = [*range(0, size, 2), *range(1, size, 2)]
            self.step = Permutation(order)
        else:
            self.step = Permutation.random(size, seed)
        half = (size + 1) // 2
        self.widths, self.flipped = (half, size - half), flipped
        kept, changed = self.widths[::-1] if flipped else self.widths
        self.changed_tokens = changed if by_token else tokens.count
        self.network = TokenTransformer(
            tokens.width if by_token else kept,
            2 * (tokens.width if by_token else changed),
            max(self.widths) if by_token else tokens.count,
            len(recipe.hidden_features),
            context_shape,
            recipe,
            causal=False,
            recompute=recompute,
        )

    def forward(self, tokens: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        """tokens (N, T, C) -> the mapped (N, T, C), and log-scales of that direction (N, ...)."""
        order = self.step.permutation
        first, second = tokens.index_select(self.axis, order).split(self.widths, self.axis)
        kept, changed = (second, first) if self.flipped else (first, second)
        # of an odd number of tokens the smaller part is read behind one of zeros
        read = nn.functional.pad(kept, (0, 0, 0, max(0, self.changed_tokens - kept.shape[1])))
        outputs = self.network(read, context)[:, : self.changed_tokens]
        shift, scale = outputs.chunk(2, -1)
        log_scale = logsigmoid(scale) + _LOG_2
        if to_base:
            mapped = (changed + shift) * log_scale.exp()
        else:
            log_scale = -log_scale
            mapped = changed * log_scale.exp() - shift
        parts = (mapped, kept) if self.flipped else (kept, mapped)
        return torch.cat(parts, self.axis).index_select(self.axis, order.argsort()), log_scale


class Jet(TokenFlow):
    """Couplings over tokens (`JetCoupling`), of which the fifth of every five splits tokens, not channels.

    Both directions are one pass through each of the `transforms` couplings; every one sees the context. It
    starts as the identity. Tokens of one number are split by token alone.

    Args:
        event_shape: a vector, a sequence (T, C) or maps (C, h, w).
        recipe: of coupling "jet".
        context_features: (K,) for vectors, (S, K) for sequences, (K, H, W) for maps of context; None without.
        recompute: keep less for the backward pass (`TokenTransformer`).

    Raises:
        InputError: as `Tokens`, or if the widths do not fit.

    Reference: Kolesnikov et al., Jet: A Modern Transformer-Based Normalizing Flow (2024), section 3.
    """

    def __init__(
        self,
        event_shape: int | Sequence[int],
        recipe: Recipe,
        context_features: int | Sequence[int] | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__(event_shape, recipe, context_features)
        self.couplings = nn.ModuleList(
            JetCoupling(
                self.tokens,
                self.context_shape,
                recipe,
                seed=recipe.permutation_seed + index,
                by_token=self.tokens.width == 1 or (index + 1) % SPATIAL_EVERY == 0,
                flipped=(index + index // SPATIAL_EVERY) % 2 == 1,
                recompute=recompute,
            )
            for index in range(recipe.transforms)
        )

    def _to_base(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._either(z, context, True)

    def _from_base(self, z0: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._either(z0, context, False)

    def _either(self, value: Tensor, context: Tensor | None, to_base: bool) -> tuple[Tensor, Tensor]:
        tokens, total = self.tokens.split(value), value.new_zeros(len(value))
        for coupling in self.couplings if to_base else reversed(self.couplings):
            tokens, log_scale = coupling(tokens, context, to_base)
            total = total + log_scale.flatten(1).sum(1)
        return self.tokens.join(tokens), total
