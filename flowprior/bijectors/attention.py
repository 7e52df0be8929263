"""The transformer that flows over tokens ask for their parameters."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from flowprior.bijectors.bijector import Bijector
from flowprior.bijectors.recipes import Recipe
from flowprior.bijectors.tokens import Tokens
from flowprior.errors import InputError

Cache = list[tuple[Tensor, Tensor]]  # of each layer, keys and values (N, heads, tokens, width of a head)


class Layer(nn.Module):
    """Attention, then a perceptron four times as wide, each on normalized inputs and added to them.

    Keys have no bias: softmax would not see it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self, h: Tensor, causal: bool, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """h (N, L, width) behind a past of keys and values -> h, and the keys and values of both."""
        projected = self.query_key_value(self.attention_norm(h))
        query, key, value = rearrange(projected, "n l (r g d) -> r n g l d", r=3, g=self.heads).unbind(0)
        mask = None
        if past is not None:
            before, length = past[0].shape[2], h.shape[1]
            key, value = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
            if length > 1:
                mask = torch.ones(length, before + length, dtype=torch.bool, device=h.device).tril(before)
        attended = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal and past is None
        )
        h = h + self.attention_out(rearrange(attended, "n g l d -> n l (g d)"))
        return h + self.perceptron(self.norm(h)), (key, value)


class TokenTransformer(nn.Module):
    """From tokens (N, L, C) and a context to the parameters of a flow, (N, L, outputs), zero at the start.

    Each token is projected and gets a learned position. A context vector is added to each of them; a sequence
    (S, K), or the positions of maps (K, H, W), stand before them. With `recipe.bfloat16` the network computes
    in bfloat16 (its parameters stay as they are) and the outputs are cast back.

    Args:
        width: C, of a token.
        outputs: for each token.
        length: the most tokens, the start token included.
        layers: how many.
        context_shape: (K,), (S, K), (K, H, W), or None.
        recipe: says the width and the heads of the layers.
        causal: an output sees the tokens up to its own; else all of them.
        recompute: keep the inputs of the layers alone for the backward pass, and compute them again.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        length: int,
        layers: int,
        context_shape: torch.Size | None,
        recipe: Recipe,
        *,
        causal: bool,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        hidden = width_of(recipe)
        heads = max(1, hidden // recipe.head_features)
        if hidden % heads:
            raise InputError(
                f"`hidden_features` (={recipe.hidden_features}) must be divisible by the {heads} heads that "
                f"`head_features` (={recipe.head_features}) gives: take a multiple of it."
            )
        self.causal, self.recompute, self.low_precision = causal, recompute, recipe.bfloat16
        self.embedding = nn.Linear(width, hidden)
        self.positions = nn.Parameter(0.02 * torch.randn(length, hidden))
        self.context_embedding: nn.Linear | None = None
        self.context_positions: nn.Parameter | None = None
        if context_shape is not None:
            self.context_embedding = nn.Linear(context_shape[-1 if len(context_shape) == 2 else 0], hidden)
            if len(context_shape) > 1:
                count = context_shape.numel() // self.context_embedding.in_features
                self.context_positions = nn.Parameter(0.02 * torch.randn(count, hidden))
        self.layers = nn.ModuleList([Layer(hidden, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, outputs)
        self.reset()

    def reset(self) -> None:
        """Outputs of zero."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, context: Tensor | None, start: bool = False) -> Tensor:
        """Parameters (N, L, outputs); with `start`, of a start token and the L - 1 given."""
        outputs, _ = self.advance(tokens, self.seen(context), None, 0, start=start)
        return outputs

    def seen(self, context: Tensor | None) -> Tensor | None:
        """The context (N, *context_shape) as `advance` takes it: (N, 1, hidden) or (N, S, hidden)."""
        if self.context_embedding is None or context is None:
            return None
        if context.dim() == 4:
            context = rearrange(context, "n k h w -> n (h w) k")
        embedded = self.context_embedding(context)
        if self.context_positions is None:
            return embedded.unsqueeze(1)
        return embedded + self.context_positions

    def advance(
        self, tokens: Tensor, seen: Tensor | None, past: Cache | None, position: int, start: bool = False
    ) -> tuple[Tensor, Cache]:
        """The parameters at tokens (N, L, C) that stand from `position` on behind a `past`.

        Returns:
            (N, L, outputs), one more with `start`, and the keys and values of each layer, these included.
        """
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.low_precision):
            h = self.embedding(tokens)
            if start:  # its embedding is its position
                h = nn.functional.pad(h, (0, 0, 1, 0))
            h = h + self.positions[position : position + h.shape[1]]
            count, prefix = h.shape[1], self.context_positions is not None
            if seen is not None and not prefix:
                h = h + seen
            elif seen is not None and past is None:
                h = torch.cat((seen.to(h.dtype), h), 1)
            cache: Cache = []
            for index, layer in enumerate(self.layers):
                if self.recompute and past is None and torch.is_grad_enabled():
                    h, kept = checkpoint(layer, h, self.causal, use_reentrant=False)
                else:
                    h, kept = layer(h, self.causal, None if past is None else past[index])
                cache.append(kept)
            outputs = self.head(self.norm(h[:, -count:]))
        return outputs.to(tokens.dtype), cache


class TokenFlow(Bijector):
    """What flows over tokens share: how an event becomes tokens (T, W), and networks that reset to zero.

    Args:
        event_shape, context_features: as for `Bijector`.
        recipe: whose `patch` the tokens are of.

    Raises:
        InputError: as `Tokens`.
    """

    tokens: Tokens

    def __init__(
        self,
        event_shape: int | Sequence[int],
        recipe: Recipe,
        context_features: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(event_shape, context_features)
        self.tokens = Tokens(self.event_shape, recipe.patch)

    def reset(self, *, started: bool = False) -> None:
        for module in self.modules():
            if isinstance(module, TokenTransformer):
                module.reset()


def width_of(recipe: Recipe) -> int:
    """The width of a transformer's layers, one and the same in all of them."""
    widths = recipe.hidden_features
    if len(set(widths)) != 1:
        raise InputError(
            f"`hidden_features` (={widths}) must hold a width for each layer of attention, all equal, e.g. "
            "(128, 128)."
        )
    return widths[0]
